"""The two stores behave alike: the same tests on a folder and on an S3 server (moto, over HTTP)."""

import errno
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest
from moto.s3.models import s3_backends

from ddt.store import MARKER, NotFound, StoreError, folder_digest, mark_complete, open_store
from ddt.store.s3 import S3Store
from tests.failing_s3 import FAULTS, failing_server


def make_folder(path: Path, text: str = "weights", complete: bool = True) -> Path:
    (path / "sub").mkdir(parents=True)
    (path / "model.safetensors").write_text(text)
    (path / "sub" / "config.json").write_text("{}")
    if complete:
        mark_complete(path)
    return path


class TestBothStores:
    def test_bytes_round_trip_and_replace(self, store):
        assert store.put_bytes("a/b.json", b"1") == store.uri("a/b.json")
        store.put_bytes("a/b.json", b"2")
        assert store.get_bytes("a/b.json") == b"2"
        assert store.exists("a/b.json") and not store.exists("a/c.json") and not store.exists("a")

    def test_file_round_trip_keeps_the_suffix(self, store, tmp_path):
        source = tmp_path / "x"
        source.write_bytes(os.urandom(100_000))
        store.put_file("shards/x.arrow", source)
        local = store.fetch("shards/x.arrow")
        assert local.suffix == ".arrow" and local.read_bytes() == source.read_bytes()
        assert source.exists()

    def test_fetch_sees_a_replacement(self, store):
        store.put_bytes("k", b"old")
        assert store.fetch("k").read_bytes() == b"old"
        store.put_bytes("k", b"newer")
        assert store.fetch("k").read_bytes() == b"newer"

    def test_missing_key_is_named(self, store):
        for read in (store.get_bytes, store.fetch):
            with pytest.raises(NotFound, match="a/none.*not found") as caught:
                read("a/none")
            assert "\n" not in str(caught.value)
        store.delete("a/none")

    def test_put_if_absent_keeps_the_first(self, store):
        assert store.put_if_absent("c.json", b"first")
        assert not store.put_if_absent("c.json", b"second")
        assert store.get_bytes("c.json") == b"first"
        store.delete("c.json")
        assert store.put_if_absent("c.json", b"third")

    def test_list_is_sorted_by_string_prefix(self, store):
        for key in ("u/b.json", "u/a.json", "u/deep/c.json", "v/a.json", "u2/a.json"):
            store.put_bytes(key, b"")
        assert store.list("u/") == ["u/a.json", "u/b.json", "u/deep/c.json"]
        assert store.list("u/de") == ["u/deep/c.json"]
        assert len(store.list()) == 5
        assert store.list("nothing/") == []

    def test_entries_have_size_and_time(self, store):
        before = time.time()
        for key in ("u/a.json", "u/b.json", "v/a.json"):
            store.put_bytes(key, b"12345")
        found = store.entries("u/")
        assert [(entry.key, entry.bytes) for entry in found] == [("u/a.json", 5), ("u/b.json", 5)]
        assert all(before - 2 <= entry.modified <= time.time() + 2 for entry in found)  # S3 has whole seconds
        assert [entry.key for entry in store.entries()] == store.list()

    def test_an_open_object_is_read_in_parts(self, store):
        data = bytes(range(256)) * 1000
        store.put_bytes("k", data)
        with store.open("k") as file:
            assert file.seek(1000) == 1000 and file.read(10) == data[1000:1010] and file.tell() == 1010
            assert file.seek(-5, os.SEEK_END) == len(data) - 5 and file.read() == data[-5:]
            assert file.read(1) == b""
            file.seek(0)
            assert file.read() == data
        with pytest.raises(NotFound):
            store.open("absent")

    @pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../b", "a//b", ".tmp/x", "a/./b", "a\\b"])
    def test_keys_never_leave_the_root(self, store, key):
        with pytest.raises(StoreError, match="store key"):
            store.put_bytes(key, b"")

    def test_survives_pickling(self, store):
        store.put_bytes("k", b"v")
        assert pickle.loads(pickle.dumps(store)).get_bytes("k") == b"v"

    def test_tree_round_trip(self, store, tmp_path):
        folder = make_folder(tmp_path / "model")
        store.put_tree("models/m1", folder)
        fetched = store.fetch_tree("models/m1")
        assert folder_digest(fetched) == folder_digest(folder)
        assert (fetched / "sub" / "config.json").read_text() == "{}"
        assert (fetched / MARKER).is_file()
        store.put_tree("models/m1", folder)  # the same again is nothing

    def test_incomplete_tree_is_refused_on_both_ways(self, store, tmp_path):
        folder = make_folder(tmp_path / "model", complete=False)
        with pytest.raises(StoreError, match=f"no {MARKER}"):
            store.put_tree("models/m", folder)
        store.put_bytes("models/half/model.safetensors", b"half")
        with pytest.raises(StoreError, match=f"no {MARKER}"):
            store.fetch_tree("models/half")
        mark_complete(folder)
        store.put_tree("models/half", folder)  # what a killed writer left gives way
        assert folder_digest(store.fetch_tree("models/half")) == folder_digest(folder)

    def test_complete_tree_never_changes(self, store, tmp_path):
        store.put_tree("m", make_folder(tmp_path / "a"))
        with pytest.raises(StoreError, match="another complete folder"):
            store.put_tree("m", make_folder(tmp_path / "b", text="other"))

    def test_one_winner_among_workers(self, store):
        # to S3 all requests go through the server: threads race as processes do
        kind = ThreadPool if isinstance(store, S3Store) else multiprocessing.get_context("forkserver").Pool
        with kind(3) as pool:
            wins = pool.starmap(claim, [(store, f"worker {i}".encode()) for i in range(12)])
        assert sum(won for won, _ in wins) == 1
        assert store.get_bytes("claimed") == next(data for won, data in wins if won)


def claim(store, data):
    return store.put_if_absent("claimed", data), data


class TestFolder:
    def test_reader_never_sees_a_partial_file(self, tmp_path):
        """A writer is killed again and again while it replaces a large object."""
        store = open_store(tmp_path)
        sizes = (3_000_000, 4_000_000)
        store.put_bytes("big", b"a" * sizes[0])
        for delay in (0.002, 0.005, 0.01, 0.02):
            writer = multiprocessing.get_context("fork").Process(target=rewrite, args=(store, sizes))
            writer.start()
            time.sleep(delay)
            os.kill(writer.pid, signal.SIGKILL)
            writer.join()
            data = store.get_bytes("big")
            assert len(data) in sizes and len(set(data[:: len(data) // 7])) == 1
        assert store.list() == ["big"]

    @pytest.mark.parametrize(
        ("code", "words"),
        [(errno.EROFS, "read-only"), (errno.ENOSPC, "no space left"), (errno.EACCES, "permission denied")],
    )
    def test_unwritable_store_is_one_line(self, tmp_path, monkeypatch, code, words):
        store = open_store(tmp_path)

        def refuse(*args, **kwargs):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(Path, "write_bytes", refuse)
        monkeypatch.setattr(shutil, "copyfile", refuse)
        for put in (
            lambda: store.put_bytes("k", b""),
            lambda: store.put_if_absent("k", b""),
            lambda: store.put_file("k", __file__),
        ):
            with pytest.raises(StoreError, match=f"{tmp_path}/k: .*{words}") as caught:
                put()
            assert "\n" not in str(caught.value)
        assert store.list() == []

    def test_place_that_cannot_be_a_store(self, tmp_path):
        (tmp_path / "file").write_text("")
        for place in (tmp_path / "file", tmp_path / "file" / "sub", "/proc/nowhere"):
            with pytest.raises(StoreError, match=str(place)):
                open_store(place)
        for place in ("gs://bucket", ""):
            with pytest.raises(StoreError, match="want a folder or s3"):
                open_store(place)

    def test_links_are_not_part_of_a_model(self, tmp_path):
        folder = make_folder(tmp_path / "m", complete=False)
        (folder / "link").symlink_to("/etc/hostname")
        with pytest.raises(StoreError, match="links"):
            mark_complete(folder)

    def test_digest_is_of_names_and_content(self, tmp_path):
        a, b = make_folder(tmp_path / "a"), make_folder(tmp_path / "b", complete=False)
        assert folder_digest(a) == folder_digest(b)
        (b / "model.safetensors").rename(b / "renamed.safetensors")
        assert folder_digest(a) != folder_digest(b)


def rewrite(store, sizes):
    for letter in (b"b", b"a") * 1000:
        store.put_bytes("big", letter * sizes[letter == b"b"])


class TestS3:
    def test_without_boto3_the_extra_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "boto3", None)
        with pytest.raises(
            StoreError, match=r"s3://b/p: .* needs boto3: pip install 'ddt-llama\[pipeline\]'"
        ):
            open_store("s3://b/p")

    def test_more_keys_than_one_page(self, s3_endpoint, tmp_path):
        store = S3Store(f"s3://test-bucket/{tmp_path.name}", tmp_path)
        backend = s3_backends["123456789012"]["aws"]  # the server's own memory: no 1003 requests
        for index in range(1003):
            backend.put_object("test-bucket", f"{tmp_path.name}/units/{index:05d}.json", b"")
        assert len(store.list("units/")) == 1003
        many = store.get_many(store.list("units/000"))
        assert len(many) == 100 and set(many.values()) == {b""}

    def test_of_an_open_object_only_what_is_read_is_fetched(self, s3_endpoint, tmp_path, monkeypatch):
        store, fetched = S3Store(f"s3://test-bucket/{tmp_path.name}", tmp_path / "cache"), []
        store.put_bytes("k", bytes(1 << 20))
        get = store._client.get_object
        monkeypatch.setattr(
            store._client, "get_object", lambda **call: fetched.append(call["Range"]) or get(**call)
        )
        with store.open("k") as file:
            file.seek(500_000)
            assert len(file.read(100)) == len(file.read(100)) == 100
            assert fetched == ["bytes=500000-565535"]
            store.put_bytes("k", b"another")
            file.seek(0)
            with pytest.raises(StoreError, match="PreconditionFailed"):
                file.read(1)

    def test_missing_bucket_is_one_line(self, s3_endpoint):
        store = open_store("s3://no-such-bucket/x")
        for use in (lambda: store.put_bytes("k", b""), lambda: store.list(), lambda: store.get_bytes("k")):
            with pytest.raises(StoreError, match="s3://no-such-bucket.*the bucket does not exist") as caught:
                use()
            assert "\n" not in str(caught.value)

    def test_no_credentials_is_one_line(self, s3_endpoint, monkeypatch, tmp_path):
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
        with pytest.raises(StoreError, match="s3://test-bucket/x/k: .*credentials") as caught:
            open_store("s3://test-bucket/x").get_bytes("k")
        assert "\n" not in str(caught.value)

    def test_endpoint_down_is_one_line(self, s3_endpoint, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *a: 0)
        with pytest.raises(StoreError, match="127.0.0.1:1"):
            open_store("s3://test-bucket/x").get_bytes("k")

    def test_endpoint_without_conditional_put_is_refused(self, s3_endpoint, tmp_path, monkeypatch):
        store = S3Store("s3://test-bucket/unconditional")
        put = store._client.put_object
        monkeypatch.setattr(
            store._client,
            "put_object",
            lambda **call: put(**{k: v for k, v in call.items() if k != "IfNoneMatch"}),
        )
        with pytest.raises(StoreError, match="If-None-Match"):
            store.put_if_absent("k", b"")

    def test_changed_tree_is_noticed(self, s3_endpoint, tmp_path):
        store = S3Store(f"s3://test-bucket/{tmp_path.name}", tmp_path / "cache")
        store.put_tree("m", make_folder(tmp_path / "m"))
        store.put_bytes("m/model.safetensors", b"replaced")
        with pytest.raises(StoreError, match="model.safetensors.*not what _COMPLETE says"):
            store.fetch_tree("m")

    def test_a_key_in_the_address_is_refused_and_not_told(self):
        for uri in ("s3://AKIAID:s3cr+t@bucket/prefix", "s3://AKIAID:s3c@r+t@bucket", "s3://s3cr+t@bucket/x"):
            with pytest.raises(StoreError) as error:
                open_store(uri)
            told = "s3://***@bucket: want s3://bucket/prefix, and credentials from the AWS chain alone"
            assert str(error.value) == told

    def test_bucket_alone_is_a_store(self, s3_endpoint):
        store = open_store("s3://test-bucket/")
        store.put_bytes("at-the-root", b"x")
        assert store.uri("at-the-root") == "s3://test-bucket/at-the-root"
        assert "at-the-root" in store.list("at")
        with pytest.raises(StoreError, match="want s3://bucket"):
            open_store("s3://")

    def test_a_server_that_fails_is_asked_again(self, s3_endpoint, tmp_path, monkeypatch):
        """It fails in every way; also what was put without an answer is there."""
        monkeypatch.setattr("ddt.store.s3.READ_AGAIN_AFTER_S", 0)
        monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
        with failing_server() as (address, seen):
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
            store = S3Store(f"s3://test-bucket/{tmp_path.name}", tmp_path / "cache")
            for number in range(40):
                key, data = f"units/{number}", bytes([number]) * 100_000
                store.put_if_absent(key, data)
                assert store.get_bytes(key) == data and store.fetch(key).read_bytes() == data
                with store.open(key) as file:
                    file.seek(10)
                    assert file.read(70_000) == data[:70_000]
            assert len(store.get_many(store.list("units/"))) == 40
            assert seen.keys() - {""} == FAULTS.keys()
