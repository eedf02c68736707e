"""Finds source shards, and turns their samples into checked records."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from ddt.store import S3Store, StoreError, remembered_digest

KINDS = {".tar": "tar", ".parquet": "parquet", ".json": "json", ".jsonl": "json"}
ON_S3 = "s3://"
THREADS = 16
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
    """One source shard.

    place: a local path, or the URI of an object in S3. digest: what identifies the content. kind: of KINDS.
    version: of an object its ETag when it was listed, '' of a file.
    """

    place: str
    digest: str
    kind: str
    version: str = ""

    @property
    def name(self) -> str:
        """The file's or object's own name."""
        return self.place.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """The name of the folder that it is in."""
        return Path(self.place).parent.name

    def fetch(self) -> Path:
        """A local path, of an object a copy in the cache; StoreError where it has changed."""
        store, key = _split(self.place)
        return Path(self.place) if store is None else store.fetch(key, self.version)


def copy_here(place: str, version: str, folder: Path) -> Path:
    """A source shard to be read once: a file as it is, an object copied into `folder`. StoreError, naming the
    object, where it is not what was listed.
    """
    store, key = _split(place)
    if store is None:
        return Path(place)
    path = folder / key.rpartition("/")[2]
    store.download(key, path, version)
    return path


def _split(place: str) -> tuple[S3Store | None, str]:
    """The bucket as a store and the key in it; None of a file."""
    if not place.startswith(ON_S3):
        return None, place
    bucket, _, key = place.removeprefix(ON_S3).partition("/")
    return S3Store(f"{ON_S3}{bucket}"), key


def list_sources(where: str | Path, what: str = "source", suffixes: tuple[str, ...] = PAIRS) -> list[Source]:
    """All files with these suffixes that `find_files` finds, or below an s3:// prefix, sorted by name.

    Files with equal content count once. A Parquet file beside a tar of the same name that holds no pictures
    is the metadata that img2dataset leaves, and no source. Where a Parquet file names its pictures by path,
    their sizes and times are part of its digest. Objects are listed, not read: what identifies them is ETag
    and size. Raises ValueError, naming `what` (the key that holds `where`), where there is nothing to read.
    """
    where = str(where)
    if where.startswith(ON_S3):
        return _first_of_each(_s3_sources(where, what, suffixes))
    return _first_of_each(_file_sources(find_files(where, what, suffixes), suffixes))


def _first_of_each(sources: Iterable[Source]) -> list[Source]:
    by_digest: dict[str, Source] = {}
    for source in sources:
        by_digest.setdefault(source.digest, source)
    return list(by_digest.values())


def _file_sources(paths: Sequence[Path], suffixes: tuple[str, ...]) -> Iterator[Source]:
    found = set(paths)
    for path in paths:
        kind = KINDS[path.suffix.lower()]
        if kind == "parquet" and _tar_of(path) in found and not holds_pictures(path):
            continue
        digest = remembered_digest(path)
        if kind == "parquet":
            digest += pictures_digest(path, EDIT_IMAGES if suffixes == EDITS else (IMAGE,))
        yield Source(str(path), digest, kind)


def _tar_of(parquet: Path) -> Path:
    """The tar that img2dataset writes beside a Parquet file of metadata."""
    return parquet.with_suffix(".tar")


def _s3_sources(where: str, what: str, suffixes: tuple[str, ...]) -> Iterator[Source]:
    """Objects below a prefix. Of those that may be a tar's metadata the footers are read, a few at a time."""
    store, prefix = _split(where)
    assert store is not None
    try:
        every = {Path(entry.key): entry for entry in store.entries(prefix)}
    except StoreError as error:
        raise ValueError(f"{what}: {error}") from error
    seen = [key for key in every if not any(map(is_hidden, key.relative_to(Path(prefix).parent).parts))]
    for key in seen:
        if is_compressed(key, suffixes):
            raise ValueError(f"{what}: {store.uri(key.as_posix())} is compressed; expected it unpacked")
    keys = [key for key in seen if key.suffix.lower() in suffixes]
    if not keys:
        raise ValueError(f"{what}: no {' or '.join(suffixes)} object under {where}")
    beside = [key for key in keys if KINDS[key.suffix.lower()] == "parquet" and _tar_of(key) in every]
    with ThreadPoolExecutor(THREADS) as pool:
        has_pictures = pool.map(lambda key: holds_pictures(store.open(key.as_posix())), beside)
        metadata = {key for key, has in zip(beside, has_pictures, strict=True) if not has}
    for key in keys:
        entry = every[key]
        if key not in metadata:
            digest = hashlib.sha256(f"{entry.version}\n{entry.bytes}".encode()).hexdigest()
            yield Source(store.uri(entry.key), digest, KINDS[key.suffix.lower()], entry.version)


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
