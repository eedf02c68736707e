"""Contact sheets for cards and reports."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ddt.data.decode import decode_rgb, to_rgb

CELL_PX = 128  # small pictures are enlarged to this, so that 32 px can be seen on a card
TEXT_PX = 12
MAX_TEXT_LINES = 3
PAD_PX = 6
BLANK_GREY = 128  # of the picture that shows nothing


def blank(side_px: int) -> Image.Image:
    """A plain grey picture: what a model is shown that is asked without a picture."""
    return Image.new("RGB", (side_px, side_px), (BLANK_GREY,) * 3)


def grid(
    images: Sequence[Image.Image | np.ndarray],
    titles: Sequence[str] = (),
    columns: int = 8,
    cell_px: int = CELL_PX,
) -> Image.Image:
    """The pictures (PIL or uint8 HWC) in rows of `columns`, each over its title, as one RGB picture.

    Pictures are scaled to `cell_px` on their longer side (enlarged ones keep sharp pixels); titles are
    wrapped to three lines. ValueError where titles are given but not one for each picture, or there is no
    picture.
    """
    if not images:
        raise ValueError("grid: no pictures")
    if titles and len(titles) != len(images):
        raise ValueError(f"grid: {len(titles)} titles for {len(images)} pictures")
    font = ImageFont.load_default(TEXT_PX)
    wrapped = [_wrap(title, cell_px) for title in titles]
    lines = max((len(title) for title in wrapped), default=0)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    fitted = [_fit(image, cell_px) for image in images]
    tallest = max(picture.height for picture in fitted)
    width, height = cell_px + PAD_PX, tallest + PAD_PX + lines * (TEXT_PX + 2)
    sheet = Image.new("RGB", (columns * width + PAD_PX, rows * height + PAD_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for index, picture in enumerate(fitted):
        x, y = PAD_PX + index % columns * width, PAD_PX + index // columns * height
        sheet.paste(picture, (x, y))
        if wrapped:
            draw.multiline_text((x, y + tallest + 1), "\n".join(wrapped[index]), "black", font, spacing=2)
    return sheet


def _fit(image: Image.Image | np.ndarray, cell_px: int) -> Image.Image:
    picture = to_rgb(image if isinstance(image, Image.Image) else Image.fromarray(image))
    scale = cell_px / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _wrap(title: str, cell_px: int) -> list[str]:
    characters = max(
        8, int(cell_px / (TEXT_PX * 0.52))
    )  # the default font's mean width is about half its size
    lines = textwrap.wrap(title, characters) or [""]
    if len(lines) > MAX_TEXT_LINES:
        lines = [*lines[: MAX_TEXT_LINES - 1], lines[MAX_TEXT_LINES - 1][: characters - 1] + "…"]
    return lines


def png_bytes(image: Image.Image | np.ndarray) -> bytes:
    """A picture (PIL or uint8 HWC) as PNG."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, "PNG")
    return buffer.getvalue()


def rgb_array(image: bytes | Image.Image) -> np.ndarray:
    """Encoded bytes or a PIL image as uint8 HWC."""
    return np.asarray(to_rgb(image) if isinstance(image, Image.Image) else decode_rgb(image))
