"""What is beside a picture in its file: orientation is found in any EXIF, nothing else matters."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ddt.data.decode import decode_rgb
from ddt.data.metadata import bare_jpeg, bare_png, orientation
from tests.data.pictures import TURN, chunk, encode, exif, noise, png, segment, with_segments

MALFORMED = {
    "text in a number": exif(TURN, (0x0100, 2, 5, b"wide\0")),
    "bytes in a rational": exif(TURN, (0x011A, 7, 3, b"72\0")),
    "negative rational": exif(TURN, (0x011A, 10, 1, struct.pack("<ii", -72, 1))),
    "resolution of no number": exif(TURN, (0x011A, 5, 0, b"")),
    "resolution over zero": exif(TURN, (0x011A, 5, 1, bytes(8)), (0x0128, 3, 1, b"\2\0")),
    "unknown type": exif(TURN, (0x9C9B, 99, 7, b"?" * 7)),
    "value outside": exif((0x010F, 2, 9, struct.pack("<I", 60_000)), TURN),
    "2 GB of maker": exif((0x010F, 2, 1 << 31, struct.pack("<I", 8)), TURN),
    "pointer to itself": exif(TURN, (0x8769, 4, 1, struct.pack("<I", 8))),
    "cut behind the tag": exif(TURN, (0x0132, 2, 20, b"2024:01:01 00:00:00\0"))[:24],
    "more entries than there are": exif(TURN).replace(b"\1\0\x12\1", b"\xff\xff\x12\1", 1),
}
UNKNOWN = {
    "nothing": b"",
    "not EXIF": b"II*",
    "offset outside": b"II*\0" + struct.pack("<I", 1 << 31),
    "no entry": exif(),
    "cut in the tag": exif(TURN)[:16],
    "orientation 0": exif((0x0112, 3, 1, b"\0\0")),
    "orientation 9": exif((0x0112, 3, 1, b"\x09\0")),
    "orientation as text": exif((0x0112, 2, 2, b"6\0")),
}


def turned(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.transpose(Image.Transpose.ROTATE_270))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_in_both_byte_orders(order, value):
    data = exif((0x010F, 2, 6, b"Maker\0"), (0x0112, 3, 1, struct.pack(f"{order}H", value)), order=order)
    assert (
        orientation(data) == orientation(b"Exif\0\0" + data) == orientation(b"Exif\0\0" * 2 + data) == value
    )
    by_pillow = Image.Exif()
    by_pillow.load(data)
    assert by_pillow[0x0112] == value, "the reference reads the same"


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_malformed_exif_turns_the_picture_and_nothing_else(data, kind):
    assert orientation(data) == 6
    lossless = {"WEBP": {"lossless": True}}.get(kind, {})
    plain = encode(noise(), kind, **lossless)
    written = encode(noise(), kind, exif=b"Exif\0\0" + data if kind == "JPEG" else data, **lossless)
    assert np.array_equal(decode_rgb(written), turned(decode_rgb(plain)))


@pytest.mark.parametrize("data", UNKNOWN.values(), ids=UNKNOWN)
def test_an_orientation_that_can_not_be_read_is_ignored(data):
    assert orientation(data) == 1
    jpeg = encode(noise(), "JPEG")
    written = with_segments(jpeg, segment(0xE1, b"Exif\0\0" + data))
    assert np.array_equal(decode_rgb(written), decode_rgb(jpeg))


@given(st.binary(max_size=200), st.sampled_from([b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]))
def test_no_exif_is_too_bad(data, start):
    assert 1 <= orientation(start + data) <= 8


BESIDE = {
    "broken colour profile": segment(0xE2, b"ICC_PROFILE\0"),
    "photoshop's resources cut": segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4"),
    "short JFIF": segment(0xE0, b"JFIF\0"),
    "short Adobe": segment(0xEE, b"Adobe"),
    "pictures of an MPO that are not there": segment(0xE2, b"MPF\0" + exif((0xB001, 4, 1, b"\2\0\0\0"))),
    "comment of no text": segment(0xFE, b"\xff" * 9),
    "two EXIF": segment(0xE1, b"Exif\0\0" + exif()) + segment(0xE1, b"Exif\0\0" + exif(TURN)),
    "padding": b"\xff" * 7,
}


@pytest.mark.parametrize("extra", BESIDE.values(), ids=BESIDE)
def test_segments_beside_a_jpeg_do_not_matter(extra):
    jpeg = encode(noise(), "JPEG")
    assert np.array_equal(decode_rgb(with_segments(jpeg, extra)), decode_rgb(jpeg))


CHUNKS = {
    "short resolution": [(b"pHYs", b"\0\0\1")],
    "text that unpacks to megabytes": [(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 3_000_000))],
    "profile that unpacks to megabytes": [(b"iCCP", b"icc\0\0" + zlib.compress(bytes(3_000_000)))],
    "profile of no known compression": [(b"iCCP", b"icc\0\7")],
    "raw profile that is no hex": [(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n8\nzz"))],
    "animation of no frame": [(b"acTL", bytes(8))],
    "frames out of order": [(b"acTL", b"\0\0\0\2\0\0\0\0"), (b"fcTL", b"\0\0\0\7" + bytes(22))],
    "frame outside": [
        (b"acTL", b"\0\0\0\2\0\0\0\0"),
        (b"fcTL", struct.pack(">5I", 0, 9, 9, 0, 0) + bytes(6)),
    ],
}


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
def test_chunks_beside_a_png_do_not_matter(chunks):
    rows = [bytes(range(4)), bytes(range(4, 8))]
    assert np.asarray(decode_rgb(png(4, 2, 8, 0, rows, chunks)))[..., 0].tolist() == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
    ]


def test_a_broken_checksum_beside_a_png_does_not_matter():
    text = bytearray(chunk(b"tEXt", b"Title\0red"))
    text[-1] ^= 1
    plain = encode(noise())
    end_of_header = 8 + 25
    assert np.array_equal(
        decode_rgb(plain[:end_of_header] + text + plain[end_of_header:]), np.asarray(noise())
    )


def test_a_png_says_its_orientation_before_or_behind_the_pixels():
    plain = encode(noise())
    behind = plain[:-12] + chunk(b"eXIf", exif(TURN)) + plain[-12:]
    before = encode(noise(), exif=exif(TURN))
    for data in (before, behind):
        assert np.array_equal(decode_rgb(data), turned(noise()))


@pytest.mark.parametrize("bare", [bare_jpeg, bare_png])
def test_what_is_bare_stays_as_it_is(bare):
    kind = {bare_jpeg: "JPEG", bare_png: "PNG"}[bare]
    written = encode(noise(), kind, exif=b"Exif\0\0" + exif(TURN))
    once, found = bare(written)
    assert orientation(found) == 6 and len(once) < len(written)
    assert bare(once) == (once, b"") and bare(once + b"garbage behind") == (once + b"garbage behind", b"")
