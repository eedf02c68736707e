"""Identity of records, and the checks that turn images away."""

import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ddt.records import (
    RECORD_SCHEMA,
    REJECT_REASONS,
    REJECT_SCHEMA,
    ROWS_PER_BATCH,
    Reject,
    canonical_caption,
    check_image,
    iter_shard,
    read_shard,
    sample_id,
    write_shard,
)


def encode(width=40, height=30, image_format="JPEG", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format)
    return buffer.getvalue()


def png_header(width, height):
    """A PNG that claims a size and holds nothing."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"\0\0\0\r" + body + struct.pack(">I", zlib.crc32(body)) + b"\0\0\1\0IDAT"


def reason(data, max_pixels=10_000, min_side=16):
    with pytest.raises(Reject) as caught:
        check_image(data, max_pixels, min_side)
    assert caught.value.reason in REJECT_REASONS and "\n" not in caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_good_images_pass(image_format):
    assert check_image(encode(image_format=image_format), 10_000, 16) == (40, 30, image_format)


def test_sizes_are_limits_included():
    assert check_image(encode(40, 30), 1200, 30)[:2] == (40, 30)
    assert reason(encode(40, 30), max_pixels=1199) == "too_large"
    assert reason(encode(40, 30), min_side=31) == "too_small"


def test_huge_images_are_rejected_by_their_header():
    assert reason(png_header(60_000, 60_000), max_pixels=100_000_000) == "too_large"
    assert reason(png_header(12_000, 12_000), max_pixels=100_000_000) == "too_large"
    assert reason(png_header(30, 30)) == "corrupt_image"
    with pytest.raises(ValueError, match="max_pixels 1000000000"):
        check_image(encode(), 10**9, 1)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_truncated_images_are_corrupt(image_format, share):
    data = encode(image_format=image_format)
    assert reason(data[: int(len(data) * share)]) == "corrupt_image"


def test_garbage_is_corrupt_and_known_strangers_are_unsupported():
    assert reason(np.random.default_rng(0).bytes(500)) == "corrupt_image"
    assert reason(b"<html>404</html>") == "corrupt_image"
    assert reason(encode(image_format="TIFF")) == "unsupported_format"
    assert reason(b'<svg xmlns="http://www.w3.org/2000/svg"/>') == "unsupported_format"
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n") == "unsupported_format"


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM"]),
)
def test_no_bytes_escape_as_another_error(data, magic):
    try:
        width, height, _ = check_image(magic + data, 10_000, 2)
    except Reject as reject:
        assert reject.reason in REJECT_REASONS
    else:
        assert width * height <= 10_000 and min(width, height) >= 2


def test_the_detail_is_the_same_in_every_run():
    with pytest.raises(Reject) as caught:
        check_image(b"not an image at all", 100, 1)
    assert "0x" not in caught.value.detail


def test_canonical_caption():
    assert canonical_caption("  a\tred \n circle\u00a0 ") == "a red circle"
    assert canonical_caption("cafe\u0301") == "caf\u00e9"
    assert canonical_caption("a\x00b \x07 c") == "ab c"
    assert canonical_caption("\ud800x").encode() == b"x"


@given(st.text())
def test_canonical_caption_is_idempotent_and_encodable(text):
    once = canonical_caption(text)
    assert canonical_caption(once) == once
    once.encode()


def test_sample_id_is_of_bytes_and_canonical_caption():
    # by the definition: 8 bytes of length, the image, the caption
    want = hashlib.sha256((3).to_bytes(8, "little") + b"img" + b"a cat").hexdigest()
    assert sample_id(b"img", " a  cat ") == want
    assert sample_id(b"img", "a dog") != want
    assert sample_id(b"ima", "g") != sample_id(b"im", "ag")


def rows(n):
    return [
        {"sample_id": f"{i:064x}", "image": encode(4, 4, "PNG", i), "caption": "", "width": 4, "height": 4,
         "format": "PNG", "planted": None if i % 2 else "clean", "source": "s"}
        for i in range(n)
    ]  # fmt: skip


def test_shard_round_trip_and_stable_bytes(tmp_path):
    want = rows(ROWS_PER_BATCH + 3)
    assert write_shard(tmp_path / "a.arrow", iter(want), RECORD_SCHEMA) == len(want)
    write_shard(tmp_path / "b.arrow", want, RECORD_SCHEMA)
    assert (tmp_path / "a.arrow").read_bytes() == (tmp_path / "b.arrow").read_bytes()
    assert list(iter_shard(tmp_path / "a.arrow")) == want
    assert read_shard(tmp_path / "a.arrow", ["sample_id"]).column_names == ["sample_id"]


def test_empty_shard_and_rejects(tmp_path):
    assert write_shard(tmp_path / "none.arrow", [], RECORD_SCHEMA) == 0
    assert read_shard(tmp_path / "none.arrow").num_rows == 0
    reject = Reject("corrupt_image", "cut", key="0001", source="00000.tar", planted="corrupt")
    write_shard(tmp_path / "r.arrow", [reject.row()], REJECT_SCHEMA)
    assert list(iter_shard(tmp_path / "r.arrow")) == [
        {
            "source": "00000.tar",
            "key": "0001",
            "reason": "corrupt_image",
            "detail": "cut",
            "lost": 1,
            "planted": "corrupt",
        }
    ]
