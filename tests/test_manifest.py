"""Units are done once whatever happens, and a manifest depends on what was made, not on how."""

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddt.manifest import (
    Commit,
    Manifest,
    Quarantined,
    canonical_json,
    commit,
    commits,
    fingerprint,
    modules_digest,
    put_shard,
    unit_id,
    verify,
    write_unit,
)
from ddt.store import MARKER, StoreError, folder_digest, mark_complete, open_store
from tests.processes import HANGS_AFTER_S

STAGE, PRINT = "score", "f" * 64


def unit(index):
    return unit_id(f"input {index}", PRINT)


def do_unit(root, index, text=None, pause=0.0):
    """A worker: makes the shard, puts it, pauses, commits."""
    store = open_store(root)
    path = store.root.parent / f"work-{os.getpid()}-{time.monotonic_ns()}.arrow"
    path.write_text(text or f"content of {index}")
    if pause:
        put_shard(store, STAGE, PRINT, unit(index), path)
        time.sleep(pause)
    return write_unit(store, STAGE, PRINT, unit(index), path, rows=index, rejects={"too_small": 1})


def test_unit_is_committed_with_its_facts(tmp_path):
    done = do_unit(tmp_path / "store", 3)
    store = open_store(tmp_path / "store")
    assert commits(store, STAGE, PRINT) == {unit(3): done}
    assert store.get_bytes(done.key) == b"content of 3"
    assert (done.rows, done.bytes, done.rejects) == (3, 12, {"too_small": 1})
    assert done.key.startswith(f"shards/{STAGE}/{PRINT[:16]}/{unit(3)}")
    assert commits(store, STAGE, "0" * 64) == {} and commits(store, "select", PRINT) == {}


@pytest.mark.parametrize("same", [True, False])
def test_two_processes_leave_one_result(tmp_path, same):
    """Racing workers, with equal and with different bytes (a GPU is not always deterministic)."""
    root = tmp_path / "store"
    tasks = [(root, i % 4, None if same else f"worker {w} unit {i}") for w in range(3) for i in range(8)]
    with multiprocessing.get_context("forkserver").Pool(3) as pool:
        answers = pool.starmap(do_unit, tasks, chunksize=1)
    store = open_store(root)
    found = commits(store, STAGE, PRINT)
    assert set(found) == {unit(i) for i in range(4)}
    assert all(found[answer.unit] == answer for answer in answers), (
        "every worker hears of the one that stands"
    )
    assert len(store.list("shards/")) == len(store.list("units/")) == 4
    assert verify(store, Manifest(STAGE, PRINT, {}, tuple(found.values()))) == []


def test_kill_between_shard_and_commit(tmp_path):
    root = tmp_path / "store"
    for index in (1, 2):
        do_unit(root, index)
    worker = multiprocessing.get_context("forkserver").Process(
        target=do_unit, args=(root, 3, None, HANGS_AFTER_S)
    )
    worker.start()
    store = open_store(root)
    deadline = time.monotonic() + HANGS_AFTER_S
    while len(store.list("shards/")) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    assert len(store.list("shards/")) == 3
    assert set(commits(store, STAGE, PRINT)) == {unit(1), unit(2)}, "a shard without a commit is not done"
    do_unit(root, 3)
    straight = tmp_path / "straight"
    for index in (3, 1, 2):
        do_unit(straight, index)
    again, want = (Manifest(STAGE, PRINT, {}, commits(open_store(r), STAGE, PRINT)) for r in (root, straight))
    assert again.to_json() == want.to_json() and len(want.commits) == 3


def test_deleted_shard_is_undone_and_redone(tmp_path):
    done = do_unit(tmp_path, 1)
    store = open_store(tmp_path)
    manifest = Manifest(STAGE, PRINT, {}, (done,))
    store.delete(done.key)
    assert commits(store, STAGE, PRINT) == {}
    assert verify(store, manifest) == [f"{store.uri(done.key)}: missing"]
    other = do_unit(tmp_path, 1, text="other bytes")
    assert commits(store, STAGE, PRINT) == {unit(1): other}


def test_changed_shard_is_found(tmp_path):
    done = do_unit(tmp_path, 1)
    store = open_store(tmp_path)
    store.put_bytes(done.key, b"flipped")
    assert verify(store, Manifest(STAGE, PRINT, {}, (done,))) == [
        f"{store.uri(done.key)}: its content has changed"
    ]


def test_a_changed_model_is_found(tmp_path):
    """A model's commit stands for its folder: every file counts, not the marker alone."""
    store, folder = open_store(tmp_path / "store"), tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "weights").write_bytes(b"12")
    mark_complete(folder)
    store.put_tree("shards/x/model", folder)
    done = Commit(unit(1), f"shards/x/model/{MARKER}", 1, 2, folder_digest(folder))
    manifest = Manifest("x", PRINT, {}, (done,))
    assert verify(store, manifest) == []
    stored = store.fetch_tree("shards/x/model")
    (stored / "weights").write_bytes(b"13")
    assert verify(store, manifest) == [f"{store.uri(done.key)}: its content has changed"]
    (stored / "weights").unlink()
    assert verify(store, manifest) == [f"{stored}/weights: missing, expected 2 bytes; the folder is damaged"]


def test_rejects_have_their_own_shard(tmp_path):
    store = open_store(tmp_path / "store")
    for name in ("good", "bad"):
        (tmp_path / f"{name}.arrow").write_text(name)
    done = write_unit(
        store, STAGE, PRINT, unit(1), tmp_path / "good.arrow", 1, rejects_path=tmp_path / "bad.arrow"
    )
    assert store.get_bytes(done.rejects_key) == b"bad"
    assert commits(store, STAGE, PRINT)[unit(1)].rejects_key == done.rejects_key


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"format": 2}', b"\xff"])
def test_damaged_commit_is_named(tmp_path, damage):
    do_unit(tmp_path, 1)
    store = open_store(tmp_path)
    key = store.list("units/")[0]
    store.put_bytes(key, damage)
    with pytest.raises(StoreError, match=f"{unit(1)}.json: not a commit record"):
        commits(store, STAGE, PRINT)


COMMITS = [
    Commit(
        unit(i),
        f"k{i}",
        i,
        10 * i,
        f"{i * 7 % 5:064x}",
        {"too_small": i},
        {"mean": i / 3},
        None,
        {"s": float(i)},
    )
    for i in range(5)
]


@given(st.permutations(COMMITS))
def test_manifest_is_the_same_in_any_order(order):
    want = Manifest(STAGE, PRINT, {"a": "1", "b": "2"}, tuple(COMMITS), {"k": 1})
    got = Manifest(STAGE, PRINT, {"b": "2", "a": "1"}, {c.unit: c for c in order}, {"k": 1})
    assert got.to_json() == want.to_json()
    assert [c.sha256 for c in got.commits] == sorted(c.sha256 for c in COMMITS)


def test_digest_is_of_rows_and_shards_only():
    base = Manifest(STAGE, PRINT, {}, tuple(COMMITS))
    moved = [
        dataclasses.replace(c, key=f"elsewhere/{c.key}", timing={"s": 9.0}, unit=c.unit[::-1])
        for c in COMMITS
    ]
    assert Manifest("other", "0" * 64, {"x": "y"}, tuple(moved)).digest == base.digest
    for change in ({"rows": 99}, {"sha256": "e" * 64}):
        other = (dataclasses.replace(COMMITS[0], **change), *COMMITS[1:])
        assert Manifest(STAGE, PRINT, {}, other).digest != base.digest
    assert Manifest(STAGE, PRINT, {}, tuple(COMMITS[1:])).digest != base.digest


def test_manifest_file_has_no_times_and_round_trips(tmp_path):
    manifest = Manifest(STAGE, PRINT, {"ingest": "d" * 64}, tuple(COMMITS), {"kept": 3})
    path = manifest.save(tmp_path / "deep" / "score.json")
    assert "timing" not in path.read_text() and json.loads(path.read_text())["digest"] == manifest.digest
    loaded = Manifest.load(path)
    assert (
        loaded.to_json() == manifest.to_json() and loaded.rows == 10 and loaded.rejects == {"too_small": 10}
    )
    assert [p.name for p in path.parent.iterdir()] == ["score.json"]
    empty = Manifest(STAGE, PRINT, {}, ())
    assert Manifest.load(empty.save(path)).to_json() == empty.to_json()


def test_a_missing_unit_makes_another_version(tmp_path):
    units = tuple(Commit(f"{n:032x}", f"shards/{n}", n, 1, f"{n:064x}") for n in range(3))
    missing = Quarantined(units[2].unit, "c.tar", "its worker was lost")
    whole, lacking, never = (
        Manifest("ingest", "f" * 64, {}, made, quarantined=left_out)
        for made, left_out in ((units, ()), (units[:2], (missing,)), (units[:2], ()))
    )
    assert len({whole.digest, lacking.digest, never.digest}) == 3
    assert lacking.units == whole.units != never.units
    assert Manifest.load(lacking.save(tmp_path / "m.json")) == lacking
    for_another_reason = dataclasses.replace(lacking, quarantined=(dataclasses.replace(missing, reason="x"),))
    assert for_another_reason.digest == lacking.digest and for_another_reason.key != lacking.key


def test_a_kept_manifest_is_found_by_its_key_and_never_changes(tmp_path):
    store = open_store(tmp_path / "store")
    units = (do_unit(tmp_path / "store", 1),)
    one = Manifest(STAGE, PRINT, {"ingest": "d"}, units, made_from={"ingest": "manifests/ingest/d/1.json"})
    other = dataclasses.replace(one, made_from={"ingest": "manifests/ingest/d/2.json"})
    assert one.digest == other.digest and one.keep(store) != other.keep(store)
    assert one.key.startswith(f"manifests/{STAGE}/{one.digest}/")
    assert Manifest.kept(store, one.keep(store)) == one and Manifest.kept(store, other.key) == other
    store.put_bytes(one.key, other.to_json().encode())
    with pytest.raises(StoreError, match="its content has changed"):
        Manifest.kept(store, one.key)
    store.delete(one.key)
    with pytest.raises(StoreError, match="no such manifest; it was removed from the store"):
        Manifest.kept(store, one.key)


def test_unreadable_manifest_is_named(tmp_path):
    path = tmp_path / "m.json"
    with pytest.raises(ValueError, match="m.json: no such manifest; run the stage"):
        Manifest.load(path)
    for text in ("", "[]", "{}"):
        path.write_text(text)
        with pytest.raises(ValueError, match="m.json: not a manifest"):
            Manifest.load(path)
    Manifest(STAGE, PRINT, {}, tuple(COMMITS)).save(path)
    path.write_text(path.read_text().replace('"rows":4', '"rows":5'))
    with pytest.raises(ValueError, match="does not match"):
        Manifest.load(path)


@dataclasses.dataclass(frozen=True)
class Section:
    rate: float
    sizes: tuple[int, ...]


def test_fingerprint_depends_on_all_of_it_and_on_nothing_else():
    modules = ["ddt.records", "ddt.store"]
    base = fingerprint(Section(0.1, (1, 2)), {"a": "x", "b": "y"}, modules)
    assert base == fingerprint({"sizes": [1, 2], "rate": 0.1}, {"b": "y", "a": "x"}, modules[::-1])
    assert base != fingerprint(Section(0.2, (1, 2)), {"a": "x", "b": "y"}, modules)
    assert base != fingerprint(Section(0.1, (1, 2)), {"a": "x", "b": "z"}, modules)
    assert base != fingerprint(Section(0.1, (1, 2)), {"a": "x", "b": "y"}, ["ddt.records"])
    with pytest.raises(ValueError, match="ddt.nowhere"):
        fingerprint({}, {}, ["ddt.nowhere"])
    with pytest.raises(TypeError, match="object has no canonical JSON"):
        canonical_json({"a": object()})


DIGEST_OF_PACKAGE = """
import sys; sys.path.insert(0, sys.argv[1])
from ddt.manifest import modules_digest
print(modules_digest(["pack", "pack.sub.mod"]))
"""


def test_source_digest_is_the_same_wherever_it_lies(tmp_path):
    """Another folder, another hash seed, compiled files beside it: the same; one changed letter: not."""

    def digest(place, seed):
        environment = os.environ | {"PYTHONHASHSEED": str(seed)}
        command = [sys.executable, "-c", DIGEST_OF_PACKAGE, str(place)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    for place, newline in (("a", "\n"), ("b/deeper", "\r\n")):
        package = tmp_path / place / "pack" / "sub"
        package.mkdir(parents=True)
        for name in ("__init__.py", "../__init__.py", "mod.py"):
            (package / name).write_text(f"x = 1{newline}", newline="")
    (tmp_path / "a" / "pack" / "data.bin").write_bytes(b"not source")
    first = digest(tmp_path / "a", 1)
    assert digest(tmp_path / "a", 2) == first == digest(tmp_path / "b/deeper", 3)
    (tmp_path / "a" / "pack" / "sub" / "mod.py").write_text("x = 2\n")
    assert digest(tmp_path / "a", 1) != first
    assert modules_digest(["ddt.store"]) == modules_digest(["ddt.store", "ddt.store"])


def test_commit_returns_the_one_that_stands(tmp_path):
    store = open_store(tmp_path / "store")
    path = tmp_path / "x.arrow"
    path.write_text("x")
    key, size, digest = put_shard(store, STAGE, PRINT, unit(1), path)
    first = Commit(unit(1), key, 1, size, digest, timing={"seconds": 1.0})
    assert commit(store, STAGE, PRINT, first) == first
    assert commit(store, STAGE, PRINT, dataclasses.replace(first, timing={"seconds": 2.0})) == first
    assert store.exists(key), "the loser wrote the same shard: it stays"
