"""Parquet files of image-text pairs: image bytes, plain or as Hugging Face writes them, or paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ddt.clean import parse_json
from ddt.data.readers.captions import CAPTION_NAMES, CONTAINERS, first_text
from ddt.data.readers.columns import (
    IMAGE_EXPECTED,
    IMAGE_TYPES,
    TEXT_EXPECTED,
    Wanted,
    holds_image_bytes,
    holds_text,
    read_rows,
)
from ddt.data.readers.facts import EVERY_NAME
from ddt.data.readers.pictures import Pictures
from ddt.data.readers.sample import RawSample
from ddt.records import Reject

IMAGE_COLUMNS = (
    "image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "image_path", "file_name", "path",
)  # fmt: skip
KEY_COLUMNS = ("key", "__key__", "id", "uid", "image_id")
MORE = EVERY_NAME | {"questions"}  # what else is kept of a row
DOWNLOADED = "success"  # what img2dataset writes under status; it leaves rows without it

IMAGE = Wanted("image", IMAGE_COLUMNS, IMAGE_TYPES, IMAGE_EXPECTED, "image_column")


def read_parquet(
    path: str | Path,
    image_column: str | None = None,
    caption_column: str | None = None,
    captions: bool = True,
) -> Iterator[RawSample | Reject]:
    """Rows in order, a few at a time. Columns that are not named are found by name and type.

    Without `captions` none is looked for, and all are empty.

    Raises ValueError where the file has no such column. What can't be read gives a Reject with reason
    corrupt_archive. Class labels stored as numbers become their names where the file has them (Hugging Face
    metadata). Paths of pictures are below the file's folder.
    """
    path = Path(path)
    found: list[_Columns] = []

    def choose(schema: pa.Schema) -> Sequence[str]:
        found.append(_Columns(path, schema, image_column, caption_column, captions))
        return found[0].wanted

    pictures = Pictures(path.parent)
    for item in read_rows(path, choose):
        if isinstance(item, Reject):
            yield item
            continue
        row, values = item
        key = found[0].key_of(row, values)
        try:
            yield found[0].sample(key, values, pictures)
        except Reject as reject:
            yield reject.place("", key, found[0].planted_of(values))


def holds_pictures(file: Path | BinaryIO) -> bool:
    """Whether a Parquet file has a column of image bytes under a usual name; not where it can't be read."""
    try:
        schema = pq.read_metadata(file).schema.to_arrow_schema()
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return False
    return any(name.lower() in IMAGE_COLUMNS and holds_image_bytes(schema.field(i).type)
               for i, name in enumerate(schema.names))  # fmt: skip


class _Columns:
    """Which columns hold what."""

    def __init__(
        self, path: Path, schema: pa.Schema, image: str | None, caption: str | None, captions: bool
    ) -> None:
        self.labels = _label_names(schema)
        self.image = IMAGE.find(path, schema, image)
        self.caption = self._caption(path, schema, caption) if captions else None
        by_name = {name.lower(): name for name in reversed(schema.names)}
        self.key = next((by_name[n] for n in KEY_COLUMNS if n in by_name), None)
        self.planted, self.status = by_name.get("planted"), by_name.get("status")
        self.error = by_name.get("error_message")
        taken = (self.image, self.caption)
        self.told = [name for n, name in by_name.items() if n in MORE and name not in taken]
        names = (*taken, self.key, self.planted, self.status, self.error, *self.told)
        self.wanted = list(dict.fromkeys(name for name in names if name))

    def _caption(self, path: Path, schema: pa.Schema, asked: str | None) -> str:
        def is_caption(field: pa.Field) -> bool:
            # Numbers are captions only where the user says so: the labels of a set without names.
            is_number = asked is not None and pa.types.is_integer(field.type)
            return holds_text(field.type) or field.name in self.labels or is_number

        usual = [name for name in (*CAPTION_NAMES, *CONTAINERS) if name != self.image.lower()]
        return Wanted("caption", usual, [is_caption], TEXT_EXPECTED, "caption_column").find(
            path, schema, asked
        )

    def key_of(self, row: int, values: dict[str, Any]) -> str:
        """The row's number, and what the file itself calls it."""
        name = values[self.key] if self.key else None
        return f"row {row}" if name is None else f"row {row} ({name})"

    def planted_of(self, values: dict[str, Any]) -> str | None:
        value = values[self.planted] if self.planted else None
        return value if isinstance(value, str) else None

    def sample(self, key: str, values: dict[str, Any], pictures: Pictures) -> RawSample:
        """The row's sample; raises Reject."""
        status = values[self.status] if self.status else None
        if isinstance(status, str) and status != DOWNLOADED and not values[self.image]:
            why = values[self.error] if self.error else None
            raise Reject("not_downloaded", f"{status}: {why}" if why else status, lost=0)
        image = pictures.read(values[self.image])
        meta = {name: values[name] for name in self.told}
        if self.planted:
            meta["planted"] = self.planted_of(values)
        caption = self._caption_of(values[self.caption]) if self.caption else ""
        return RawSample(key, image, caption, meta)

    def _caption_of(self, value: Any) -> str:
        if not isinstance(value, int):
            return first_text(value)
        if self.caption not in self.labels:
            return str(value)
        names = self.labels[self.caption]
        if not 0 <= value < len(names):
            raise Reject("bad_record", f"no class {value} in {self.caption}")
        return str(names[value])


def _label_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Column -> class names, of the columns that Hugging Face datasets marks as ClassLabel."""
    try:
        info = parse_json((schema.metadata or {})[b"huggingface"])
        features = info["info"]["features"].items()
        labels = {
            n: f["names"] for n, f in features if isinstance(f, dict) and f.get("_type") == "ClassLabel"
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
    return {name: names for name, names in labels.items() if name in schema.names and isinstance(names, list)}
