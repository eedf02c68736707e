"""Contact sheets: pictures with a few words under each, as one image."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

CELL_PX = 128
FONT_PX = 11
CHARACTERS = 21  # of the default font in a cell's width
GAP_PX = 6


def grid(
    images: Sequence[Image.Image],
    titles: Sequence[str] | None = None,
    columns: int = 8,
    cell_px: int = CELL_PX,
    max_lines: int = 4,
) -> Image.Image:
    """RGB sheet of `images`, each enlarged (without smoothing) or shrunk to cells of `cell_px`, titles below.

    Titles are wrapped and cut after `max_lines`. Raises ValueError where titles and images differ in number.
    """
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"{len(images)} images and {len(titles)} titles: expected one title for each image")
    characters = CHARACTERS * cell_px // CELL_PX
    wrapped = [_wrap(title, characters, max_lines) for title in titles or [""] * len(images)]
    rows = [range(i, min(i + columns, len(images))) for i in range(0, len(images), columns)]
    heights = [cell_px + max(len(wrapped[i]) for i in row) * (FONT_PX + 2) + GAP_PX for row in rows]
    width = min(columns, max(1, len(images))) * (cell_px + GAP_PX) + GAP_PX
    sheet = Image.new("RGB", (width, sum(heights) + GAP_PX), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PX)
    top = GAP_PX
    for row, height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            left = GAP_PX + column * (cell_px + GAP_PX)
            sheet.paste(_fit(images[i], cell_px), (left, top))
            draw.multiline_text((left, top + cell_px + 2), "\n".join(wrapped[i]), "black", font, spacing=1)
        top += height
    return sheet


def _wrap(title: str, characters: int, max_lines: int) -> list[str]:
    lines = textwrap.wrap(title, characters)
    if len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], lines[max_lines - 1][: characters - 3] + "..."]
    return lines


def _fit(image: Image.Image, cell_px: int) -> Image.Image:
    scale = cell_px / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return image.convert("RGB").resize(size, method)
