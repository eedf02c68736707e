"""What is written in a picture's file beside the picture: left away, but for the side that is up.

Cameras and web sites write EXIF, colour profiles and texts that a strict reader stumbles over, in pictures
that every viewer shows. A decoder that is given the picture alone has nothing to stumble over.
"""

from __future__ import annotations

import re
import struct

EXIF_HEADER = b"Exif\0\0"
ORIENTATION, SHORT = 0x0112, 3
BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}

# Of JPEG: a marker (0xFF before it is padding), the one before the compressed data, those without a length,
# and the segments that say nothing of the picture (APP1 to APP13, APP15 and comments; JFIF's APP0 and Adobe's
# APP14 say what the colours are).
MARKER = re.compile(rb"\xff[^\0\xff]")
SCAN, EXIF_SEGMENT = 0xDA, 0xE1
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
BESIDE = {*range(0xE1, 0xEE), 0xEF, 0xFE}
SHORTEST = {0xE0: 16, 0xEE: 14}  # of a JFIF and an Adobe segment, its length included; a cut one says nothing

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_PICTURE = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
PNG_EXIF = b"eXIf"


def bare_jpeg(data: bytes) -> tuple[bytes, bytes]:
    """The file without the segments beside the picture, and its EXIF (b'' where there is none).

    Junk between segments is left away as well. Where a segment can't be followed the rest stays as it is: the
    decoder judges it.
    """
    kept, exif, start = [data[:2]], b"", 2
    while found := MARKER.search(data, start):
        start, marker = found.start(), data[found.start() + 1]
        size = 0 if marker in WITHOUT_LENGTH else int.from_bytes(data[start + 2 : start + 4])
        end = start + 2 + size
        if marker == SCAN or end > len(data) or (size < 2 and marker not in WITHOUT_LENGTH):
            break
        if marker == EXIF_SEGMENT and not exif and data.startswith(EXIF_HEADER, start + 4):
            exif = data[start + 4 : end]
        if marker not in BESIDE and size >= SHORTEST.get(marker, 0):
            kept.append(data[start:end])
        start = end
    else:
        start = len(data)  # no data to decompress: what is left may be megabytes of nothing
    return b"".join((*kept, data[start:])), exif


def bare_png(data: bytes) -> tuple[bytes, bytes]:
    """The same for PNG. Of an animated one its still picture stays, which is the first frame of most."""
    kept, exif, start = [data[:8]], b"", 8
    while start + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + size
        if end > len(data):
            break
        if kind in PNG_PICTURE:
            kept.append(data[start:end])
        elif kind == PNG_EXIF and not exif:
            exif = data[start + 8 : end - 4]
        elif kind[:1].isupper() or not kind.isalpha():  # critical, or no chunk: the decoder judges it
            break
        start = end
    return b"".join((*kept, data[start:])), exif


def is_animated_png(data: bytes) -> bool:
    """Whether a PNG says before its pixels that it has several frames."""
    start = 8
    while start + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, start)
        if kind == b"acTL":
            return int.from_bytes(data[start + 8 : start + 12]) > 1
        if kind == b"IDAT":
            return False
        start += 12 + size
    return False


def orientation(exif: bytes) -> int:
    """EXIF's orientation, 1 to 8; 1 (as stored) where there is none that can be read.

    Read by hand: what else EXIF holds, and whether it is well formed, is of no importance.
    """
    while exif.startswith(EXIF_HEADER):
        exif = exif[len(EXIF_HEADER) :]
    order = BYTE_ORDERS.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(entries):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, start + 2 + 12 * entry)
            if (tag, kind) == (ORIENTATION, SHORT):
                return value if 1 <= value <= 8 else 1
    except struct.error:  # it ends earlier
        pass
    return 1
