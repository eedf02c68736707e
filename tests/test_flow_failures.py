"""A step that a mistake ends is not tried again; one whose process is killed is.

A flow that is told to end has its trainings save a checkpoint, and tries nothing again.
"""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ddt.params import load_params
from ddt.yaml_file import read_yaml
from flows.ending import _notify
from pipelines.services import tracking
from tests.processes import HANGS_AFTER_S
from tests.test_flow import ROOT, Flow

pytestmark = pytest.mark.ray
STARTED = re.compile(r"/ingest/2 \(pid (\d+)\)\] Task is starting\.")
RETRIED = "Task is starting (retry)"


def test_a_mistake_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = Flow(tmp_path)
    flow.overrides += [f"ingest.source={tmp_path}/absent", "notify.when=[failure]"]
    with listener() as (address, heard):
        monkeypatch.setenv("DDT_NOTIFY_URL", address)
        assert flow.run().wait(HANGS_AFTER_S) == 1
    log = flow.log()
    assert log.count(f"ingest.source: {tmp_path}/absent does not exist") == 1
    assert RETRIED not in log and "This failed task will not be retried." in log
    assert "full_pipeline: a step could not go on, see its message;" in log.strip().splitlines()[-1]
    assert statuses(flow) == [("FullPipeline", "FAILED"), ("ingest", "FAILED")]
    until(lambda: "absent does not exist" in card_of(flow, "ingest"))  # a process of its own writes it
    pages_are_linked(flow, heard)
    # A run is resumed with its own parameters, so here the folder has to come.
    (tmp_path / "absent").mkdir()
    assert flow.start("resume").wait(HANGS_AFTER_S) == 1
    resumed = flow.log().removeprefix(log)
    assert "/ingest/" in resumed and f"{tmp_path}/absent does not exist" not in resumed


FAILS_FIRST = """
import sys
sys.path.insert(0, {root!r})
from flows.full_pipeline import FullPipeline
from metaflow import step

class FailsFirst(FullPipeline):
    @step
    def start(self):
        raise ValueError("before it has read anything")
        self.next(self.ingest)

if __name__ == "__main__":
    FailsFirst()
"""


def test_a_first_step_that_has_read_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "fails_first.py"
    file.write_text(FAILS_FIRST.format(root=str(ROOT)))
    with listener() as (address, heard):
        monkeypatch.setenv("DDT_NOTIFY_URL", address)
        monkeypatch.setenv("METAFLOW_DATASTORE_SYSROOT_LOCAL", str(tmp_path / "metaflow"))
        command = [sys.executable, str(file), "run", "--set", "notify.when=[failure]"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_AFTER_S)
    assert done.returncode == 1, done.stderr[-2000:]
    [told] = heard
    first, *rest = told["text"].splitlines()
    assert first.startswith("FailsFirst/") and first.endswith(" did not finish")
    assert rest == ["start: see its log"]


@pytest.mark.parametrize(
    ("profile", "overrides", "when"),
    [
        ("", "", ()),
        ("", "notify.when=[success]", ("success",)),
        ("gone", "", ()),
        ("", "notify.nobody=1", ()),
    ],
)
def test_who_is_told_where_nothing_was_read(profile: str, overrides: str, when: tuple[str, ...]) -> None:
    """By the parameters as they were given; where these are what is wrong by the files alone."""
    conf = read_yaml(ROOT / "params.yaml")
    given = {"conf": conf, "remote": {}, "profile": profile, "overrides": overrides}
    task = {name: SimpleNamespace(data=value) for name, value in given.items()}
    remote = task | {"remote": SimpleNamespace(data={"notify": {"when": ["failure"]}})}
    assert _notify({"_parameters": SimpleNamespace(task=task)}).when == when
    assert _notify({"_parameters": SimpleNamespace(task=remote)}).when == (when or ("failure",))


@contextmanager
def listener() -> Iterator[tuple[str, list[Any]]]:
    """Address of a server in this process, and what it was sent."""
    heard: list[Any] = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/s3cret", heard
        server.shutdown()


def pages_are_linked(flow: Flow, heard: list[Any]) -> None:
    """The card is an artifact of the stage's run; both runs, the log and the message have its address."""
    where = load_params(ROOT / "params.yaml", "smoke", flow.overrides).tracking
    client = tracking.client(where)
    runs = {run.info.run_name: run for run in client.search_runs([tracking.experiment_id(where, client)])}
    child = runs.pop("ingest")
    [parent] = runs.values()
    address = child.data.tags["failure_card"]
    assert "ingest failed" in decoded_all(Path(address.removeprefix("file://")).read_text())
    link = f"(#/experiments/{child.info.experiment_id}/runs/{child.info.run_id}/artifacts/pages/card.html)"
    assert link in child.data.tags["mlflow.note.content"] and link in parent.data.tags["mlflow.note.content"]
    assert parent.data.tags["failure_card"] == address
    [told] = heard
    lines = told["text"].splitlines()
    assert lines[0].endswith(" did not finish") and lines[1] == f"ingest: {child.data.tags['failure']}"
    assert lines[2] == f"ingest, card of the step: {address}" and parent.info.run_id in lines[3]
    assert "\n".join(lines[2:]) in flow.log() and "s3cret" not in flow.log()


def card_of(flow: Flow, step: str) -> str:
    """The cards of a step, one after another; base64 of what was told is in them."""
    cards = [path for path in flow.folder.rglob("*.html") if step in path.parts]
    return "\n".join(decoded_all(path.read_text(errors="replace")) for path in cards)


def decoded_all(text: str) -> str:
    return "\n".join([text, *map(decoded, re.findall(r"[A-Za-z0-9+/=]{200,}", text))])


def decoded(part: str) -> str:
    try:
        return base64.b64decode(part).decode(errors="replace")
    except ValueError:
        return ""


def until(done: Callable[[], bool]) -> None:
    limit = time.monotonic() + HANGS_AFTER_S
    while not done():
        assert time.monotonic() < limit
        time.sleep(0.2)


def statuses(flow: Flow) -> list[tuple[str, str]]:
    """Of MLflow's runs: the flow's and its stages', by name."""
    where = load_params(ROOT / "params.yaml", "smoke", flow.overrides).tracking
    client = tracking.client(where)
    runs = client.search_runs([tracking.experiment_id(where, client)])
    assert all("absent does not exist" in run.data.tags["failure"] for run in runs)
    return sorted((run.info.run_name.partition("/")[0], run.info.status) for run in runs)


def test_a_killed_step_is_tried_again(tmp_path: Path) -> None:
    flow = Flow(tmp_path)
    process = flow.run()

    def killed() -> bool:
        started = STARTED.search(flow.log())
        if started is not None:
            os.kill(int(started[1]), signal.SIGKILL)
        return started is not None

    flow.wait_for(process, killed)
    flow.kill_when(process, lambda: RETRIED in flow.log())


def test_sigterm_to_the_flow_saves_its_training(tmp_path: Path) -> None:
    flow = Flow(tmp_path)
    flow.overrides += ["train_tokenizer.fit.steps=1000000", "train_tokenizer.fit.checkpoint_every=1000000"]
    process = flow.run()

    def trains() -> bool:
        logs = (flow.folder / "workspace" / "logs").glob("train_tokenizer-*.jsonl")
        return any(log.stat().st_size for log in logs)

    flow.wait_for(process, trains)
    process.terminate()
    assert process.wait(HANGS_AFTER_S) == 143, flow.log()[-4000:]
    said = flow.log()
    saved = re.search(r"train_tokenizer: ended by SIGTERM; a checkpoint of step (\d+) is saved", said)
    assert saved is not None, said[-4000:]
    assert flow.files(f"checkpoints/train_tokenizer/*/step-{int(saved[1]):09d}-000/_COMPLETE")
    told = said.partition("full_pipeline: SIGTERM:")[2]
    # A step that the signal met before it could listen is tried again by Metaflow, and ends at its beginning.
    assert told.count(RETRIED) == told.count("not begun: the flow was told to end"), told[-4000:]
    last = "full_pipeline: ended by SIGTERM; what was finished is kept, resume goes on"
    assert said.strip().splitlines()[-1] == last
    assert dict(killed(flow)) == {"FullPipeline": "KILLED", "train_tokenizer": "KILLED"}


def killed(flow: Flow) -> list[tuple[str, str]]:
    """The flow's MLflow run and its tokenizer's: by name, with their status."""
    where = load_params(ROOT / "params.yaml", "smoke", flow.overrides).tracking
    client = tracking.client(where)
    runs = client.search_runs([tracking.experiment_id(where, client)])
    found = [(run.info.run_name.partition("/")[0], run.info.status) for run in runs]
    return [(name, status) for name, status in found if name in ("FullPipeline", "train_tokenizer")]
