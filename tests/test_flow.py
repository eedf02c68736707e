"""The flow end to end on the smoke profile; then killed in two stages and resumed, with equal digests.

One whole run is made for the module; the killed one starts from a copy of its first half.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import pytest

from ddt.manifest import Commit, Manifest
from ddt.params import load_params
from pipelines.engine.graph import STAGES
from pipelines.services import registry, tracking
from tests.processes import HANGS_AFTER_S
from tests.secret_search import find
from tests.servers import tracking_server

pytestmark = [pytest.mark.e2e, pytest.mark.ray]
ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 4 * HANGS_AFTER_S  # a whole run
USER, PASSWORD = "ann-who-logs-in", "pass/w+rd@of:ann"
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAFAKEKEYID1234567",
    "AWS_SECRET_ACCESS_KEY": "fake/Secret+Access/Key",
    "AWS_SESSION_TOKEN": "fakeSessionToken//of+aws==",
    "MLFLOW_TRACKING_PASSWORD": "fake-mlflow-password",
}
LATER = STAGES[STAGES.index("tokenize_images") :]


class Flow:
    """The flow in a folder of its own: store, workspace, MLflow, Metaflow's datastore, what it prints."""

    def __init__(self, folder: Path, tracking_uri: str | None = None, **environment: str) -> None:
        self.folder, self.environment = folder, environment
        self.overrides = [
            f"paths.store={folder}/store",
            f"paths.workspace={folder}/workspace",
            f"tracking.uri={tracking_uri or f'sqlite:///{folder}/mlflow.db'}",
        ]

    def start(self, *command: str) -> subprocess.Popen[str]:
        environment = os.environ | {
            "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(self.folder / "metaflow"),
            "METAFLOW_CARD_LOCALROOT": str(self.folder / "cards"),
            **self.environment,
        }
        environment.pop("OMP_NUM_THREADS", None)
        log = (self.folder / "flow.log").open("a")
        return subprocess.Popen(
            [sys.executable, str(ROOT / "flows" / "full_pipeline.py"), *command],
            env=environment,
            cwd=self.folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self) -> subprocess.Popen[str]:
        return self.start("run", "--profile", "smoke", "--set", " ".join(self.overrides))

    def log(self) -> str:
        return (self.folder / "flow.log").read_text()

    def finish(self, process: subprocess.Popen[str]) -> None:
        assert process.wait(LIMIT_S) == 0, self.log()[-4000:]

    def kill_when(self, process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
        """SIGKILL the flow and its steps as soon as `ready`."""
        self.wait_for(process, ready)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def wait_for(self, process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
        """Return as soon as `ready`, while the flow runs."""
        limit = time.monotonic() + LIMIT_S
        while not ready():
            assert process.poll() is None, f"the flow ended before it could be killed\n{self.log()[-4000:]}"
            assert time.monotonic() < limit, self.log()[-4000:]
            time.sleep(0.05)

    def files(self, pattern: str) -> list[Path]:
        return sorted((self.folder / "store").glob(pattern))

    def digests(self) -> dict[str, str]:
        folder = self.folder / "workspace" / "manifests"
        return {stage: Manifest.load(folder / f"{stage}.json").digest for stage in STAGES}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flow]:
    """A run that knows secrets, and logs to a server with a password; a resumed one takes a database."""
    folder = tmp_path_factory.mktemp("whole")
    with (
        TemporaryDirectory(prefix="ddt-", dir="/tmp") as ray,  # its sockets want a short path
        tracking_server(folder, ["--artifacts-destination", str(folder / "mlartifacts")]) as server,
    ):
        login = f"{USER}:{quote(PASSWORD, safe='')}"
        flow = Flow(folder, f"http://{login}@{server}", RAY_TMPDIR=ray, TMPDIR=ray, **SECRETS)
        flow.finish(flow.run())
        shutil.copytree(ray, folder / "temporary", ignore=only_files, ignore_dangling_symlinks=True)
        yield flow


def only_files(folder: str, names: list[str]) -> list[str]:
    """Sockets and links, which are not copied."""
    paths = [Path(folder, name) for name in names]
    return [path.name for path in paths if path.is_symlink() or not (path.is_file() or path.is_dir())]


def test_no_secret_is_written_or_printed(whole: Flow) -> None:
    """All that the run left: store, workspace, MLflow, Metaflow's datastore, cards, Ray's logs, its words."""
    found = find(whole.folder, SECRETS | {"password": PASSWORD, "user": USER})
    seen = found.pop("user")
    for place in ("flow.log", "temporary/", "metaflow/", "mlflow.db", "mlartifacts/", "workspace/", "store/"):
        assert any(path.as_posix().startswith(place) for path in relative_files(whole.folder)), place
    assert [place for place in seen if place.endswith(":gzip")], "Metaflow's artifacts were not opened"
    assert [place for place in seen if ".html" in place], "cards were not opened"
    assert found == {name: [] for name in found}


def relative_files(folder: Path) -> list[Path]:
    return [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]


def test_the_run_leaves_a_registered_model_and_a_verdict(whole: Flow) -> None:
    params = load_params(ROOT / "params.yaml", "smoke", whole.overrides)
    candidate = registry.find_version(params.tracking, "ddt-llama", registry.CANDIDATE)
    assert candidate is not None and candidate.tags["verdict"] in ("promoted", "refused")
    assert registry.find_version(params.tracking, "ddt-tokenizer", registry.CANDIDATE) is not None
    report = json.loads((whole.folder / "workspace" / "reports" / "promote.json").read_text())
    assert candidate.tags["verdict"] in report["notes"][0]
    client = tracking.client(params.tracking)
    runs = client.search_runs([tracking.experiment_id(params.tracking, client)])
    names = sorted(run.data.tags["mlflow.runName"] for run in runs)
    assert names[0].startswith("FullPipeline/")
    assert names[1:] == sorted([*STAGES, "ddt-llama champion"])
    [parent] = [run for run in runs if run.data.tags["mlflow.runName"] == names[0]]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(STAGES)
    assert parent.info.status == "FINISHED" and parent.data.metrics["run/seconds"] > 0


def test_each_step_has_its_card(whole: Flow) -> None:
    cards = [path for path in whole.folder.rglob("*.html") if "cards" in path.parts]
    with_card = {step for step in (*STAGES, "end") for path in cards if step in path.parts}
    assert with_card == {*STAGES, "end"}


def test_killed_twice_and_resumed_gives_the_same_digests(
    whole: Flow, tmp_path_factory: pytest.TempPathFactory
) -> None:
    flow = Flow(tmp_path_factory.mktemp("killed"))
    for name in ("store", "workspace"):
        shutil.copytree(whole.folder / name, flow.folder / name)
    for stage in LATER:
        for kind in ("units", "shards"):
            shutil.rmtree(flow.folder / "store" / kind / stage)
        (flow.folder / "workspace" / "manifests" / f"{stage}.json").unlink()
    # A digest hides nothing: what the whole run made of these stages is gone from the copy.
    assert not flow.files("units/tokenize_images/*/*.json")

    flow.kill_when(flow.run(), lambda: bool(flow.files("units/tokenize_images/*/*.json")))
    assert not (flow.folder / "workspace" / "manifests" / "tokenize_images.json").exists()
    # Another run in the same workspace, as far as `select`: what is resumed takes no notice of it.
    for stage in ("ingest", "recaption", "score", "select"):
        path = flow.folder / "workspace" / "manifests" / f"{stage}.json"
        Manifest(stage, "another", {}, (Commit("u", "shards/gone", 1, 1, "another"),)).save(path)
    resumed = flow.start("resume")
    flow.kill_when(resumed, lambda: bool(flow.files("checkpoints/pretrain/*/*/_COMPLETE")))
    assert not (flow.folder / "workspace" / "manifests" / "pretrain.json").exists()
    flow.finish(flow.start("resume"))
    same = {stage for stage in STAGES if stage != "promote"}  # a verdict names its model's version number
    mine, theirs = flow.digests(), whole.digests()
    assert {stage: mine[stage] for stage in same} == {stage: theirs[stage] for stage in same}
