"""Parquet files with image bytes in a column, plain or as Hugging Face writes them (bytes and path)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ddt.data.decode import MAX_IMAGE_BYTES
from ddt.data.readers.sample import RawSample
from ddt.records import Reject

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes")
CAPTION_COLUMNS = ("caption", "text", "txt", "title", "description", "prompt", "label")
KEY_COLUMNS = ("key", "__key__", "id", "uid", "image_id")
ROWS_PER_READ = 64


def read_parquet(
    path: str | Path, image_column: str | None = None, caption_column: str | None = None
) -> Iterator[RawSample | Reject]:
    """Rows in order, a few at a time. Columns that are not named are found by name and type.

    Raises ValueError where the file has no such column. A file, or the rest of one, that cannot be read gives
    one Reject with reason corrupt_archive. Class labels stored as numbers become their names where the file
    has them (Hugging Face metadata).
    """
    path = Path(path)
    row = 0
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        yield Reject("corrupt_archive", _one_line(error), key=path.name)
        return
    with file:
        columns = _Columns(path, file.schema_arrow, image_column, caption_column)
        try:
            for batch in file.iter_batches(ROWS_PER_READ, columns=columns.wanted):
                for values in batch.to_pylist():
                    yield columns.sample(values, row)
                    row += 1
        except (pa.ArrowException, OSError) as error:
            yield Reject("corrupt_archive", f"unreadable after row {row}: {_one_line(error)}", key=path.name)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_image(kind.field("bytes").type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


class _Columns:
    """Which columns hold what."""

    def __init__(self, path: Path, schema: pa.Schema, image: str | None, caption: str | None) -> None:
        self.labels = _label_names(schema)

        def is_caption(name: str) -> bool:
            kind = schema.field(name).type
            # Numbers are captions only where the user says so: the labels of a set without names.
            is_number = name == caption and pa.types.is_integer(kind)
            return _is_text(kind) or name in self.labels or is_number

        def is_image(name: str) -> bool:
            return _is_image(schema.field(name).type)

        self.image = _find(path, schema, "image_column", image, IMAGE_COLUMNS, is_image)
        self.caption = _find(path, schema, "caption_column", caption, CAPTION_COLUMNS, is_caption)
        self.key = next((n for n in KEY_COLUMNS if n in schema.names), None)
        self.planted = "planted" if "planted" in schema.names else None
        names = (self.image, self.caption, self.key, self.planted)
        self.wanted = list(dict.fromkeys(n for n in names if n))

    def sample(self, values: dict[str, Any], row: int) -> RawSample | Reject:
        key = str(values[self.key]) if self.key and values[self.key] is not None else f"row {row}"
        meta = {"planted": values[self.planted]} if self.planted else {}
        image = values[self.image]
        if isinstance(image, dict):
            image = image["bytes"]
        if not image:
            return Reject(
                "missing_image", f"row {row} has no image bytes", key=key, planted=meta.get("planted")
            )
        if len(image) > MAX_IMAGE_BYTES:
            return Reject("too_large", f"{len(image)} bytes, at most {MAX_IMAGE_BYTES}", key=key)
        caption = values[self.caption]
        if caption is None:
            caption = ""
        elif self.caption in self.labels and isinstance(caption, int):
            names = self.labels[self.caption]
            if not 0 <= caption < len(names):
                return Reject("bad_record", f"row {row}: no class {caption} in {self.caption}", key=key)
            caption = names[caption]
        return RawSample(key, image, str(caption), meta)


def _find(
    path: Path, schema: pa.Schema, option: str, asked: str | None, usual: tuple[str, ...], suits: Any
) -> str:
    if asked is not None:
        if asked in schema.names and suits(asked):
            return asked
        state = f"is of type {schema.field(asked).type}" if asked in schema.names else "does not exist"
        raise ValueError(f"{path}: {option} {asked!r} {state}; columns: {', '.join(schema.names)}")
    found = next((name for name in usual if name in schema.names and suits(name)), None)
    if found is None:
        raise ValueError(
            f"{path}: set {option}; none of the columns {', '.join(schema.names)} suits by name and type"
        )
    return found


def _label_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Column -> class names, of the columns that Hugging Face datasets marks as ClassLabel."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])
        features = info["info"]["features"].items()
        labels = {
            n: f["names"] for n, f in features if isinstance(f, dict) and f.get("_type") == "ClassLabel"
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
    return {name: names for name, names in labels.items() if name in schema.names}
