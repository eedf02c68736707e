"""The one decoder: what each kind of picture becomes, and what is refused for which reason.

Expected pixels are known in closed form, or those of the plain picture that was encoded.
"""

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ddt.data.decode import (
    IMAGE_FORMATS,
    MAX_PIXELS_LIMIT,
    Unreadable,
    check_image,
    decode_image,
    decode_rgb,
    read_image,
    to_rgb,
)
from ddt.records import REJECT_REASONS, Reject
from tests.data.pictures import TURN, encode, exif, noise, png, png_header, segment

EXIF = b"Exif\0\0"


def pixels(image) -> list:
    return np.asarray(image).reshape(-1, 3).tolist()


def reason(data, max_pixels=10_000, min_side=16):
    with pytest.raises(Reject) as caught:
        check_image(data, max_pixels, min_side)
    assert caught.value.reason in REJECT_REASONS and "\n" not in caught.value.detail
    assert 0 < len(caught.value.detail) <= 300
    return caught.value.reason


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
def test_good_images_pass(kind):
    assert check_image(encode(noise(), kind), 10_000, 16)[:3] == (40, 30, kind)


def test_sizes_are_limits_included():
    data = encode(noise(40, 30), "JPEG")
    assert check_image(data, 1200, 30)[:2] == (40, 30)
    assert reason(data, max_pixels=1199) == "too_large"
    assert reason(data, min_side=31) == "too_small"


def test_a_sideways_picture_has_its_upright_size():
    turned = encode(noise(40, 30), "JPEG", exif=EXIF + exif(TURN))
    assert check_image(turned, 10_000, 16)[:3] == (30, 40, "JPEG")


def webp_header(width, height):
    """An extended WebP that claims a size and holds nothing."""
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + sides
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_header(bits, width, height, layers, frame=0xC0):
    """A JPEG up to its compressed data, of which there is none."""
    described = struct.pack(">BHHB", bits, height, width, layers) + b"\1\x11\0" * layers
    return b"\xff\xd8" + segment(frame, described) + segment(0xDA, b"\1\1\0\0\x3f\0")


HUGE = {
    "PNG": png_header(60_000, 60_000),
    "PNG below Pillow's bound": png_header(12_000, 12_000),
    "PNG of the largest sides": png_header((1 << 31) - 1, (1 << 31) - 1),
    "GIF": b"GIF89a"
    + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0)
    + b","
    + struct.pack("<4HBB", 0, 0, 65_535, 65_535, 0, 2),
    "BMP": b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 1 << 30, 1 << 30, 1, 24, 0, 0, 0, 0, 0, 0),
    "WEBP": webp_header(1 << 24, 1 << 24),
    "JPEG": b"\xff\xd8"
    + segment(0xC0, struct.pack(">BHHB", 8, 65_500, 65_500, 1) + b"\1\x11\0")
    + segment(0xDA, b"\1\1\0\0\x3f\0"),
}


@pytest.mark.parametrize("data", HUGE.values(), ids=HUGE)
def test_huge_images_are_rejected_by_their_header(data):
    assert reason(data, max_pixels=100_000_000) == "too_large"


def test_a_limit_above_pillows_own_allows_no_more():
    assert reason(png_header(60_000, 60_000), max_pixels=10**12) == "too_large"
    with pytest.raises(ValueError, match=f"at most {MAX_PIXELS_LIMIT}"):
        decode_image(png_header(60_000, 60_000), 32)


def truncated():
    """Files that end too early: JPEG in all its forms, since it is also decoded at an eighth."""
    grey, cmyk = noise(300, 200).convert("L"), noise(300, 200).convert("CMYK")
    return {
        "JPEG": encode(noise(300, 200), "JPEG"),
        "progressive JPEG": encode(noise(300, 200), "JPEG", progressive=True),
        "JPEG with restarts": encode(noise(300, 200), "JPEG", restart_marker_blocks=4),
        "grey JPEG": encode(grey, "JPEG"),
        "CMYK JPEG": encode(cmyk, "JPEG"),
        "JPEG with EXIF": encode(noise(300, 200), "JPEG", exif=EXIF + exif(TURN)),
        "PNG": encode(noise()),
        "palette PNG": encode(noise().convert("P"), transparency=3),
        "WEBP": encode(noise(), "WEBP"),
        "lossless WEBP": encode(noise(), "WEBP", lossless=True),
        "GIF": encode(noise(), "GIF"),
        "BMP": encode(noise(), "BMP"),
    }


@pytest.mark.parametrize("kind", truncated())
def test_truncated_images_are_corrupt_at_every_size(kind):
    """Without its last bytes a PNG lacks its end mark alone, and a GIF: the picture is there."""
    data = truncated()[kind]
    picture = len(data) - {"PNG": 22, "palette PNG": 22, "GIF": 2}.get(kind, 0)
    cuts = [0, 1, 3, 20, *np.random.default_rng(0).integers(20, picture, 25).tolist(), picture - 1]
    for cut in cuts:
        assert reason(data[:cut], max_pixels=10**6) == "corrupt_image", cut
        for decode in (decode_rgb, lambda data: decode_image(data, 16), lambda data: decode_image(data, 400)):
            with pytest.raises(Unreadable):
                decode(data[:cut])


@pytest.mark.parametrize("kind", truncated())
@pytest.mark.parametrize(
    "garbage", [b"\0", b"garbage " * 99, b"<html>404 Not Found</html>", b"\xff\xd8\xff\xe0"]
)
def test_what_follows_the_end_is_ignored(kind, garbage):
    data = truncated()[kind]
    assert np.array_equal(decode_rgb(data + garbage), decode_rgb(data))


REFUSED = {
    b"": "corrupt_image",
    bytes(1000): "corrupt_image",
    b"<!DOCTYPE html><html>404</html>": "corrupt_image",
    b'{"error": "hotlinking is not allowed"}': "corrupt_image",
    b"\xff\xd8\xff": "corrupt_image",
    b"\x89PNG\r\n\x1a\n": "corrupt_image",
    b"\x89PNG\n\x1a\n" + bytes(50): "corrupt_image",  # line ends were changed on the way
    b"GIF89a": "corrupt_image",
    b"BM": "corrupt_image",
    b"RIFF\0\0\0\0WEBPVP8 ": "corrupt_image",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n": "corrupt_image",
    b'<svg xmlns="http://www.w3.org/2000/svg"/>': "unsupported_format",
    b'\xef\xbb\xbf\n <?xml version="1.0"?><svg/>': "unsupported_format",
    b"%!PS-Adobe-3.0 EPSF-3.0\n": "unsupported_format",
    b"%PDF-1.7\n": "unsupported_format",
    b"\0\0\0\x1cftypavif": "unsupported_format",
    b"\0\0\0\x18ftypheic": "unsupported_format",
    b"\xff\x0a\xfa\x1f": "unsupported_format",
    b"\0\0\0\x0cJXL \r\n\x87\n": "unsupported_format",
    b"\xff\x4f\xff\x51": "unsupported_format",
    b"8BPS\0\1": "unsupported_format",
    b"\0\0\1\0\1\0": "unsupported_format",
}


@pytest.mark.parametrize("data", REFUSED)
def test_what_is_no_picture_has_its_reason(data):
    assert reason(data) == REFUSED[data]


def test_tiff_is_no_format_that_is_read_whatever_it_is_called(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(noise(), "TIFF"))
    assert reason(path.read_bytes()) == "unsupported_format"
    with pytest.raises(ValueError, match=r"photo.jpg: not a readable image \(TIFF; read are JPEG"):
        read_image(path)


@given(
    st.binary(max_size=300),
    st.sampled_from(
        [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\0\1\0\0WEBPVP8X"]
    ),
)
def test_no_bytes_escape_as_another_error(data, magic):
    try:
        width, height = check_image(magic + data, 10_000, 2)[:2]
    except Reject as reject:
        assert reject.reason in REJECT_REASONS
    else:
        assert width * height <= 10_000 and min(width, height) >= 2


@pytest.mark.parametrize("kind", ["JPEG", "progressive JPEG", "WEBP", "GIF", "BMP"])
def test_what_passes_the_check_decodes_at_every_size(kind):
    """Files with wrong bytes: most are refused, and what `ingest` lets in is decoded in training."""
    data, rng, passed = truncated()[kind], np.random.default_rng(1), 0
    for _ in range(30):
        wrong = bytearray(data)
        for place in rng.integers(0, len(data), 2):
            wrong[place] = rng.integers(256)
        try:
            check_image(bytes(wrong), 10**6, 1)
        except Reject:
            continue
        passed += 1
        for side_px in (8, 64, 300):
            assert decode_image(bytes(wrong), side_px).shape == (side_px, side_px, 3)
    assert passed


# Expected are the pixels of one row, R G B each.
MODES = {
    "1 bit": (png(8, 1, 1, 0, [b"\xa0"]), [255, 0, 255, 0, 0, 0, 0, 0]),
    "1 bit, white is transparent": (png(2, 1, 1, 0, [b"\x40"], [(b"tRNS", b"\0\1")]), [0, 255]),
    "1 bit, black is transparent": (png(2, 1, 1, 0, [b"\x40"], [(b"tRNS", b"\0\0")]), [255, 255]),
    "2 bits": (png(4, 1, 2, 0, [b"\x1b"]), [0, 85, 170, 255]),
    "2 bits, one transparent": (png(4, 1, 2, 0, [b"\x1b"], [(b"tRNS", b"\0\1")]), [0, 255, 170, 255]),
    "4 bits, one transparent": (png(2, 1, 4, 0, [b"\x12"], [(b"tRNS", b"\0\1")]), [255, 34]),
    "grey, one transparent": (png(3, 1, 8, 0, [b"\1\2\3"], [(b"tRNS", b"\0\2")]), [1, 255, 3]),
    "16 bits grey": (png(3, 1, 16, 0, [b"\0\xff\x80\0\xff\xff"]), [0, 128, 255]),
    "16 bits grey, one transparent": (
        png(3, 1, 16, 0, [b"\x12\x34\x12\x35\0\0"], [(b"tRNS", b"\x12\x34")]), [255, 18, 0],
    ),
    "grey and alpha": (png(3, 1, 8, 4, [b"\x64\xff\x64\0\x64\x80"]), [100, 255, 177]),
    "16 bits grey and alpha": (png(2, 1, 16, 4, [b"\x64\0\xff\xff\x64\0\0\0"]), [100, 255]),
    "RGB": (png(2, 1, 8, 2, [b"\1\2\3\4\5\6"]), [(1, 2, 3), (4, 5, 6)]),
    "RGB, one transparent": (
        png(2, 1, 8, 2, [b"\1\2\3\4\5\6"], [(b"tRNS", b"\0\4\0\5\0\6")]), [(1, 2, 3), (255, 255, 255)],
    ),
    "16 bits RGB": (png(1, 1, 16, 2, [b"\x10\xff\x20\xff\x30\xff"]), [(16, 32, 48)]),
    "16 bits RGB, one transparent": (
        png(2, 1, 16, 2, [b"\x80\1\x40\2\x20\3\xff\xff\0\0\0\0"], [(b"tRNS", b"\x80\1\x40\2\x20\3")]),
        [(255, 255, 255), (255, 0, 0)],
    ),
    "RGBA": (png(3, 1, 8, 6, [b"\x0a\x14\x1e\xff\x0a\x14\x1e\0\0\0\0\x80"]), [(10, 20, 30), 255, 127]),
    "16 bits RGBA": (png(2, 1, 16, 6, [b"\x10\0\x20\0\x30\0\xff\xff" + bytes(8)]), [(16, 32, 48), 255]),
    "palette": (png(2, 1, 8, 3, [b"\1\0"], [(b"PLTE", b"\1\2\3\4\5\6")]), [(4, 5, 6), (1, 2, 3)]),
    "palette, one transparent": (
        png(2, 1, 8, 3, [b"\1\0"], [(b"PLTE", b"\1\2\3\4\5\6"), (b"tRNS", b"\0")]), [(4, 5, 6), 255],
    ),
    "palette with alphas": (
        png(3, 1, 8, 3, [b"\0\1\2"], [(b"PLTE", bytes(6) + b"\7\7\7"), (b"tRNS", b"\0\x80")]), [255, 127, 7],
    ),
    "palette of 1 bit": (
        png(2, 1, 1, 3, [b"\x40"], [(b"PLTE", b"\1\2\3\4\5\6")]), [(1, 2, 3), (4, 5, 6)],
    ),
    "palette too short": (png(2, 1, 8, 3, [b"\0\7"], [(b"PLTE", b"\1\2\3")]), [(1, 2, 3), 0]),
    "no palette": (png(2, 1, 8, 3, [b"\0\7"]), [0, 0]),
}  # fmt: skip


@pytest.mark.parametrize(("data", "row"), MODES.values(), ids=MODES)
def test_png_of_every_mode_becomes_rgb(data, row):
    expected = [list(color) if isinstance(color, tuple) else [color] * 3 for color in row]
    got = decode_rgb(data)
    assert got.mode == "RGB" and pixels(got) == expected


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "La", "RGBa"]
)
def test_pictures_that_others_opened_become_rgb(mode):
    color = Image.new("RGB", (8, 8), (255, 255, 255) if mode in ("1", "P", "PA") else (200, 200, 200))
    image = color.convert("RGBA").convert(mode) if mode in ("PA", "La", "RGBa") else color.convert(mode)
    got = to_rgb(image)
    assert got.mode == "RGB" and np.abs(np.asarray(got).astype(int) - np.asarray(color)).max() <= 1


def test_transparent_pictures_that_others_opened_lie_on_white():
    for mode in ("LA", "RGBA", "RGBa", "La"):
        clear = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
        clear = clear.convert("LA" if mode == "La" else mode).convert(mode)
        assert pixels(to_rgb(clear)) == [[255] * 3] * 4, mode


def test_deep_greys_that_others_opened():
    def greys(array):
        return np.asarray(to_rgb(Image.fromarray(array)))[0, :, 0].tolist()

    values = np.array([[-300, 0, 255, 256, 0x8000, 0xFFFF, 1 << 20]])
    assert greys(values.astype(np.int32)) == [0, 0, 0, 1, 128, 255, 255]
    for kind in ("<u2", ">u2"):
        assert greys(values[:, 1:6].astype(kind)) == [0, 0, 1, 128, 255]
    floats = np.array([[np.nan, -np.inf, -1, 0.5, 77.9, 255, 1e30, np.inf]], dtype=np.float32)
    assert greys(floats) == [0, 0, 0, 0, 77, 255, 255, 255]


def test_a_cut_file_that_others_opened_is_an_error_of_one_line():
    image = Image.open(io.BytesIO(encode(noise(200, 200), "JPEG")[:5000]))
    with pytest.raises(ValueError, match="image file is truncated"):
        to_rgb(image)


def test_cmyk_and_ycck_jpeg_are_read_as_adobe_writes_them():
    """Adobe inverts the inks; with transform 2 they are stored as YCCK."""
    inks = Image.new("CMYK", (16, 16), (255, 0, 0, 0))  # cyan
    cmyk = encode(inks, "JPEG", quality=100)
    ycck = bytearray(cmyk)
    place = ycck.index(b"Adobe")
    assert ycck[place + 11] == 0
    for data in (cmyk, cmyk.replace(b"Adobe", b"Opera", 1)):
        assert np.abs(np.asarray(decode_rgb(data)).astype(int) - (0, 255, 255)).max() <= 3
    ycck[place + 11] = 2
    # Stored is now luma 0, chroma 255 twice: by JFIF's equations 178 of red and 225 of blue, which YCCK takes
    # for the complements of the inks, stored inverted.
    assert np.abs(np.asarray(decode_rgb(bytes(ycck))).astype(int) - (255 - 178, 255, 255 - 225)).max() <= 3


def test_a_grey_jpeg_is_grey_and_one_of_two_or_five_layers_is_refused():
    grey = encode(Image.new("L", (20, 20), 77), "JPEG")
    assert pixels(decode_rgb(grey)) == [[77] * 3] * 400
    for layers in (2, 5):
        assert reason(jpeg_header(8, 20, 20, layers)) == "corrupt_image"
    with pytest.raises(ValueError, match="12-bit"):
        decode_rgb(jpeg_header(12, 20, 20, 1, frame=0xC1))


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_every_orientation_is_undone_once(value, kind, tmp_path):
    """Stored as a camera held that way stores it, each picture is the upright one again in every function."""
    stored_by = {
        1: [], 2: [Image.Transpose.FLIP_LEFT_RIGHT], 3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM], 5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90], 7: [Image.Transpose.TRANSVERSE], 8: [Image.Transpose.ROTATE_270],
    }  # fmt: skip
    upright = Image.fromarray(np.kron(np.asarray(noise(6, 4)), np.ones((16, 16, 1))).astype(np.uint8))
    stored = upright
    for turn in stored_by[value]:
        stored = stored.transpose(turn)
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    note = exif((0x0112, 3, 1, struct.pack("<H", value)))
    data = encode(stored, kind, exif=EXIF + note if kind == "JPEG" else note, **options)
    path = tmp_path / "photo"
    path.write_bytes(data)
    opened = Image.open(path)
    for got in (decode_rgb(data), read_image(path), to_rgb(opened), to_rgb(to_rgb(opened))):
        assert got.size == upright.size
        assert np.abs(np.asarray(got).astype(int) - np.asarray(upright)).max() <= 12
    assert check_image(data, 10**6, 1)[:2] == upright.size
    square = decode_image(data, 8).astype(int)
    assert np.abs(square - decode_image(encode(upright), 8)).max() <= 8


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("GIF", {}),
        ("WEBP", {"lossless": True}),
        ("PNG", {}),
        ("PNG", {"default_image": True}),
        ("MPO", {"quality": 95}),
    ],
)
def test_of_several_pictures_the_first_counts(kind, options):
    first, second = Image.new("RGB", (32, 32), (250, 0, 0)), Image.new("RGB", (32, 32), (0, 0, 250))
    data = encode(first, kind, save_all=True, append_images=[second, second], **options)
    assert np.abs(np.asarray(decode_rgb(data)).astype(int) - (250, 0, 0)).max() <= 2
    assert check_image(data, 10_000, 16)[:3] == (32, 32, "JPEG" if kind == "MPO" else kind)


def test_an_animation_whose_later_frames_are_cut_is_its_first():
    first, second = noise(32, 32).convert("P"), noise(32, 32, seed=1).convert("P")
    data = encode(first, "GIF", save_all=True, append_images=[second])
    assert np.array_equal(decode_rgb(data[: len(data) - 200]), first.convert("RGB"))


def test_the_background_of_a_gif_is_transparent_where_its_first_frame_says_so():
    frame = Image.new("P", (4, 4), 0)
    frame.putpalette([10, 20, 30, 200, 100, 50])
    frame.putpixel((1, 1), 1)
    got = np.asarray(decode_rgb(encode(frame, "GIF", transparency=0)))
    assert got[1, 1].tolist() == [200, 100, 50] and (got[0] == 255).all()


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (16, 5000), (1, 1), (3, 2)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_any_shape_becomes_a_square(size, kind):
    data = encode(Image.new("RGB", size, (120, 120, 120)), kind)
    assert decode_rgb(data).size == size
    assert np.abs(decode_image(data, 16).astype(int) - 120).max() <= 1
    assert min(size) >= 16 or reason(data, max_pixels=10**6) == "too_small"


def test_decode_resizes_the_shorter_side_and_crops_the_centre():
    wide = np.zeros((40, 100, 3), np.uint8)
    wide[:, 30:70] = (0, 255, 0)  # the centre square is green, the sides are black
    out = decode_image(encode(Image.fromarray(wide)), 20)
    assert out.shape == (20, 20, 3) and out.dtype == np.uint8
    assert (out[:, 2:-2] == (0, 255, 0)).all(), "the filter mixes in what lies just outside the crop"
    assert out[..., 1].min() > 200


def test_decode_leaves_images_of_the_right_size_alone():
    assert np.array_equal(decode_image(encode(noise(32, 32)), 32), noise(32, 32))


def ramp(side=1024):
    line = np.linspace(0, 255, side).astype(np.uint8)
    planes = [
        np.tile(line, (side, 1)),
        np.tile(line[:, None], (1, side)),
        np.full((side, side), 90, np.uint8),
    ]
    return Image.fromarray(np.stack(planes, -1))


def test_decode_of_large_jpegs_is_close_to_the_plain_way():
    data = encode(ramp(), "JPEG", quality=95)
    plain = np.asarray(Image.open(io.BytesIO(data)).resize((64, 64), Image.Resampling.BICUBIC))
    assert np.abs(decode_image(data, 64).astype(int) - plain).max() <= 4


def test_a_large_jpeg_is_decoded_smaller_but_no_smaller_than_twice_the_side():
    data = encode(ramp(), "JPEG")
    sizes = [decode_rgb(data, side).width for side in (1, 64, 65, 128, 129, 256, 257, 512, 2000)]
    assert sizes == [128, 128, 256, 256, 512, 512, 1024, 1024, 1024]
    assert decode_rgb(encode(ramp()), 16).width == 1024


def test_read_image_names_the_file(tmp_path):
    (tmp_path / "page.jpg").write_text("<html>")
    (tmp_path / "folder.jpg").mkdir()
    for name, what in (
        ("none.jpg", "no such file"), ("folder.jpg", "can't be read"), ("page.jpg", "not a readable image"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"{name}: {what}") as error:
            read_image(tmp_path / name)
        assert "\n" not in str(error.value) and len(str(error.value)) < 300 + len(str(tmp_path))


def test_the_detail_is_the_same_in_every_run():
    for data in (b"not an image at all", truncated()["JPEG"][:3000], b"GIF89a"):
        with pytest.raises(Reject) as caught:
            check_image(data, 100_000, 1)
        assert "0x" not in caught.value.detail
