"""Columns of Parquet files: found by name and type whoever wrote them, read row by row, text as it is.

Arrow decodes a string only when it becomes Python's, and then fails for the whole batch where one is no UTF-8
(Arrow #29635). Here strings are taken as bytes and decoded one by one.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ddt.clean import decode_text, one_line
from ddt.data.readers.captions import CAPTION_NAMES
from ddt.data.readers.pictures import Pictures
from ddt.data.readers.sample import TYPICAL_SAMPLE_BYTES
from ddt.records import Reject

ROWS_PER_READ = 8  # of photographs some 40 MB; pyarrow holds the row group beside them

Suits = Callable[[pa.Field], bool]


@dataclass(frozen=True)
class Wanted:
    """A column that is looked for: what it holds, its usual names, and what suits.

    `suits` are tried one after the other: a column of bytes comes before one of paths. `option` is the
    parameter that can name it.
    """

    what: str
    usual: Sequence[str]
    suits: Sequence[Suits]
    expected: str
    option: str = ""

    def find(self, path: Path, schema: pa.Schema, asked: str | None = None) -> str:
        """The column's name; ValueError, naming the file and what there is of which type, if none suits."""
        by_name = {name.lower(): name for name in reversed(schema.names)}
        names = [by_name[name] for name in self.usual if name in by_name] if asked is None else [asked]
        for suits in (*self.suits, _is_empty):
            for name in names:
                if name in schema.names and suits(_field_of(path, schema, name)):
                    return name
        there = ", ".join(schema.names)
        if asked is not None and asked not in schema.names:
            raise ValueError(f"{path}: {self.option} {asked!r} does not exist; columns: {there}")
        how = f"; set {self.option}" if self.option and asked is None else ""
        if names:
            kind = one_line(_field_of(path, schema, names[0]).type, 80)
            named = f"{self.option} {asked!r}" if asked is not None else f"column {names[0]!r}"
            raise ValueError(
                f"{path}: {named} is of type {kind}, expected {self.expected}{how}; columns: {there}"
            )
        usual = ", ".join(self.usual[:5])
        raise ValueError(f"{path}: no column for the {self.what} ({usual} ...){how}; columns: {there}")


def _field_of(path: Path, schema: pa.Schema, name: str) -> pa.Field:
    found = schema.get_all_field_indices(name)
    if len(found) > 1:
        raise ValueError(f"{path}: there are {len(found)} columns {name!r}, expected one")
    return schema.field(found[0])


def _is_empty(field: pa.Field) -> bool:
    """Whether nothing is in a column of a file: its writer then knew no type for it."""
    return pa.types.is_null(field.type)


def is_bytes(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def items_of(kind: pa.DataType) -> pa.DataType | None:
    """The type of a list's items, None of what is no list."""
    lists = (
        pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view,
        pa.types.is_large_list_view,
    )  # fmt: skip
    return kind.value_type if any(is_list(kind) for is_list in lists) else None


def fields_of(kind: pa.DataType) -> dict[str, pa.DataType]:
    """The fields of a struct, none of what is none."""
    if not pa.types.is_struct(kind):
        return {}
    return {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}


def holds_text(kind: pa.DataType) -> bool:
    """Whether a column can be a caption's or an instruction's: text, its bytes, lists, a struct with one."""
    items = items_of(kind)
    if items is not None:
        return holds_text(items)
    inner = (kind for name, kind in fields_of(kind).items() if name.lower() in CAPTION_NAMES)
    return is_string(kind) or is_bytes(kind) or any(map(holds_text, inner))


def holds_image_bytes(kind: pa.DataType) -> bool:
    """Bytes, a struct with bytes as Hugging Face writes it, or lists of them."""
    items, fields = items_of(kind), fields_of(kind)
    if items is not None:
        return holds_image_bytes(items)
    if len(fields) == 1 and not {"bytes", "path"} & fields.keys():
        return holds_image_bytes(next(iter(fields.values())))
    return is_bytes(fields.get("bytes", kind))


def holds_image_paths(kind: pa.DataType) -> bool:
    """Paths, a struct with a path, or lists of them."""
    items, fields = items_of(kind), fields_of(kind)
    if items is not None:
        return holds_image_paths(items)
    if len(fields) == 1 and "path" not in fields:
        return holds_image_paths(next(iter(fields.values())))
    return is_string(fields.get("path", kind))


IMAGE_TYPES: tuple[Suits, ...] = (
    lambda field: holds_image_bytes(field.type),
    lambda field: holds_image_paths(field.type),
)
IMAGE_EXPECTED = "image bytes, a path, or a struct or list of one"
TEXT_EXPECTED = "text or a list of texts"


def open_parquet(path: Path) -> pq.ParquetFile:
    """The file by Parquet's own types, mapped into memory, whatever its name. Raises as pyarrow does.

    Arrow leaves a schema of its own in the footer. It would bring back dictionaries, which can't be built of
    strings that are no UTF-8, views and extension types, none of which tells more. So its name there is
    changed, in this mapping alone.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise pa.ArrowInvalid("an empty file")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    start = size - 8 - int.from_bytes(data[-8:-4], "little")
    if data[-4:] == b"PAR1" and start > 0:
        data[start:-8] = data[start:-8].replace(b"ARROW:schema", b"ARROW:ignore")
    return pq.ParquetFile(pa.BufferReader(pa.py_buffer(data)))


def read_rows(
    path: Path, choose: Callable[[pa.Schema], Sequence[str]]
) -> Iterator[tuple[int, dict[str, Any]] | Reject]:
    """(number, values by column) of each row in order, of the columns that `choose` picks from the schema.

    A file, or a row group, that can't be read gives a Reject, corrupt_archive, that counts its rows.
    """
    try:
        file = open_parquet(path)
        schema = file.schema_arrow
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        yield _corrupt(path, error, "unreadable", max(1, path.stat().st_size // TYPICAL_SAMPLE_BYTES))
        return
    with file:
        columns = list(dict.fromkeys(choose(schema)))
        row = 0
        for group in range(file.num_row_groups):
            end = row + file.metadata.row_group(group).num_rows
            try:
                for batch in file.iter_batches(ROWS_PER_READ, row_groups=[group], columns=columns):
                    for i in range(batch.num_rows):
                        yield row, {name: python_value(batch.column(name)[i]) for name in columns}
                        row += 1
            except (pa.ArrowException, OSError) as error:
                yield _corrupt(path, error, f"unreadable from row {row} to {end - 1}", end - row)
            row = end


def pictures_digest(path: Path, wanted: Sequence[Wanted]) -> str:
    """Hex sha256 of the sizes and times of pictures that these columns name by path; '' where none does."""
    try:
        schema = open_parquet(path).schema_arrow
        names = [column.find(path, schema) for column in wanted]
    except (pa.ArrowException, OSError, ValueError):  # told when the file is read
        return ""
    names = [name for name in names if not holds_image_bytes(schema.field(name).type)]
    if not names:
        return ""
    pictures, digest = Pictures(path.parent), hashlib.sha256()
    for item in read_rows(path, lambda _: names):
        if not isinstance(item, Reject):
            states = [pictures.state(item[1][name]) for name in names]
            digest.update(json.dumps(states).encode())
    return digest.hexdigest()


def _corrupt(path: Path, error: Exception, what: str, lost: int) -> Reject:
    if isinstance(error, OSError) and error.errno is not None:
        raise error  # the disk, not the file
    return Reject("corrupt_archive", f"{what}: {one_line(error)}", key=path.name, lost=lost)


def python_value(scalar: pa.Scalar) -> Any:
    """A scalar as Python's: a string that is no text as its bytes, what Python has no value for as None."""
    if not scalar.is_valid:
        return None
    kind = scalar.type
    if items_of(kind) is not None:
        return [python_value(item) for item in scalar.values]
    if pa.types.is_struct(kind):
        return {kind.field(i).name: python_value(scalar[i]) for i in range(kind.num_fields)}
    if is_string(kind):
        data = scalar.as_buffer().to_pybytes()
        try:
            return decode_text(data)
        except ValueError:
            return data
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, NotImplementedError):  # a date before the year 1, nanoseconds
        return None
