"""Files that public bug reports tell of: each is the picture that viewers show, or refused with a reason."""

import base64
import gzip
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ddt.data.decode import check_image, decode_image, decode_rgb
from ddt.records import Reject
from tests.data.pictures import chunk, encode, exif, noise, png, segment, with_segments

BLOCKS = Image.fromarray(np.kron(np.asarray(noise(8, 8)), np.ones((8, 8, 1))).astype(np.uint8))
WHITE = Image.new("RGB", (9, 9), "white")
CLEAR = Image.new("RGBA", (9, 9), (9, 9, 9, 0))
SEVENS = Image.new("RGB", (2, 1), (7, 7, 7))
ONE_TWO = Image.fromarray(np.array([[1, 2]], np.uint8)).convert("RGB")
FEW_COLORS = BLOCKS.quantize(64).convert("RGB")

JPEG = encode(BLOCKS, "JPEG", quality=95, subsampling=0)
AS_JPEG = decode_rgb(JPEG)
PNG = encode(BLOCKS)
HEADER, AFTER = PNG[:33], PNG[33:]  # the signature and IHDR, and what follows them
DATA = zlib.compress(b"".join(b"\0" + row.tobytes() for row in np.asarray(BLOCKS)))
END = chunk(b"IEND", b"")
WEBP = encode(BLOCKS, "WEBP", lossless=True)
GIF = encode(BLOCKS.quantize(64), "GIF")
BMP = encode(BLOCKS, "BMP")


def bmp(offset: int, value: int) -> bytes:
    """The BMP with a 32-bit field of its header changed."""
    return BMP[:offset] + struct.pack("<i", value) + BMP[offset + 4 :]


def raw_png(data: bytes, interlaced: int = 0) -> bytes:
    """A PNG of two grey pixels with this compressed data."""
    header = struct.pack(">IIBBBBB", 2, 1, 8, 0, 0, 0, interlaced)
    return PNG[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", data) + END


READ = {
    "JPEG with junk between segments": (with_segments(JPEG, segment(0xFE, b"x"), b"\0\0junk\0"), AS_JPEG),
    "JPEG with padded markers": (with_segments(JPEG, b"\xff\xff\xff"), AS_JPEG),
    "JPEG without JFIF": (JPEG[:2] + JPEG[20:], AS_JPEG),
    "JPEG twice": (JPEG + JPEG, AS_JPEG),
    "JPEG with a profile in ten segments": (
        encode(BLOCKS, "JPEG", quality=95, subsampling=0, icc_profile=bytes(600_000)), AS_JPEG,
    ),
    "JPEG with a profile that lacks a segment": (
        with_segments(JPEG, segment(0xE2, b"ICC_PROFILE\0\2\3" + bytes(99))), AS_JPEG,
    ),
    "JPEG with an Ultra HDR gain map": (
        with_segments(JPEG, segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x hdrgm:Version="1.0"/>')) + JPEG,
        AS_JPEG,
    ),
    "PNG without its end": (PNG[:-12], BLOCKS),
    "PNG in chunks of one byte": (
        HEADER + b"".join(chunk(b"IDAT", DATA[i : i + 1]) for i in range(len(DATA))) + END, BLOCKS,
    ),
    "PNG with empty chunks": (HEADER + chunk(b"IDAT", b"") * 3 + AFTER, BLOCKS),
    "PNG with text within its data": (
        HEADER + chunk(b"IDAT", DATA[:40]) + chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", DATA[40:]) + END,
        BLOCKS,
    ),
    "PNG with a wrong checksum of its data": (PNG[:-13] + b"\0" + PNG[-12:], BLOCKS),
    "PNG with a suggested palette": (HEADER + chunk(b"PLTE", bytes(30)) + AFTER, BLOCKS),
    "PNG with a chunk nobody knows": (HEADER + chunk(b"vpAg", bytes(9)) + AFTER, BLOCKS),
    "PNG with more rows than it says": (
        png(2, 1, 8, 0, [b"\1\2"] * 9), ONE_TWO,
    ),
    "PNG with fewer rows than it says": (
        png(1, 2, 8, 0, [b"\7"]), decode_rgb(png(1, 2, 8, 0, [b"\7", b"\0"])),
    ),
    "interlaced PNG": (
        raw_png(zlib.compress(b"\0\1\0\2"), interlaced=1),
        ONE_TWO,
    ),
    "PNG with more alphas than colours": (
        png(2, 1, 8, 3, [b"\1\0"], [(b"PLTE", b"\7" * 6), (b"tRNS", b"\xff" * 9)]),
        SEVENS,
    ),
    "PNG with no alphas": (
        png(2, 1, 8, 3, [b"\1\0"], [(b"PLTE", b"\7" * 6), (b"tRNS", b"")]), SEVENS,
    ),
    "transparent WebP": (encode(CLEAR, "WEBP", lossless=True), WHITE),
    "animated WebP that begins transparent": (
        encode(CLEAR, "WEBP", lossless=True, save_all=True, append_images=[BLOCKS.resize((9, 9))]),
        WHITE,
    ),
    "GIF without its end": (GIF[:-1], FEW_COLORS),
    "BMP from the top down": (bmp(22, -64), BLOCKS.transpose(Image.Transpose.FLIP_TOP_BOTTOM)),
    "BMP of 32 bits": (encode(BLOCKS.convert("RGBA"), "BMP"), BLOCKS),
    "BMP of 1 bit": (encode(BLOCKS.convert("1"), "BMP"), BLOCKS.convert("1").convert("RGB")),
}  # fmt: skip


@pytest.mark.parametrize(("data", "picture"), READ.values(), ids=READ)
def test_read(data, picture):
    assert check_image(data, 10**6, 1)[:2] == picture.size
    assert np.array_equal(decode_rgb(data), picture)
    assert np.array_equal(decode_image(data, picture.height), decode_image(encode(picture), picture.height))


def test_a_jpeg_of_rgb_without_conversion_keeps_its_colours():
    """Adobe's segment alone says so: it is not left away with those beside the picture."""
    got = np.asarray(decode_rgb(encode(BLOCKS, "JPEG", keep_rgb=True, quality=100))).astype(int)
    assert np.abs(got - np.asarray(BLOCKS)).max() <= 3


CORRUPT = {
    "JPEG behind a line feed": b"\n" + JPEG,
    "JPEG behind a byte order mark": b"\xef\xbb\xbf" + JPEG,
    "JPEG in base64": base64.b64encode(JPEG),
    "JPEG in gzip": gzip.compress(JPEG),
    "JPEG without its end mark": JPEG[:-2],
    "JPEG with nothing but junk": JPEG[:3] + bytes(1000),
    "JPEG with its second half zeroed": JPEG[:300] + bytes(len(JPEG) - 300),
    "JPEG whose size a later segment tells": b"\xff\xd8"
    + segment(0xC0, struct.pack(">BHHB", 8, 0, 20, 1) + b"\1\x11\0")
    + segment(0xDA, b"\1\1\0\0\x3f\0"),
    "PNG without data": HEADER + END,
    "PNG with its second half zeroed": PNG[: len(PNG) // 2] + bytes(len(PNG) // 2),
    "PNG with a wrong sum in its data": HEADER + chunk(b"IDAT", DATA[:-1] + b"\0") + END,
    "PNG with an unknown filter": raw_png(zlib.compress(b"\x09\1\2")),
    "PNG with a chunk longer than the file": HEADER + b"\xff\xff\xff\xfftEXt" + AFTER,
    "PNG of no pixel": PNG[:8] + chunk(b"IHDR", bytes(8) + b"\x08\2\0\0\0") + AFTER,
    "PNG of 5 bits": PNG[:8] + chunk(b"IHDR", HEADER[16:24] + b"\5\2\0\0\0") + AFTER,
    "WebP whose length is too small": WEBP[:4] + struct.pack("<I", 20) + WEBP[8:],
    "WebP whose length is too large": WEBP[:4] + struct.pack("<I", len(WEBP) + 999) + WEBP[8:],
    "sound that begins like WebP": b"RIFF\0\0\0\0WAVE" + bytes(50),
    "GIF of no pixel": b"GIF89a" + bytes(7) + b"," + bytes(9) + b"\2\2\x44\1\0;",
    "GIF without a picture": b"GIF89a\4\0\4\0\0\0\0;",
    "BMP of no row": bmp(22, 0),
    "BMP whose pixels lie outside": bmp(10, 10**8),
    "a page in UTF-16": "<html>".encode("utf-16"),
    "an archive": b"PK\3\4" + bytes(50),
}


@pytest.mark.parametrize("data", CORRUPT.values(), ids=CORRUPT)
def test_corrupt(data):
    with pytest.raises(Reject) as caught:
        check_image(data, 10**6, 1)
    assert caught.value.reason == "corrupt_image"
    for side_px in (1, 64):
        with pytest.raises(ValueError):
            decode_image(data, side_px)


@pytest.mark.parametrize("kind", ["TIFF", "ICO", "PPM", "JPEG2000", "AVIF", "QOI", "DDS", "ICNS"])
def test_pictures_of_other_formats_are_told_apart_from_corrupt_ones(kind):
    try:
        data = encode(BLOCKS.convert("RGBA") if kind == "DDS" else BLOCKS, kind)
    except (KeyError, OSError):
        pytest.skip(f"Pillow was built without {kind}")
    with pytest.raises(Reject) as caught:
        check_image(data, 10**6, 1)
    assert caught.value.reason == "unsupported_format"


def test_exif_in_a_file_of_junk_is_no_picture():
    with pytest.raises(Reject):
        check_image(b"\xff\xd8" + segment(0xE1, b"Exif\0\0" + exif()), 10**6, 1)
