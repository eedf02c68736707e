"""One run at a time has a workspace; a run whose process has ended gives it up by that."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.services import lock

CODE = """
import os, sys
from pathlib import Path
from pipelines.services import lock
lock.take(Path(sys.argv[1]), "Flow/1", os.getpid())
print("taken", flush=True)
sys.stdin.read()
"""


def holder_of(workspace: Path) -> str:
    return json.loads((workspace / lock.FILE).read_text())["run"]


def test_another_run_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    lock.require_free(tmp_path)
    lock.take(tmp_path, "Flow/1", os.getpid())
    lock.take(tmp_path, "Flow/1", os.getpid())  # each of its steps does
    for refused in (
        lambda: lock.take(tmp_path, "Flow/2", os.getpid()),
        lambda: lock.require_free(tmp_path),
    ):
        with pytest.raises(lock.Locked, match=rf"in use by Flow/1 \(process {os.getpid()} on .*\) since 20"):
            refused()
    lock.give_back(tmp_path, "Flow/2")  # not its own
    assert holder_of(tmp_path) == "Flow/1"
    lock.give_back(tmp_path, "Flow/1")
    lock.require_free(tmp_path)
    lock.take(tmp_path, "Flow/2", os.getpid())
    assert holder_of(tmp_path) == "Flow/2"


def test_a_process_that_has_ended_holds_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"taken\n"
    with pytest.raises(lock.Locked, match=f"process {process.pid} on"):
        lock.take(tmp_path, "Flow/2", os.getpid())
    process.kill()
    process.wait()
    lock.take(tmp_path, "Flow/2", os.getpid())
    assert holder_of(tmp_path) == "Flow/2"


def test_a_run_of_another_machine_is_never_taken_for_dead(tmp_path: Path) -> None:
    holder = {"run": "Flow/1", "process": "elsewhere 1 1", "since": "2026-01-01T00:00:00+00:00"}
    (tmp_path / lock.FILE).write_text(json.dumps(holder))
    with pytest.raises(lock.Locked, match="process 1 on elsewhere.*delete .*lock.json if that run has ended"):
        lock.take(tmp_path, "Flow/2", os.getpid())


@pytest.mark.parametrize("text", ["", "{", '{"run": "Flow/1"}', "[]"])
def test_a_file_that_says_nothing_holds_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / lock.FILE).write_text(text)
    lock.take(tmp_path, "Flow/2", os.getpid())
    assert holder_of(tmp_path) == "Flow/2"


def test_given_back_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(KeyError), lock.held(tmp_path, "ddt ingest/1", os.getpid()):
        raise KeyError
    lock.require_free(tmp_path)
