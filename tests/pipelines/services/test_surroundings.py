"""What is put into the environment where a machine lacks it, and what is told: in processes with exactly that
environment. /proc takes no files, whoever asks."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipelines.services.surroundings import LONGEST_SOCKET, SOCKET_BYTES, why_unwritable

ROOT = Path(__file__).resolve().parents[3]
CODE = """
import getpass, json, os
from pipelines.services.surroundings import prepare
before = dict(os.environ)
prepare()
changed = {name: value for name, value in os.environ.items() if before.get(name) != value}
print(json.dumps([changed, getpass.getuser()]))
"""


def prepared(code: str = CODE, **environment: str) -> tuple[dict[str, str], str, list[str]]:
    """What `prepare` sets, the user's name after it, and the lines it tells."""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    changed, user = json.loads(done.stdout)
    return changed, user, done.stderr.splitlines()


def test_where_nothing_is_missing_nothing_is_told(tmp_path: Path) -> None:
    changed, user, lines = prepared(HOME=str(tmp_path), USER="ann")
    assert changed == {"METAFLOW_USER": "ann"} and user == "ann" and lines == []


@pytest.mark.parametrize("given", [{}, {"USER": "root"}, {"USER": "", "METAFLOW_USER": ""}])
def test_metaflow_always_has_a_name_that_it_takes(given: dict[str, str], tmp_path: Path) -> None:
    unknown = CODE.replace("before =", "import pwd; pwd.getpwuid = lambda uid: {}[uid]\nbefore =")
    changed, user, lines = prepared(unknown, HOME=str(tmp_path), **given)
    assert changed["METAFLOW_USER"] == "ddt" and lines == []
    assert user == (given.get("USER") or "ddt")  # no KeyError any more


@pytest.mark.parametrize("home", ["/proc/none", "a file"])
def test_caches_are_elsewhere_where_home_takes_no_files(home: str, tmp_path: Path) -> None:
    if home == "a file":
        home = str(tmp_path / "file")
        Path(home).touch()
    changed, _, [line] = prepared(HOME=home, USER="ann", TMPDIR=str(tmp_path), RAY_TMPDIR="/tmp")
    caches = tmp_path / f"ddt-{os.getuid()}"
    assert line == f"HOME = {home}: can't be written to; caches are kept in {caches}"
    assert caches.stat().st_mode & 0o777 == 0o700
    assert changed["XDG_CACHE_HOME"] == str(caches) and changed["MPLCONFIGDIR"].startswith(str(caches))
    assert len(changed["RAY_AUTH_TOKEN"]) == 64  # Ray would keep it in HOME
    inherited, _, lines = prepared(HOME=home, USER="ann", TMPDIR=str(tmp_path), RAY_TMPDIR="/tmp", **changed)
    assert inherited == {} and lines == []  # told once, not by every step


def test_a_cluster_has_its_own_token_and_sockets(tmp_path: Path) -> None:
    changed, _, lines = prepared(
        HOME="/proc/none", TMPDIR=str(long_folder(tmp_path)), RAY_ADDRESS="head:6379", USER="ann"
    )
    assert "RAY_AUTH_TOKEN" not in changed and "RAY_TMPDIR" not in changed and len(lines) == 1


def long_folder(tmp_path: Path) -> Path:
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    return folder


def test_rays_sockets_fit(tmp_path: Path) -> None:
    folder = long_folder(tmp_path)
    changed, _, [line] = prepared(HOME=str(tmp_path), USER="ann", TMPDIR=str(folder))
    assert changed["RAY_TMPDIR"] == "/tmp" and "TMPDIR" not in changed
    assert line.startswith(
        f"TMPDIR = {folder}: longer than the 39 bytes that Ray's sockets leave; Ray's files"
    )
    assert len("/" * 39 + LONGEST_SOCKET) == SOCKET_BYTES
    told = {"HOME": str(tmp_path), "USER": "ann", "RAY_TMPDIR": str(folder)}
    refused = CODE.replace("prepare()\n", "try: prepare()\nexcept ValueError as error: print([str(error)])\n")
    done = subprocess.run(
        [sys.executable, "-c", refused], env=told, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f"RAY_TMPDIR = {folder}: longer than" in done.stdout
    assert "set RAY_TMPDIR to a short folder that can be written to" in done.stdout


@pytest.mark.parametrize("folder", ["/proc/none", "/no/such/folder"])
def test_a_folder_for_temporary_files_that_is_none_is_replaced(folder: str, tmp_path: Path) -> None:
    changed, _, [line] = prepared(HOME=str(tmp_path), USER="ann", TMPDIR=folder)
    assert changed["TMPDIR"] == "/tmp"
    assert line == f"TMPDIR = {folder}: no folder that can be written to; /tmp is used"


def test_a_full_disk_takes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_unwritable(tmp_path / "new" / "folder") is None
    assert list((tmp_path / "new" / "folder").iterdir()) == []

    def full(dir: Path) -> object:
        return open("/dev/full", "w+b", buffering=0)

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    assert why_unwritable(tmp_path) == os.strerror(errno.ENOSPC)
