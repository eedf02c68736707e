"""Editing triples (source, instruction, target) from Parquet as InstructPix2Pix and MagicBrush publish it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ddt.data.decode import MAX_IMAGE_BYTES, check_image
from ddt.data.readers.parquet import ROWS_PER_READ
from ddt.records import Reject, canonical_caption, sample_id

SOURCE_COLUMNS = ("original_image", "source_img", "source_image", "input_image", "source")
TARGET_COLUMNS = ("edited_image", "target_img", "target_image", "output_image", "target")
INSTRUCTION_COLUMNS = ("edit_prompt", "instruction", "edit_instruction", "edit")


def read_edits(path: str | Path, max_pixels: int, min_side_px: int) -> Iterator[dict[str, Any] | Reject]:
    """Rows of EDIT_SCHEMA and Rejects, in the file's order, a few in memory at a time.

    Raises ValueError where the columns of a triple are not found by their usual names.
    """
    path = Path(path)
    row = 0
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        yield Reject("corrupt_archive", " ".join(str(error).split()), key=path.name, source=path.name)
        return
    with file:
        columns = edit_columns(path, file.schema_arrow)
        try:
            for batch in file.iter_batches(ROWS_PER_READ, columns=list(columns)):
                for values in batch.to_pylist():
                    try:
                        yield _row([values[name] for name in columns], max_pixels, min_side_px)
                    except Reject as reject:
                        reject.key, reject.source = f"row {row}", path.name
                        yield reject
                    row += 1
        except (pa.ArrowException, OSError) as error:
            detail = f"unreadable after row {row}: {' '.join(str(error).split())}"
            yield Reject("corrupt_archive", detail, key=path.name, source=path.name)


def edit_columns(path: Path, schema: pa.Schema) -> tuple[str, str, str]:
    """The columns of source, instruction and target; ValueError where one is missing."""
    found = []
    for what, usual in (
        ("source image", SOURCE_COLUMNS),
        ("instruction", INSTRUCTION_COLUMNS),
        ("target image", TARGET_COLUMNS),
    ):
        name = next((name for name in usual if name in schema.names), None)
        if name is None:
            raise ValueError(
                f"{path}: no column for the {what} ({', '.join(usual)}); columns: {', '.join(schema.names)}"
            )
        found.append(name)
    return found[0], found[1], found[2]


def _row(values: list[Any], max_pixels: int, min_side_px: int) -> dict[str, Any]:
    source, instruction, target = _image_bytes(values[0]), values[1], _image_bytes(values[2])
    if not isinstance(instruction, str) or not instruction.strip():
        raise Reject("bad_record", "an edit without an instruction")
    for image in (source, target):
        check_image(image, max_pixels, min_side_px)
    text = canonical_caption(instruction)
    return {
        "sample_id": sample_id(source + target, text),
        "image": source,
        "instruction": text,
        "target": target,
    }


def _image_bytes(value: Any) -> bytes:
    data = value["bytes"] if isinstance(value, dict) else value
    if not data:
        raise Reject("missing_image", "no image bytes")
    if len(data) > MAX_IMAGE_BYTES:
        raise Reject("too_large", f"{len(data)} bytes, at most {MAX_IMAGE_BYTES}")
    return data
