"""`ddt trace` where many runs are: python bench/lineage.py [--runs 10000].

Writes a store and an MLflow database as so many runs of the pipeline would leave them (ten MLflow runs, nine
manifests and a registered version each), straight into files and tables. Then it traces the one in the middle
from each kind of end, in this process and as a command of its own, and reads all manifests, which is what a
trace that looked for the model among them would have to do.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from measure import arguments, report

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


def rows_of(run: int, made: dict[str, Manifest], experiment: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """(table, values) of a run in MLflow: the whole, its stages with their tags, the version."""
    whole, began = digest(f"run {run}")[:32], run * 3600 * SECOND_MS
    yield "runs", (whole, f"FullPipeline/{run}", "FINISHED", began, "active", experiment, "ann", "")
    yield "tags", (METAFLOW_RUN, f"FullPipeline/{run}", whole)
    for at, (stage, manifest) in enumerate(made.items()):
        run_id = digest(f"run {run} {stage}")[:32]
        yield "runs", (run_id, stage, "FINISHED", began + at * SECOND_MS, "active", experiment, "ann", "")
        tags = {
            "stage": stage, "fingerprint": manifest.fingerprint, "manifest": manifest.digest, PARENT: whole,
            MANIFEST_KEY: manifest.key, COMMIT: digest("commit")[:40], "process": f"host {run} 1",
        }  # fmt: skip
        yield from (("tags", (name, value, run_id)) for name, value in tags.items())
        yield from (("params", (f"fit.key{key}", str(key), run_id)) for key in range(5))
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
    store = Path(params.paths.store)
    client = tracking.client(params.tracking)
    experiment = tracking.experiment_id(params.tracking, client)
    client.create_registered_model(params.tracking.model_name)
    with sqlite3.connect(params.tracking.uri.removeprefix("sqlite:///")) as database:
        for run in range(runs):
            made = manifests(run)
            for manifest in made.values():
                path = store / manifest.key
                path.parent.mkdir(parents=True)
                path.write_text(manifest.to_json())
            for table, values in rows_of(run, made, experiment):
                marks = ", ".join("?" * len(values))
                database.execute(f"INSERT INTO {table} ({COLUMNS[table]}) VALUES ({marks})", values)
        tags = [(params.tracking.model_name, run + 1, "store", str(store)) for run in range(runs)]
        database.executemany(
            "INSERT INTO model_version_tags (name, version, key, value) VALUES (?, ?, ?, ?)", tags
        )


def timed(function: Callable[[], Any]) -> tuple[float, float]:
    """(seconds by the clock, of this process's processor)."""
    clock, processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - clock, time.process_time() - processor


def read_all(store: str) -> None:
    """Every manifest of the store."""
    place = open_store(store)
    for key in place.list(MANIFESTS):
        Manifest.kept(place, key)


def measure(params: Params, settings: list[str], runs: int) -> dict[str, tuple[float, float]]:
    """Seconds from each kind of end, of the whole command, and of reading all manifests."""
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
    taken["reading all manifests"] = timed(lambda: read_all(params.paths.store))
    return taken


def main() -> None:
    parser = arguments(__doc__, with_torch=False)
    parser.add_argument("--runs", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ddt-bench-trace-") as folder:
        settings = [
            f"paths.store={folder}/store",
            f"paths.workspace={folder}/workspace",
            f"tracking.uri=sqlite:///{folder}/mlflow.db",
        ]
        params = load_params(ROOT / "params.yaml", None, settings)
        write(params, options.runs)
        taken = measure(params, settings, options.runs)
    for kind, (clock, processor) in taken.items():
        print(f"{kind:28} {clock:8.2f} s, {processor:8.2f} s of the processor")
    report(options, {"seconds": taken})


if __name__ == "__main__":
    main()
