"""Finds source shards, and turns their samples into checked records."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from ddt.clean import one_line
from ddt.data.decode import check_image
from ddt.data.readers.parquet import read_parquet
from ddt.data.readers.sample import RawSample
from ddt.data.readers.tar import read_tar
from ddt.records import Reject, canonical_caption, sample_id
from ddt.store import StoreError, open_store, remembered_digest

KINDS = {".tar": "tar", ".parquet": "parquet", ".json": "json", ".jsonl": "json"}
PAIRS, EDITS, CONVERSATIONS = (".tar", ".parquet"), (".parquet",), (".json", ".jsonl")


class SourceConfig(Protocol):
    """The parameters reading depends on. Columns are Parquet's; None: found by name and type."""

    @property
    def image_column(self) -> str | None: ...
    @property
    def caption_column(self) -> str | None: ...
    @property
    def min_side_px(self) -> int: ...
    @property
    def max_pixels(self) -> int: ...


@dataclasses.dataclass(frozen=True)
class Source:
    """One source shard: a local path (of S3 objects, a cached copy), its content's digest, one of KINDS."""

    path: Path
    digest: str
    kind: str


def list_sources(where: str | Path, what: str = "source", suffixes: tuple[str, ...] = PAIRS) -> list[Source]:
    """All files with these suffixes of a folder (recursively), a single file, a glob or an s3:// prefix.

    Sorted by name; files with equal content count once. Raises ValueError, naming `what` (the key that
    holds `where`), where there is nothing to read.
    """
    find = _s3_paths if str(where).startswith("s3://") else _local_paths
    paths = find(str(where), what, suffixes)
    by_digest: dict[str, Source] = {}
    for path in paths:
        digest = remembered_digest(path)
        by_digest.setdefault(digest, Source(path, digest, KINDS[path.suffix]))
    return list(by_digest.values())


def _local_paths(where: str, what: str, suffixes: tuple[str, ...]) -> list[Path]:
    place = Path(where).expanduser()
    if any(c in where for c in "*?["):
        found: Iterable[Path] = Path(place.anchor or ".").glob(place.relative_to(place.anchor).as_posix())
    elif place.is_dir():
        found = place.rglob("*")
    elif place.is_file():
        found = [place]
    else:
        raise ValueError(f"{what}: {where} does not exist")
    paths = sorted(p for p in found if p.suffix in suffixes and p.is_file() and not p.name.startswith("."))
    if not paths:
        raise ValueError(f"{what}: no {' or '.join(suffixes)} file in {where}")
    return paths


def _s3_paths(where: str, what: str, suffixes: tuple[str, ...]) -> list[Path]:
    bucket, _, prefix = where.removeprefix("s3://").partition("/")
    store = open_store(f"s3://{bucket}")
    try:
        keys = [key for key in store.list(prefix) if Path(key).suffix in suffixes]
    except StoreError as error:
        raise ValueError(f"{what}: {error}") from error
    if not keys:
        raise ValueError(f"{what}: no {' or '.join(suffixes)} object under {where}")
    return [store.fetch(key) for key in keys]


def read_source(path: str | Path, name: str, config: SourceConfig) -> Iterator[dict[str, Any] | Reject]:
    """Checked rows of RECORD_SCHEMA, and Rejects that carry `name` as their source, in the file's order."""
    path = Path(path)
    if path.suffix == ".parquet":
        samples = read_parquet(path, config.image_column, config.caption_column)
    else:
        samples = read_tar(path)
    return check_samples(samples, name, config)


def check_samples(
    samples: Iterable[RawSample | Reject], name: str, config: SourceConfig
) -> Iterator[dict[str, Any] | Reject]:
    """Each sample of source `name` as a row of RECORD_SCHEMA, or the Reject that says why not."""
    for sample in samples:
        if isinstance(sample, Reject):
            yield sample.place(name, sample.key, sample.planted)
            continue
        try:
            yield to_record(sample, name, config)
        except Reject as reject:
            yield reject.place(name, sample.key, sample.planted)
            continue
        if sample.doubt:
            yield Reject(
                "unread_caption", sample.doubt, key=sample.key, source=name, planted=sample.planted, lost=0
            )


def to_record(sample: RawSample, source: str, config: SourceConfig) -> dict[str, Any]:
    """A row of RECORD_SCHEMA; raises Reject where the image does not pass.

    A pair without a caption stays: recaptioning can give it one, and `select` judges captions.
    """
    width, height, image_format = check_image(sample.image, config.max_pixels, config.min_side_px)
    caption = canonical_caption(sample.caption)
    return {
        "sample_id": sample_id(sample.image, caption),
        "image": sample.image,
        "caption": caption,
        "width": width,
        "height": height,
        "format": image_format,
        "questions": sample.questions,
        "planted": sample.planted,
        "source": one_line(f"{source}/{sample.key}"),
    }
