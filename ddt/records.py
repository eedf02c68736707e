"""Records: what one image-text pair is, what makes it the same pair, and why one is turned away.

A record's identity is its content (image bytes and native caption), never a position in a shard. Image bytes
are kept as they came.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from ddt.clean import KEY_CHARS, clean_text, one_line

REJECT_REASONS = (
    "corrupt_archive",  # a tar or Parquet file, or the part of it after a break, that cannot be read
    "missing_image",  # captions or metadata without an image
    "unsupported_format",  # an image, but not of a format that ddt.data.decode reads
    "corrupt_image",  # bytes that do not decode to the end
    "too_small",  # a side shorter than the configured number of pixels
    "too_large",  # more pixels, or more bytes, than configured; never decoded
    "bad_record",  # members or columns that contradict each other, or text that can't be read
    "unread_caption",  # no loss: a sample kept without a caption, since its own is in no form that is known
    "not_downloaded",  # no loss: a row that says itself that its image could not be fetched
    "aspect_ratio",  # this one and those below: filters of `ingest.filters` on sound samples
    "animated",  # several frames
    "blank",  # hardly anything but one tone
    "grey",  # no colour
    "nsfw",  # by the score that its source gives it
    "watermark",  # likewise
)
FILTERED = REJECT_REASONS[REJECT_REASONS.index("aspect_ratio") :]

# Something asked about an image that needs no other question, and its answer.
QUESTION = pa.struct([pa.field(name, pa.string(), nullable=False) for name in ("question", "answer")])

RECORD_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("questions", pa.list_(QUESTION), nullable=False),
        pa.field("planted", pa.string()),
        pa.field("source", pa.string(), nullable=False),
    ]
)

# What web-scale sets tell of a picture beside its caption; null where a source does not.
FACTS = (
    pa.field("url", pa.string()),
    pa.field("nsfw", pa.float32()),  # 0 to 1
    pa.field("watermark", pa.float32()),  # 0 to 1
    pa.field("similarity", pa.float32()),  # of picture and caption, by the source's own CLIP
    pa.field("original_width", pa.int32()),
    pa.field("original_height", pa.int32()),
)
# Of records that come from files; drawn scenes have no such facts.
CRAWLED_SCHEMA = pa.schema([*RECORD_SCHEMA, *FACTS])

REJECT_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("lost", pa.int64(), nullable=False),
        pa.field("planted", pa.string()),
        pa.field("picture", pa.binary()),  # small, of some that a filter turned away
    ]
)

# Of a shard's file: its writer and its readers hold one batch of encoded images, not the shard.
ROWS_PER_BATCH = 256
BYTES_PER_BATCH = 64 << 20


class Reject(Exception):
    """A sample, or a part of an archive, that is turned away: raised by checks, yielded by readers.

    `lost` is how many samples are lost with it: all that a part of an archive held, and none where only
    something about a sample is told. `key` says where in `source` it stands: a key, a row, a line.
    `picture`: the encoded image of one that a filter turned away, as long as it is wanted.
    """

    picture: bytes | None = None

    def __init__(
        self,
        reason: str,
        detail: object = "",
        *,
        key: str = "",
        source: str = "",
        planted: str | None = None,
        lost: int = 1,
    ) -> None:
        assert reason in REJECT_REASONS, reason
        self.reason, self.detail, self.lost = reason, one_line(detail), lost
        super().__init__(f"{reason}: {self.detail}")
        self.place(source, key, planted)

    def place(self, source: str, key: str, planted: str | None = None) -> Reject:
        """Say where it stands and what was planted there; the reject itself."""
        self.source, self.key = one_line(source, KEY_CHARS), one_line(key, KEY_CHARS)
        self.planted = None if planted is None else clean_text(planted)
        return self

    def row(self) -> dict[str, Any]:
        """As a row of REJECT_SCHEMA."""
        return {name: getattr(self, name) for name in REJECT_SCHEMA.names}


def canonical_caption(caption: str) -> str:
    """The caption cleaned (`clean_text`), in one line: runs of white space as one space."""
    return " ".join(clean_text(caption).split())


def sample_id(image: bytes, caption: str) -> str:
    """Hex sha256 of the image's bytes and the canonical caption; the length first keeps the two apart."""
    digest = hashlib.sha256(len(image).to_bytes(8, "little"))
    digest.update(image)
    digest.update(canonical_caption(caption).encode())
    return digest.hexdigest()


def write_shard(path: str | Path, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> int:
    """Writes rows as an uncompressed Arrow IPC file, a batch at a time; returns how many there were.

    The bytes depend on the rows and the schema alone: a shard's sha256 identifies its content.
    """
    count = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in _batches(rows):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum(_bytes_in(value) for value in row.values())
        if len(batch) == ROWS_PER_BATCH or size >= BYTES_PER_BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _bytes_in(value: Any) -> int:
    """Of an encoded image, or of a list of them."""
    if isinstance(value, list):
        return sum(map(_bytes_in, value))
    return len(value) if isinstance(value, bytes) else 0


def read_shard(path: str | Path, columns: list[str] | None = None) -> pa.Table:
    """A shard as a memory-mapped table: columns that are not touched are not read."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    return table.select(columns) if columns else table


def column_names(file: BinaryIO) -> list[str]:
    """Of a shard."""
    with file:
        return pa.ipc.open_file(file).schema.names


def read_columns(file: BinaryIO, columns: list[str], rows: Iterable[int] | None = None) -> pa.Table:
    """Some columns of a shard, of some rows if told: the bytes of other columns are not read.

    rows: numbers, ascending. Batches behind the last of them are not read either.
    """
    with file:
        fields = [pa.ipc.open_file(file).schema.get_field_index(name) for name in columns]
        reader = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=fields))
        if rows is None:
            return reader.read_all().select(columns)
        wanted, first, found = list(rows), 0, [reader.schema.empty_table()]
        for index in range(reader.num_record_batches):
            if not wanted:
                break
            batch = reader.get_batch(index)
            here = pa.array([row - first for row in wanted if row < first + batch.num_rows], pa.int64())
            found.append(pa.Table.from_batches([batch]).take(here))
            wanted, first = wanted[len(here) :], first + batch.num_rows
        return pa.concat_tables(found).select(columns)


def iter_shard(path: str | Path) -> Iterator[dict[str, Any]]:
    """A shard's rows one by one, in order."""
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    for index in range(reader.num_record_batches):
        yield from reader.get_batch(index).to_pylist()
