"""Sources on S3 are listed by the driver and read where the work is; what is read is what was listed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ddt.data.readers import copy_here, list_sources
from ddt.manifest import Manifest
from ddt.params import load_params
from ddt.store import NotFound, S3Store, Store, StoreError, open_store
from ddt.store.cache import FILE_GRACE_S, TREE_GRACE_S, make_room
from pipelines import ingest
from tests.data.test_instruction_readers import png, said
from tests.data.test_readers import image, write_tar
from tests.pipelines.test_own_data import PARAMS, Stages


@pytest.fixture
def crawl(tmp_path: Path) -> Path:
    """Two tars, one of them twice, with img2dataset's metadata, and a Parquet file of pictures."""
    folder = tmp_path / "crawl"
    folder.mkdir()
    for n in range(2):
        pairs = [(f"{n}{i}.{kind}", data) for i in range(3) for kind, data in
                 (("jpg", image(3 * n + i)), ("txt", f"text {n} {i}".encode()))]  # fmt: skip
        write_tar(folder / f"{n}.tar", pairs)
        pq.write_table(pa.table({"url": ["u"] * 3, "caption": ["c"] * 3}), folder / f"{n}.parquet")
    (folder / "copy.tar").write_bytes((folder / "1.tar").read_bytes())
    pq.write_table(
        pa.table({"image": [png("red"), png("blue")], "caption": ["r", "b"]}), folder / "p.parquet"
    )
    return folder


def upload(folder: Path, prefix: str) -> Store:
    bucket = open_store("s3://test-bucket")
    for path in folder.iterdir():
        bucket.put_file(f"{prefix}/{path.name}", path)
    return bucket


@pytest.fixture
def prefix(s3_endpoint, tmp_path: Path, crawl: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    upload(crawl, f"{tmp_path.name}/raw")
    return f"{tmp_path.name}/raw"


def test_objects_are_listed_not_read(prefix, tmp_path, crawl, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(S3Store, "_download", lambda *_: pytest.fail("an object was downloaded"))
        found = list_sources(f"s3://test-bucket/{prefix}")
    assert [source.name for source in found] == [source.name for source in list_sources(crawl)]
    assert [source.name for source in found] == ["0.tar", "1.tar", "p.parquet"]  # and copy.tar once
    for source in found:
        assert source.fetch().read_bytes() == (crawl / source.name).read_bytes()
        copied = copy_here(source.place, source.version, tmp_path / "unit")
        assert copied.read_bytes() == (crawl / source.name).read_bytes()


def test_a_changed_object_is_named(prefix, tmp_path, crawl, monkeypatch):
    first, second, third = list_sources(f"s3://test-bucket/{prefix}")
    bucket = open_store("s3://test-bucket")
    bucket.put_bytes(f"{prefix}/0.tar", b"another")
    changed = rf"^s3://test-bucket/{prefix}/0.tar: has changed since it was listed"
    for read in (first.fetch, lambda: copy_here(first.place, first.version, tmp_path)):
        with pytest.raises(StoreError, match=changed):
            read()
    assert list_sources(f"s3://test-bucket/{prefix}")[0].digest != first.digest
    bucket.delete(f"{prefix}/1.tar")
    with pytest.raises(NotFound, match="1.tar: not found"):
        second.fetch()

    download = S3Store._download

    def overtaken(self: S3Store, key: str, path: Path) -> None:
        bucket.put_bytes(key, b"another")
        download(self, key, path)

    monkeypatch.setattr(S3Store, "_download", overtaken)
    with pytest.raises(StoreError, match=r"p.parquet: has changed since it was listed"):
        copy_here(third.place, third.version, tmp_path)
    assert not (tmp_path / "p.parquet").exists()


def test_ingest_makes_the_same_of_a_folder_and_of_s3(prefix, tmp_path, crawl, monkeypatch):
    (crawl / "chat").mkdir()
    (crawl / "chat/chat.jsonl").write_text(f'{{"conversations": {said("hello", "hi")}}}'.replace("'", '"'))
    upload(crawl / "chat", f"{prefix}-chat")
    digests = []
    for place in (str(crawl), f"s3://test-bucket/{prefix}"):
        chat = f"{crawl}/chat/chat.jsonl" if place == str(crawl) else f"{place}-chat/chat.jsonl"
        settings = [f"ingest.source={place}", "ingest.min_side_px=8", f"ingest.conversations={chat}"]
        folder = tmp_path / f"run{len(digests)}"
        folder.mkdir()
        stages = Stages(load_params(PARAMS, overrides=settings), folder, monkeypatch)
        report = stages.run(ingest, "ingest")
        assert (report.metrics["ingest/pairs"], report.metrics["ingest/chat"]) == (8, 1)
        digests.append(Manifest("ingest", "", {}, stages.inputs["ingest"].commits).digest)
    assert digests[0] == digests[1]


def test_the_longest_unused_copies_make_room(tmp_path):
    ages = {"a": 3 * FILE_GRACE_S, "b": 2 * FILE_GRACE_S, "c": FILE_GRACE_S / 2}
    for name, age in ages.items():
        path = tmp_path / (name * 32) / "0.tar"
        path.parent.mkdir()
        path.write_bytes(bytes(100))
        os.utime(path, (time.time() - age,) * 2)
    tree = tmp_path / "trees" / "d"
    tree.mkdir(parents=True)
    for name in ("model.safetensors", "_COMPLETE"):
        (tree / name).write_bytes(bytes(50))
    os.utime(tree / "_COMPLETE", (time.time() - TREE_GRACE_S / 2,) * 2)  # in use perhaps, though the oldest
    (tmp_path / "digests").mkdir()
    (tmp_path / "digests" / ("e" * 64)).write_bytes(bytes(100))

    def left() -> list[str]:
        return sorted(path.name[0] for path in [*tmp_path.glob("?" * 32), *tree.parent.iterdir()])

    assert make_room(tmp_path) == [] and make_room(tmp_path, 400) == []
    make_room(tmp_path, 350)
    assert left() == ["b", "c", "d"]
    make_room(tmp_path, 0)
    assert left() == ["c", "d"]
    os.utime(tree / "_COMPLETE", (time.time() - 2 * TREE_GRACE_S,) * 2)
    make_room(tmp_path, 0)
    assert left() == ["c"] and list((tmp_path / "digests").iterdir())
