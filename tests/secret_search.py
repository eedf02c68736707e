"""Where in a folder a text stands: in names and bytes of files, and inside of what is packed or quoted there.

Opened are gzip, zlib, zip, tar, SQLite (row by row: a long value lies in pieces), PNG's compressed texts,
Parquet and Arrow, and base64 of any length; each again for what is in it.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import re
import sqlite3
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import pyarrow as pa
import pyarrow.parquet as pq

BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}")
DEEPEST = 6  # containers in containers: a picture in a page in an artifact is three
TEXT_CHUNKS = (b"zTXt", b"iTXt", b"iCCP")
ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
GZIP, ZIP, PNG, SQLITE = b"\x1f\x8b", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n", b"SQLite format 3\0"
PARQUET, ARROW = b"PAR1", b"ARROW1\0\0"


def find(folder: Path, wanted: dict[str, str]) -> dict[str, list[str]]:
    """name of a wanted text -> places where any form of it stands, each a file's path and the way into it."""
    forms = {name: _forms(text) for name, text in wanted.items()}
    found: dict[str, list[str]] = {name: [] for name in wanted}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        place = path.relative_to(folder).as_posix()
        for where, data in [(place, place.encode()), *_opened(place, path.read_bytes(), 0)]:
            for name, looks in forms.items():
                if any(form in data for form in looks):
                    found[name].append(where)
    return found


def _forms(text: str) -> set[bytes]:
    """As it is, quoted for an address, in JSON, in wide characters. Base64 is decoded where it stands."""
    written = {
        text,
        quote(text),
        quote(text, safe=""),
        quote_plus(text),
        json.dumps(text)[1:-1],
        repr(text)[1:-1],
    }
    return {form.encode() for form in written} | {text.encode("utf-16-le")}


def _opened(place: str, data: bytes, depth: int) -> Iterator[tuple[str, bytes]]:
    """The bytes, and all that is found in them."""
    yield place, data
    if depth == DEEPEST:
        return
    for name, inner in _inside(data):
        yield from _opened(f"{place}:{name}", inner, depth + 1)


def _inside(data: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        if data.startswith(GZIP):
            yield "gzip", gzip.decompress(data)
        elif data.startswith(ZIP):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                yield from ((name, archive.read(name)) for name in archive.namelist())
        elif data.startswith(PNG):
            yield from _png_texts(data)
        elif data.startswith(SQLITE):
            yield from _tables(data)
        elif data.startswith((PARQUET, ARROW)):
            yield "rows", repr(_table(data).to_pylist()).encode()
        elif data[257:262] == b"ustar":
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                files = ((member.name, archive.extractfile(member)) for member in archive)
                yield from ((name, file.read()) for name, file in files if file is not None)
        elif data.startswith(ZLIB):
            yield "zlib", zlib.decompress(data)
        else:
            yield from _base64(data)
    except (
        OSError,
        EOFError,
        ValueError,
        zlib.error,
        zipfile.BadZipFile,
        tarfile.TarError,
        pa.ArrowException,
        sqlite3.DatabaseError,
    ):
        return  # bytes that only begin like it, or that a killed writer left: searched as they are


def _png_texts(data: bytes) -> Iterator[tuple[str, bytes]]:
    at = len(PNG)
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind in TEXT_CHUNKS:
            body = data[at + 8 : at + 8 + length]
            begins = [found.start() for found in re.finditer(rb"\x78[\x01\x5e\x9c\xda]", body)]
            yield from ((kind.decode(), zlib.decompressobj().decompress(body[begin:])) for begin in begins)
        at += 12 + length


def _tables(data: bytes) -> Iterator[tuple[str, bytes]]:
    with sqlite3.connect(":memory:") as database:
        database.deserialize(data)
        database.text_factory = bytes
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (name,) in names:
            table = name.decode()
            for row in database.execute(f'SELECT * FROM "{table}"'):
                yield table, b"\n".join(v for v in row if isinstance(v, bytes))


def _table(data: bytes) -> pa.Table:
    file = pa.BufferReader(data)
    return pq.read_table(file) if data.startswith(PARQUET) else pa.ipc.open_file(file).read_all()


def _base64(data: bytes) -> Iterator[tuple[str, bytes]]:
    for run in BASE64.findall(data):
        plain = run.translate(bytes.maketrans(b"-_", b"+/"))
        with contextlib.suppress(ValueError):  # of one letter too many
            yield "base64", base64.b64decode(plain + b"=" * (-len(plain) % 4))
