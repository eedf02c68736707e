"""The search for secrets finds one wherever it is hidden: else a run's silence would prove nothing."""

from __future__ import annotations

import base64
import gzip
import io
import json
import pickle
import sqlite3
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from tests.secret_search import find

SECRET = "s3/cr+t@of:ann's"


def png(zipped: bool) -> bytes:
    text, file = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_itxt("ddt", f"drawn by {SECRET}", zip=zipped)
    Image.new("RGB", (4, 4)).save(file, "PNG", pnginfo=text)
    return file.getvalue()


def database(folder: Path) -> bytes:
    """A value so long that it lies on several pages, the secret across two of them."""
    path = folder / "made.db"
    with sqlite3.connect(path) as made:
        made.execute("PRAGMA page_size = 512")
        made.execute("CREATE TABLE tags (value TEXT)")
        made.execute("INSERT INTO tags VALUES (?)", (SECRET * 200,))
    made.close()
    data = path.read_bytes()
    path.unlink()
    return data


def tar(folder: Path) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        member = tarfile.TarInfo("code/settings.yaml")
        member.size = len(SECRET)
        archive.addfile(member, io.BytesIO(SECRET.encode()))
    return file.getvalue()


def archive(folder: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("inner.json", json.dumps({"uri": SECRET}))
    return file.getvalue()


def parquet(folder: Path) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"text": [SECRET, "other"]}), file, compression="zstd")
    return file.getvalue()


def page(folder: Path) -> bytes:
    """A picture in a page, as cards have it."""
    return b"<img src='data:image/png;base64," + base64.b64encode(png(zipped=True)) + b"'>"


HIDDEN: dict[str, Callable[[Path], bytes]] = {
    "plain": lambda _: f"the key is {SECRET}".encode(),
    "quoted": lambda _: f"http://ann:{quote(SECRET, safe='')}@host".encode(),
    "json": lambda _: json.dumps({"key": SECRET}).encode(),
    "artifact": lambda _: gzip.compress(pickle.dumps({"settings": {"uri": SECRET}}, protocol=4)),
    "zlib": lambda _: zlib.compress(SECRET.encode()),
    "base64": lambda _: b"x: " + base64.urlsafe_b64encode(f"ab{SECRET}c".encode()).rstrip(b"="),
    "png": lambda _: png(zipped=False),
    "zipped png": lambda _: png(zipped=True),
    "database": database,
    "tar": tar,
    "zip": archive,
    "parquet": parquet,
    "page": page,
    "page in an artifact": lambda folder: gzip.compress(pickle.dumps(page(folder))),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_it_is_found(kind: str, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").write_bytes(HIDDEN[kind](tmp_path))
    found = find(tmp_path, {"key": SECRET, "other": "what is nowhere"})
    assert found["other"] == []
    assert found["key"] and all(place.startswith("below/file") for place in found["key"])


def test_it_is_found_in_a_name(tmp_path: Path) -> None:
    (tmp_path / f"mlflow.db?password={quote(SECRET, safe='')}").write_bytes(b"")
    assert find(tmp_path, {"key": SECRET})["key"]


def test_what_only_looks_like_a_container_is_read_as_it_is(tmp_path: Path) -> None:
    for number, begin in enumerate(
        (b"\x1f\x8b", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n", b"SQLite format 3\0", b"PAR1", b"\x78\x9c")
    ):
        (tmp_path / f"{number}").write_bytes(begin + SECRET.encode())
    assert find(tmp_path, {"key": SECRET})["key"] == [f"{number}" for number in range(6)]
