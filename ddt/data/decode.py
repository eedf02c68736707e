"""Pictures from outside, decoded in one way for every stage, card and command; without torch.

- Read are JPEG, PNG, WebP, GIF and BMP, by what the bytes begin with, whatever the file is called. Of several
  frames or pictures (GIF, WebP, APNG, MPO) the first one counts.
- A picture is turned upright as its EXIF says; EXIF that can't be read is ignored, as are colour profiles.
- It becomes 8-bit RGB: transparency over white, 16-bit colours by their upper byte, floats cut to 0..255,
  CMYK as Adobe writes it. A colour table that is too short goes on in black.
- It is decoded to its end. What follows the end is ignored, what is missing is an error. Damage that ends as
  a file does is not seen: rows that a PNG's whole data stream lacks are black, and of a JPEG with its end
  mark the rest is what libjpeg makes of it.
- A JPEG is decoded at a half, a quarter or an eighth where that still leaves twice the side that is wanted.

All that is refused is an `Unreadable`, a ValueError of one line; no other error leaves this module.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ddt.clean import one_line
from ddt.data.metadata import PNG_MAGIC, bare_jpeg, bare_png, is_animated_png, orientation
from ddt.records import Reject

# Formats whose decoders are plain and bounded. Left out: those that run programs or other files (EPS, WMF).
IMAGE_FORMATS: dict[str, type[ImageFile]] = {
    "JPEG": JpegImageFile, "PNG": PngImageFile, "WEBP": WebPImageFile, "GIF": GifImageFile,
    "BMP": BmpImageFile,
}  # fmt: skip
MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (PNG_MAGIC, "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
)
FOREIGN_MAGIC = (
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"8BPS", "PSD"),
    (b"%!PS", "EPS"),
    (b"%PDF", "PDF"),
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"qoif", "QOI"),
    (b"DDS ", "DDS"),
    (b"icns", "ICNS"),
    (b"P5\n", "PNM"),
    (b"P6\n", "PNM"),
    (b"<svg", "SVG"),
    (b"<?xml", "SVG"),
)

ANIMATED = ("GIF", "WEBP")

MAX_IMAGE_BYTES = 256 << 20  # an encoded picture larger than this is not read at all
# Pillow's own bound on what is no attack; a larger `max_pixels` allows no more.
MAX_PIXELS_LIMIT = 2 * 89_478_485
BARE = {"JPEG": bare_jpeg, "PNG": bare_png}
PNG_DEPTH_AT = len(PNG_MAGIC) + 16  # in the header, which comes first
CHECK_SIDE_PX = 16  # decoding for a smaller or larger side fails for the same files

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
SIDEWAYS = 5  # from this orientation on, width and height change places
T = TypeVar("T")


class Unreadable(ValueError):
    """Bytes that are not decoded; `reason` is one of REJECT_REASONS, the message is one line."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return self.detail


class Checked(NamedTuple):
    """A picture that passed: its upright size, its format, its pixels in RGB (of a JPEG perhaps fewer)."""

    width: int
    height: int
    format: str
    picture: Image.Image


def check_image(data: bytes, max_pixels: int, min_side: int) -> Checked:
    """An encoded picture that decodes to its end; raises Reject.

    The size is taken from the header first: a picture of more than `max_pixels` is never decoded.
    """
    try:
        file, up = _open(data)
        width, height = _upright_size(file, up)
        if width * height > max_pixels:
            raise Unreadable("too_large", f"{width} x {height} pixels, at most {max_pixels}")
        if min(width, height) < min_side:
            raise Unreadable("too_small", f"{width} x {height} pixels, sides at least {min_side}")
        picture = _pixels(file, up, CHECK_SIDE_PX)
    except Unreadable as error:
        raise Reject(error.reason, error.detail) from error
    return Checked(width, height, str(file.format), picture)


def is_animated(data: bytes) -> bool:
    """Whether a picture that decodes has more than one frame. What follows the first one is not decoded."""
    if data.startswith(PNG_MAGIC):
        return is_animated_png(data)
    file, _ = _open(data)
    try:
        return file.format in ANIMATED and bool(getattr(file, "is_animated", False))
    except Exception:  # damage behind the first frame, which is all that is ever shown
        return False


def decode_rgb(data: bytes, least_side_px: int | None = None) -> Image.Image:
    """An encoded picture in RGB, whole.

    At its full size, or where `least_side_px` is what the caller will shrink the shorter side to, at one that
    is no less than twice that.
    """
    return _pixels(*_open(data), least_side_px)


def decode_image(data: bytes, image_side_px: int) -> np.ndarray:
    """uint8[H, W, C] RGB of an encoded picture: shorter side resized, centre cropped to a square."""
    return np.array(fitted(decode_rgb(data, image_side_px), image_side_px))


def fitted(image: Image.Image, side_px: int) -> Image.Image:
    """The centre square of an RGB picture, resized; one of that size is returned as it is."""
    size = (side_px, side_px)
    return image if image.size == size else ImageOps.fit(image, size, Image.Resampling.BICUBIC)


def read_image(path: str | Path) -> Image.Image:
    """A file as `decode_rgb`. The ValueError of these three names the file, also one that is not there."""
    return _of_file(path, decode_rgb)


def read_square(path: str | Path, side_px: int) -> Image.Image:
    """A file as `decode_image`: what training would see of it."""
    return _of_file(path, lambda data: Image.fromarray(decode_image(data, side_px)))


def read_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of a file, upright, by its header alone."""
    return _of_file(path, lambda data: _upright_size(*_open(data)))


def read_png_text(path: str | Path, name: str) -> str | None:
    """The text of that name in a PNG; None where it has none, or is no whole PNG."""
    try:
        with _refusing(), Image.open(path, formats=["PNG"]) as image:
            image.load()  # text may follow the pixels
            return getattr(image, "text", {}).get(name)
    except Unreadable:
        return None


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture that someone else opened, decoded as here; one in plain RGB is returned as it is."""
    with _refusing():
        image.load()
        return _upright_rgb(image, _orientation(image))


def _of_file(path: str | Path, decode: Callable[[bytes], T]) -> T:
    path = Path(path)
    try:
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise Unreadable("too_large", f"more than {MAX_IMAGE_BYTES} bytes")
        return decode(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except OSError as error:
        raise ValueError(f"{path}: can't be read ({error.strerror})") from None
    except Unreadable as error:
        raise ValueError(f"{path}: not a readable image ({error})") from None


def _open(data: bytes) -> tuple[ImageFile, int]:
    """The header of an encoded picture, no pixel decoded yet, and its orientation."""
    kind = _format(data)
    with _refusing():
        bare, exif = BARE[kind](data) if kind in BARE else (data, b"")
        file = IMAGE_FORMATS[kind](io.BytesIO(bare))
        if kind == "PNG" and "transparency" in file.info:
            file.info["transparency"] = _in_8_bits(file.info["transparency"], file.mode, bare[PNG_DEPTH_AT])
    width, height = file.size
    if width * height > MAX_PIXELS_LIMIT:
        raise Unreadable("too_large", f"{width} x {height} pixels, at most {MAX_PIXELS_LIMIT}")
    return file, orientation(exif) if exif else _orientation(file)


def _format(data: bytes) -> str:
    """The one of IMAGE_FORMATS that the bytes begin like; Unreadable where they begin like none."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    for magic, kind in MAGIC:
        if data.startswith(magic):
            return kind
    known = ", ".join(IMAGE_FORMATS)
    text = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    foreign = [name for magic, name in FOREIGN_MAGIC if data.startswith(magic) or text.startswith(magic)]
    if data[4:8] == b"ftyp":
        foreign.append("AVIF, HEIC or a film")
    if foreign:
        raise Unreadable("unsupported_format", f"{foreign[0]}; read are {known}")
    raise Unreadable("corrupt_image", f"begins like none of {known}" if data else "no bytes")


def _pixels(file: ImageFile, up: int, least_side_px: int | None) -> Image.Image:
    with _refusing():
        if least_side_px is not None:
            file.draft("RGB", (2 * least_side_px, 2 * least_side_px))  # JPEG's alone does anything
        file.load()
        return _upright_rgb(file, up)


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except Image.DecompressionBombError:
        raise Unreadable("too_large", f"more than {MAX_PIXELS_LIMIT} pixels") from None
    except Exception as error:  # decoders raise anything on hostile bytes: OSError, SyntaxError, struct.error
        raise Unreadable("corrupt_image", one_line(error)) from error


def _orientation(image: Image.Image) -> int:
    exif = image.info.get("exif")
    return orientation(exif) if isinstance(exif, bytes) else 1


def _upright_size(file: ImageFile, up: int) -> tuple[int, int]:
    width, height = file.size
    return (height, width) if up >= SIDEWAYS else (width, height)


def _in_8_bits(transparent: Any, mode: str, depth: int) -> Any:
    """A PNG's transparent colour as its pixels are after decoding: Pillow leaves it in the file's scale."""
    if mode == "L":
        return transparent * 255 // (2**depth - 1)
    if mode == "RGB" and depth == 16:
        return tuple(value >> 8 for value in transparent)
    return transparent


def _upright_rgb(image: Image.Image, up: int) -> Image.Image:
    if up not in UPRIGHT and image.mode == "RGB" and "transparency" not in image.info:
        return image
    rgb = _rgb(image.transpose(UPRIGHT[up]) if up in UPRIGHT else image)
    rgb.info = {}  # an orientation left there would turn it once more
    return rgb


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_grey(image)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=rgba)
        return white
    return image.convert("RGB")


def _grey(image: Image.Image) -> np.ndarray:
    """uint8[H, W] of integers of 16 or 32 bits, or of floats."""
    deep_HW = np.asarray(image)
    if image.mode == "F":
        return np.nan_to_num(deep_HW).clip(0, 255).astype(np.uint8)
    grey_HW = (deep_HW >> 8).clip(0, 255).astype(np.uint8)
    grey_HW[deep_HW == image.info.get("transparency")] = 255
    return grey_HW
