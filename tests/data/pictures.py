"""Encoded pictures for tests: of any kind that an encoder makes, and PNG and EXIF written byte by byte."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

TURN = (0x0112, 3, 1, struct.pack("<H", 6))  # EXIF's entry that says: turn by 90 degrees to see it upright


def noise(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int,
    height: int,
    depth: int,
    color: int,
    rows: Sequence[bytes],
    before: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """A PNG of unfiltered `rows`, with chunks (kind, body) `before` its data."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [(b"IHDR", header), *before, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in chunks)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", body) + b"\0\0\1\0IDAT"


def exif(*entries: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """TIFF as EXIF holds it: entries (tag, type, count, value), values of more than 4 bytes behind them."""
    body, extra, base = struct.pack(f"{order}H", len(entries)), b"", 8 + 2 + 12 * len(entries) + 4
    for tag, kind, count, value in entries:
        if len(value) > 4:
            value, extra = struct.pack(f"{order}I", base + len(extra)), extra + value
        body += struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0")
    magic = {"<": b"II*\0", ">": b"MM\0*"}[order]
    return magic + struct.pack(f"{order}I", 8) + body + bytes(4) + extra


def segment(marker: int, body: bytes) -> bytes:
    """A segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """The JPEG with `segments` behind its first two bytes."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]
