"""Records: what one image-text pair is, what makes it the same pair, and why one is turned away.

A record's identity is its content (image bytes and native caption), never a position in a shard. Image bytes
are kept as they came.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from ddt.clean import KEY_CHARS, clean_text, one_line

REJECT_REASONS = (
    "corrupt_archive",  # a tar or Parquet file, or the part of it after a break, that cannot be read
    "missing_image",  # captions or metadata without an image
    "unsupported_format",  # an image, but not of a format in IMAGE_FORMATS
    "corrupt_image",  # bytes that do not decode to the end
    "too_small",  # a side shorter than the configured number of pixels
    "too_large",  # more pixels, or more bytes, than configured; never decoded
    "bad_record",  # members or columns that contradict each other, or text that can't be read
    "unread_caption",  # no loss: a sample kept without a caption, since its own is in no form that is known
    "not_downloaded",  # no loss: a row that says itself that its image could not be fetched
)

# Formats whose decoders are plain and bounded. Left out: those that run programs or other files (EPS, WMF).
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")

# Pillow itself refuses an image of more pixels than this, so that a larger limit could not be kept.
MAX_PIXELS_LIMIT = 2 * 89_478_485

RECORD_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("planted", pa.string()),
        pa.field("source", pa.string(), nullable=False),
    ]
)

REJECT_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("lost", pa.int64(), nullable=False),
        pa.field("planted", pa.string()),
    ]
)

ROWS_PER_BATCH = 256  # of a shard's file: a reader holds one batch of encoded images, not the shard


class Reject(Exception):
    """A sample, or a part of an archive, that is turned away: raised by checks, yielded by readers.

    `lost` is how many samples are lost with it: all that a part of an archive held, and none where only
    something about a sample is told. `key` says where in `source` it stands: a key, a row, a line.
    """

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
        self.source, self.key, self.planted = one_line(source, KEY_CHARS), one_line(key, KEY_CHARS), planted
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


_OTHER_FORMATS = (
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"8BPS", "PSD"),
    (b"%!PS", "EPS"),
    (b"%PDF", "PDF"),
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"<svg", "SVG"),
    (b"<?xml", "SVG"),
)


def _other_format(data: bytes) -> str:
    """The name of a known format outside IMAGE_FORMATS that the bytes begin like, or ''."""
    if data[4:8] == b"ftyp":
        return "AVIF or HEIC"
    return next((name for magic, name in _OTHER_FORMATS if data.startswith(magic)), "")


def check_image(data: bytes, max_pixels: int, min_side: int) -> tuple[int, int, str]:
    """(width, height, format) of an encoded image that decodes to its end; raises Reject.

    The size is taken from the header first: an image of more than `max_pixels` is never decoded.
    """
    if not 0 < max_pixels <= MAX_PIXELS_LIMIT:
        raise ValueError(f"max_pixels {max_pixels}: want 1 to {MAX_PIXELS_LIMIT}")
    if other := _other_format(data):
        raise Reject("unsupported_format", f"{other}; read are {', '.join(IMAGE_FORMATS)}")
    try:
        image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
    except Image.DecompressionBombError as error:
        raise Reject("too_large", f"more than {MAX_PIXELS_LIMIT} pixels") from error
    except Exception as error:  # decoders raise anything on hostile bytes: OSError, SyntaxError, struct.error
        raise Reject("corrupt_image", _one_line(error)) from error
    width, height = image.size
    if width * height > max_pixels:
        raise Reject("too_large", f"{width} x {height} pixels, at most {max_pixels}")
    if min(width, height) < min_side:
        raise Reject("too_small", f"{width} x {height} pixels, sides at least {min_side}")
    try:
        image.load()
    except Exception as error:  # as above
        raise Reject("corrupt_image", _one_line(error)) from error
    return width, height, str(image.format)


def _one_line(error: Exception) -> str:
    text = str(error).split(" <_io")[0]  # Pillow names the buffer's address, which differs in every run
    return " ".join(text.split()) or type(error).__name__


def write_shard(path: str | Path, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> int:
    """Writes rows as an uncompressed Arrow IPC file, a batch at a time; returns how many there were.

    The bytes depend on the rows and the schema alone: a shard's sha256 identifies its content.
    """
    count = 0
    batch: list[dict[str, Any]] = []
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for row in rows:
            batch.append(row)
            count += 1
            if len(batch) == ROWS_PER_BATCH:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
                batch = []
        if batch:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
    return count


def read_shard(path: str | Path, columns: list[str] | None = None) -> pa.Table:
    """A shard as a memory-mapped table: columns that are not touched are not read."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    return table.select(columns) if columns else table


def iter_shard(path: str | Path) -> Iterator[dict[str, Any]]:
    """A shard's rows one by one, in order."""
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    for index in range(reader.num_record_batches):
        yield from reader.get_batch(index).to_pylist()
