"""A large file's digest is that of its content, and it is read again only where it may have changed."""

from __future__ import annotations

import hashlib
import os
import time

import pytest

from ddt.store import digests, remembered_digest


@pytest.fixture(autouse=True)
def large_files_are_small(monkeypatch, tmp_path):
    monkeypatch.setattr(digests, "LARGE_BYTES", 1)
    monkeypatch.setattr(digests, "SETTLED_SECONDS", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """Names of the files that are read."""
    found: list[str] = []
    plain = digests.sha256_file

    def noting(path):
        found.append(path.name)
        return plain(path)

    monkeypatch.setattr(digests, "sha256_file", noting)
    return found


def test_a_file_is_read_again_only_where_it_changed(tmp_path, reads):
    path = tmp_path / "shard.tar"
    path.write_bytes(b"one")
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    time.sleep(0.02)  # more than a tick of the file system's clock
    assert remembered_digest(path) == remembered_digest(path) == hashlib.sha256(b"one").hexdigest()
    assert reads == ["shard.tar"]
    path.write_bytes(b"two")  # as long, and with the old times set again
    os.utime(path, ns=times)
    time.sleep(0.02)
    assert remembered_digest(path) == hashlib.sha256(b"two").hexdigest()
    assert reads == ["shard.tar"] * 2


def test_what_may_still_change_is_not_remembered(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(digests, "SETTLED_SECONDS", 60.0)
    path = tmp_path / "shard.tar"
    path.write_bytes(b"one")
    assert remembered_digest(path) == remembered_digest(path)
    assert len(reads) == 2


def test_without_a_place_for_notes_files_are_read(tmp_path, reads, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    path = tmp_path / "shard.tar"
    path.write_bytes(b"one")
    time.sleep(0.02)
    assert remembered_digest(path) == remembered_digest(path) == hashlib.sha256(b"one").hexdigest()
    assert len(reads) == 2
