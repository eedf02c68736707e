"""Finds source shards, and turns their samples into checked records."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from ddt.clean import one_line
from ddt.data.decode import check_image
from ddt.data.filters import Filters, check_filters
from ddt.data.readers.columns import pictures_digest
from ddt.data.readers.edits import EDIT_IMAGES
from ddt.data.readers.facts import facts_of
from ddt.data.readers.files import find_files, is_compressed, is_hidden
from ddt.data.readers.parquet import IMAGE, holds_pictures, read_parquet
from ddt.data.readers.sample import RawSample
from ddt.data.readers.tar import read_tar
from ddt.records import FILTERED, Reject, canonical_caption, sample_id
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
    """One source shard: a local path (of S3 objects, a cached copy), its content's digest, one of KINDS, and
    the name of the folder that it is in.
    """

    path: Path
    digest: str
    kind: str
    folder: str


def list_sources(where: str | Path, what: str = "source", suffixes: tuple[str, ...] = PAIRS) -> list[Source]:
    """All files with these suffixes that `find_files` finds, or below an s3:// prefix, sorted by name.

    Files with equal content count once. A Parquet file beside a tar of the same name that holds no pictures
    is the metadata that img2dataset leaves, and no source. Where a Parquet file names its pictures by path,
    their sizes and times are part of its digest. Raises ValueError, naming `what` (the key that holds
    `where`), where there is nothing to read.
    """
    where = str(where)
    on_s3 = where.startswith("s3://")
    found = _s3_files(where, what, suffixes) if on_s3 else {p: p for p in find_files(where, what, suffixes)}
    by_digest: dict[str, Source] = {}
    for name, path in found.items():
        kind = KINDS[path.suffix.lower()]
        if kind == "parquet" and _tar_of(name) in found and not holds_pictures(path):
            continue
        digest = remembered_digest(path)
        if kind == "parquet":
            digest += pictures_digest(path, EDIT_IMAGES if suffixes == EDITS else (IMAGE,))
        by_digest.setdefault(digest, Source(path, digest, kind, name.parent.name))
    return list(by_digest.values())


def _tar_of(parquet: Path) -> Path:
    """The tar that img2dataset writes beside a Parquet file of metadata."""
    return parquet.with_suffix(".tar")


def _s3_files(where: str, what: str, suffixes: tuple[str, ...]) -> dict[Path, Path]:
    """Objects below a prefix, as the path of each key and the local copy of it."""
    bucket, _, prefix = where.removeprefix("s3://").partition("/")
    store = open_store(f"s3://{bucket}")
    try:
        every = [Path(key) for key in store.list(prefix)]
    except StoreError as error:
        raise ValueError(f"{what}: {error}") from error
    seen = [key for key in every if not any(map(is_hidden, key.relative_to(Path(prefix).parent).parts))]
    for key in seen:
        if is_compressed(key, suffixes):
            raise ValueError(f"{what}: s3://{bucket}/{key} is compressed; expected it unpacked")
    keys = [key for key in seen if key.suffix.lower() in suffixes]
    if not keys:
        raise ValueError(f"{what}: no {' or '.join(suffixes)} object under {where}")
    return {key: store.fetch(key.as_posix()) for key in keys}


def read_source(
    path: str | Path,
    name: str,
    config: SourceConfig,
    captions: bool = True,
    filters: Filters | None = None,
) -> Iterator[dict[str, Any] | Reject]:
    """Checked rows of CRAWLED_SCHEMA, and Rejects that carry `name` as their source, in the file's order.

    Without `captions` a file may have pictures alone. filters: which sound pictures are turned away.
    """
    path = Path(path)
    if KINDS[path.suffix.lower()] == "parquet":
        samples = read_parquet(path, config.image_column, config.caption_column, captions)
    else:
        samples = read_tar(path)
    return check_samples(samples, name, config, filters)


def check_samples(
    samples: Iterable[RawSample | Reject], name: str, config: SourceConfig, filters: Filters | None = None
) -> Iterator[dict[str, Any] | Reject]:
    """Each sample of source `name` as a row of CRAWLED_SCHEMA, or the Reject that says why not."""
    for sample in samples:
        if isinstance(sample, Reject):
            yield sample.place(name, sample.key, sample.planted)
            continue
        try:
            yield to_record(sample, name, config, filters)
        except Reject as reject:
            if reject.reason in FILTERED:
                reject.picture = sample.image
            yield reject.place(name, sample.key, sample.planted)
            continue
        if sample.doubt:
            yield Reject(
                "unread_caption", sample.doubt, key=sample.key, source=name, planted=sample.planted, lost=0
            )


def to_record(
    sample: RawSample, source: str, config: SourceConfig, filters: Filters | None = None
) -> dict[str, Any]:
    """A row of CRAWLED_SCHEMA; raises Reject where the image does not pass.

    A pair without a caption stays: recaptioning can give it one, and `select` judges captions.
    """
    checked = check_image(sample.image, config.max_pixels, config.min_side_px)
    facts = facts_of(sample.meta)
    if filters is not None:
        check_filters(sample.image, checked, facts, filters)
    caption = canonical_caption(sample.caption)
    return {
        "sample_id": sample_id(sample.image, caption),
        "image": sample.image,
        "caption": caption,
        "width": checked.width,
        "height": checked.height,
        "format": checked.format,
        "questions": sample.questions,
        "planted": sample.planted,
        "source": one_line(f"{source}/{sample.key}"),
        **facts,
    }
