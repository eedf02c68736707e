"""`ddt trace` where many runs are: python bench/lineage.py [--runs 10000] [--server].

Writes a store and an MLflow database as so many runs of the pipeline would leave them (ten MLflow runs, nine
manifests and a registered version each), straight into files and tables; what MLflow's client reads of the
first of them is compared with the same runs written by it. Then it traces the one in the middle from each
kind of end, in this process and as a command of its own, and reads all manifests, which is what a trace that
looked for the model among them would have to do. `import mlflow` alone is measured beside it. With --server a
tracking server has the database, and is asked; what it spends on that itself is told as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
from measure import arguments, report
from tqdm import tqdm

from ddt.manifest import MANIFESTS, Commit, Manifest
from ddt.params import Params, load_params
from ddt.store import open_store
from pipelines.commands.ends import find_end
from pipelines.commands.traced import follow
from pipelines.engine.graph import INPUTS, STAGES
from pipelines.promote import DECISION
from pipelines.services import tracking
from pipelines.services.made_by import COMMIT, METAFLOW_RUN, PARENT
from pipelines.services.tracking import MANIFEST_KEY

ROOT = Path(__file__).resolve().parent.parent
MADE = STAGES[: STAGES.index("promote")]
UNITS = 4  # of each stage
CHECKED = 2  # runs that MLflow's client writes as well
AT_ONCE = 100  # runs whose rows are written together
NAME = "mlflow.runName"
PARAMS = {f"fit.key{key}": str(key) for key in range(5)}
SECOND_MS = 1000


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def manifests(run: int) -> dict[str, Manifest]:
    """Those of one run, each made from the ones before it."""
    made: dict[str, Manifest] = {}
    for stage in MADE:
        commits = []
        for unit in range(UNITS):
            sha = digest(f"{run} {stage} {unit}")
            key = f"shards/{stage}/{run:016x}/{sha[:32]}-{sha[:16]}.arrow"
            commits.append(Commit(sha[:32], key, 1000, 1 << 20, sha, stats={"name": f"{unit:05d}.tar"}))
        inputs = {name: made[name].digest for name in INPUTS[stage]}
        keys = {name: made[name].key for name in INPUTS[stage]}
        made[stage] = Manifest(stage, digest(f"{run} {stage}"), inputs, tuple(commits), {}, keys)
    return made


def tags_of_whole(run: int) -> dict[str, str]:
    return {METAFLOW_RUN: f"FullPipeline/{run}", NAME: f"FullPipeline/{run}"}


def tags_of_stage(run: int, manifest: Manifest, whole: str) -> dict[str, str]:
    return {
        "stage": manifest.stage, "fingerprint": manifest.fingerprint, "manifest": manifest.digest,
        PARENT: whole, MANIFEST_KEY: manifest.key, COMMIT: digest("commit")[:40],
        "process": f"host {run} 1", NAME: manifest.stage,
    }  # fmt: skip


def rows_of(run: int, made: dict[str, Manifest], experiment: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """(table, values) of a run in MLflow: the whole, its stages with their tags, the version."""
    whole, began = digest(f"run {run}")[:32], run * 3600 * SECOND_MS
    yield "runs", (whole, f"FullPipeline/{run}", "FINISHED", began, "active", experiment, "ann", "")
    yield from (("tags", (name, value, whole)) for name, value in tags_of_whole(run).items())
    for at, (stage, manifest) in enumerate(made.items()):
        run_id = digest(f"run {run} {stage}")[:32]
        yield "runs", (run_id, stage, "FINISHED", began + at * SECOND_MS, "active", experiment, "ann", "")
        tags = tags_of_stage(run, manifest, whole)
        yield from (("tags", (name, value, run_id)) for name, value in tags.items())
        yield from (("params", (name, value, run_id)) for name, value in PARAMS.items())
    model, name = made["finetune"], "ddt-llama"
    yield "model_versions", (name, run + 1, began, "None", "READY", digest(f"run {run} finetune")[:32])
    decision = {
        "model": name, "version": str(run + 1), "verdict": "promoted", "reasons": [], "who": "ann@host",
        "when": "2026-01-31T12:00:00+00:00", "made_from": {s: made[s].key for s in INPUTS["promote"]},
    }  # fmt: skip
    tags = {
        "digest": model.digest, "fingerprint": model.fingerprint, MANIFEST_KEY: model.key,
        DECISION: json.dumps(decision),
    }  # fmt: skip
    for key, value in tags.items():
        yield "model_version_tags", (name, run + 1, key, value)


COLUMNS = {
    "runs": "run_uuid, name, status, start_time, lifecycle_stage, experiment_id, user_id, artifact_uri",
    "tags": "key, value, run_uuid",
    "params": "key, value, run_uuid",
    "model_versions": "name, version, creation_time, current_stage, status, run_id",
    "model_version_tags": "name, version, key, value",
}


def write(params: Params, runs: int) -> None:
    """The store's manifests and MLflow's tables."""
    client = tracking.client(params.tracking)
    experiment = tracking.experiment_id(params.tracking, client)
    client.create_registered_model(params.tracking.model_name)
    with closing(sqlite3.connect(params.tracking.uri.removeprefix("sqlite:///"))) as database:
        database.execute("PRAGMA synchronous = OFF")
        for first in tqdm(range(0, runs, AT_ONCE), "writing", unit="00 runs"):
            rows = defaultdict(list)
            for run in range(first, min(first + AT_ONCE, runs)):
                made = manifests(run)
                keep(made, Path(params.paths.store))
                for table, values in rows_of(run, made, experiment):
                    rows[table].append(values)
                rows["model_version_tags"].append(
                    (params.tracking.model_name, run + 1, "store", params.paths.store)
                )
            for table, values in rows.items():
                marks = ", ".join("?" * len(values[0]))
                database.executemany(f"INSERT INTO {table} ({COLUMNS[table]}) VALUES ({marks})", values)
            database.commit()


def keep(made: dict[str, Manifest], store: Path) -> None:
    for manifest in made.values():
        path = store / manifest.key
        path.parent.mkdir(parents=True)
        path.write_text(manifest.to_json())


def check(params: Params) -> None:
    """The first runs as MLflow's client reads them are what it reads of the same, written by itself."""
    client, name = tracking.client(params.tracking), params.tracking.model_name
    experiment = client.create_experiment("written by the client")
    for run in range(CHECKED):
        made = manifests(run)
        whole = client.create_run(
            experiment, run_name=f"FullPipeline/{run}", tags=tags_of_whole(run)
        ).info.run_id
        ids = {digest(f"run {run}")[:32]: whole}
        for stage, manifest in made.items():
            tags = tags_of_stage(run, manifest, whole)
            run_id = client.create_run(experiment, run_name=stage, tags=tags).info.run_id
            for key, value in PARAMS.items():
                client.log_param(run_id, key, value)
            ids[digest(f"run {run} {stage}")[:32]] = run_id
        for ours, theirs in ids.items():
            client.set_terminated(theirs)
            assert told(client.get_run(ours)) == told(client.get_run(theirs))
        version = client.get_model_version(name, str(run + 1))
        theirs = client.create_model_version(name, "source", run_id, tags=version.tags)
        again = client.get_model_version(name, theirs.version)
        assert (version.tags, version.status, version.current_stage) == (
            again.tags, again.status, again.current_stage,
        )  # fmt: skip
        client.delete_model_version(name, theirs.version)


def told(run: Any) -> tuple[Any, ...]:
    """What a run says, but for its numbers and times."""
    tags = {name: value for name, value in run.data.tags.items() if name != PARENT}
    info = run.info
    return info.run_name, info.status, info.lifecycle_stage, PARENT in run.data.tags, tags, run.data.params


@contextmanager
def serving(folder: str) -> Iterator[tuple[str, psutil.Process]]:
    """MLflow's server on the database in `folder`: its address and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place, options = f"http://127.0.0.1:{port}", ["--port", port, "--workers", "1"]
    command = ["server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", *options]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (Path(folder) / "server.log").open("w") as log:
        process = psutil.Popen(
            [sys.executable, "-m", "mlflow", *command], stdout=log, stderr=log, env=environment
        )
    try:
        while not answers(f"{place}/health"):
            assert process.poll() is None, (Path(folder) / "server.log").read_text()
            time.sleep(0.5)
        yield place, process
    finally:
        for each in [*process.children(recursive=True), process]:
            each.terminate()
        process.wait()


def answers(page: str) -> bool:
    try:
        urlopen(page, timeout=60).close()
    except OSError:
        return False
    return True


def spent(process: psutil.Process) -> float:
    """Seconds of the processor that it and its children have taken."""
    each = [process, *process.children(recursive=True)]
    return sum(sum(one.cpu_times()[:2]) for one in each)


def timed(function: Callable[[], Any]) -> tuple[float, float]:
    """(seconds by the clock, of the processor for this process and those that it starts)."""
    clock, before = time.perf_counter(), os.times()
    function()
    spent = [now - then for now, then in zip(os.times()[:4], before[:4], strict=True)]
    return time.perf_counter() - clock, sum(spent)


def read_all(store: str) -> None:
    """Every manifest of the store."""
    place = open_store(store)
    for key in place.list(MANIFESTS):
        Manifest.kept(place, key)


def measure(
    params: Params, settings: list[str], runs: int, library: bool = True
) -> dict[str, tuple[float, float]]:
    """Seconds from each kind of end, of the whole command, of MLflow's import, of reading all manifests."""
    run = runs // 2
    made = manifests(run)
    ends = {
        "version": f"models:/ddt-llama/{run + 1}",
        "digest": made["finetune"].digest[:12],
        "MLflow run": digest(f"run {run} evaluate")[:32],
        "Metaflow run": f"FullPipeline/{run}",
    }

    def trace(end: str) -> None:
        found = follow(find_end(end, params), params)
        assert [link.digest for link in found.links] == [made[stage].digest for stage in MADE]
        assert not found.missing and len(found.runs) == len(MADE)

    words = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "pipelines", "trace", ends["version"], *words]
    taken = {}
    for kind, end in ends.items():
        taken[kind] = timed(lambda end=end: trace(end))  # type: ignore[misc]
    quiet = {"cwd": ROOT, "check": True, "stdout": subprocess.DEVNULL}
    taken["the command, from its start"] = timed(lambda: subprocess.run(command, **quiet))
    if library:
        imports = [sys.executable, "-c", "import mlflow, mlflow.store.tracking.sqlalchemy_store"]
        taken["`import mlflow` with its SQL store"] = timed(lambda: subprocess.run(imports, **quiet))
        taken["reading all manifests"] = timed(lambda: read_all(params.paths.store))
    return taken


def main() -> None:
    parser = arguments(__doc__, with_torch=False)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--server", action="store_true", help="ask a tracking server as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ddt-bench-trace-") as folder:
        settings = [
            f"paths.store={folder}/store",
            f"paths.workspace={folder}/workspace",
            f"tracking.uri=sqlite:///{folder}/mlflow.db",
        ]
        params = load_params(ROOT / "params.yaml", None, settings)
        write(params, options.runs)
        check(params)
        taken = measure(params, settings, options.runs)
        if options.server:
            with serving(folder) as (place, process):
                settings[-1] = f"tracking.uri={place}"
                asked = load_params(ROOT / "params.yaml", None, settings)
                before = spent(process)
                of_server = measure(asked, settings, options.runs, library=False)
                of_server["the server itself, all of these"] = (0.0, spent(process) - before)
            taken |= {f"{kind}, server": found for kind, found in of_server.items()}
        # Told at once: to remove so many files takes minutes.
        for kind, (clock, processor) in taken.items():
            print(f"{kind:44} {clock:8.2f} s, {processor:8.2f} s of the processor")
        report(options, {"seconds": taken})


if __name__ == "__main__":
    main()
