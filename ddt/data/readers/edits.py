"""Editing triples (source, instruction, target) from Parquet, as sets on the Hugging Face hub have them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ddt.data.decode import check_image
from ddt.data.readers.captions import first_text
from ddt.data.readers.columns import IMAGE_EXPECTED, IMAGE_TYPES, TEXT_EXPECTED, Wanted, holds_text, read_rows
from ddt.data.readers.pictures import Pictures
from ddt.records import Reject, canonical_caption, sample_id

# InstructPix2Pix, MagicBrush, HQ-Edit, UltraEdit, OmniEdit, SEED-Data-Edit, AnyEdit and their like.
SOURCE = Wanted(
    "source image",
    ("original_image", "source_img", "source_image", "input_image", "src_img", "src_image", "image_file",
     "before", "image", "source", "input"),
    IMAGE_TYPES,
    IMAGE_EXPECTED,
)  # fmt: skip
TARGET = Wanted(
    "target image",
    ("edited_image", "target_img", "target_image", "output_image", "edited_img", "tgt_img", "edited_file",
     "after", "edited", "target", "output"),
    IMAGE_TYPES,
    IMAGE_EXPECTED,
)  # fmt: skip
EDIT_IMAGES = (SOURCE, TARGET)
INSTRUCTION = Wanted(
    "instruction",
    ("edit_prompt", "instruction", "edit_instruction", "edit", "edited_prompt_list", "instructions",
     "edit_prompts", "instruct", "input_prompt", "prompt"),
    (lambda field: holds_text(field.type),),
    TEXT_EXPECTED,
)  # fmt: skip


def read_edits(path: str | Path, max_pixels: int, min_side_px: int) -> Iterator[dict[str, Any] | Reject]:
    """Rows of EDIT_SCHEMA and Rejects, in the file's order, a few in memory at a time.

    Of several instructions the first counts. Paths of pictures are below the file's folder. Raises ValueError
    where the columns of a triple are not found by their usual names, or can't hold it by their type.
    """
    path = Path(path)
    pictures = Pictures(path.parent)
    columns: tuple[str, str, str] = ("", "", "")

    def choose(schema: pa.Schema) -> Sequence[str]:
        nonlocal columns
        columns = edit_columns(path, schema)
        return columns

    for item in read_rows(path, choose):
        if isinstance(item, Reject):
            yield item.place(path.name, item.key)
            continue
        row, values = item
        try:
            source, instruction, target = (values[name] for name in columns)
            images = pictures.read(source), pictures.read(target)
            yield _row(*images, instruction, max_pixels, min_side_px)
        except Reject as reject:
            yield reject.place(path.name, f"row {row}")


def edit_columns(path: Path, schema: pa.Schema) -> tuple[str, str, str]:
    """The columns of source, instruction and target; ValueError where one is missing or of a wrong type."""
    source, instruction, target = (wanted.find(path, schema) for wanted in (SOURCE, INSTRUCTION, TARGET))
    return source, instruction, target


def _row(source: bytes, target: bytes, instruction: Any, max_pixels: int, min_side_px: int) -> dict[str, Any]:
    text = canonical_caption(first_text(instruction))
    if not text:
        raise Reject("bad_record", "an edit without an instruction")
    for image in (source, target):
        check_image(image, max_pixels, min_side_px)
    return {
        "sample_id": sample_id(source + target, text),
        "image": source,
        "instruction": text,
        "target": target,
    }
