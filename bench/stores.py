"""The run on S3 beside the run in a folder: python bench/stores.py [--profile smoke] [--rounds 1].

Each round is a whole run of the flow in a folder, then one with `paths.store` on a local S3 server (moto, in
a process of its own), which brings Metaflow's datastore and MLflow's artifacts along. Told are the seconds by
the clock, those of the processor (Ray's processes too), which other work on the machine hardly changes,
and what each stage took. The server's own processor time is not in the run's.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from urllib.request import urlopen

import psutil
from measure import arguments, report

from pipelines.engine.graph import STAGES

ROOT = Path(__file__).resolve().parent.parent
PR_SET_CHILD_SUBREAPER = 36
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
BUCKET = "ddt-bench"


@dataclass(frozen=True)
class Run:
    """Seconds of one run of the flow: by the clock, of the processor, and each stage's with its services."""

    seconds: float
    processor_seconds: float
    stages: dict[str, float]


@contextmanager
def s3_server(port: int) -> Iterator[str]:
    """The endpoint of a server with an empty bucket."""
    command = [Path(sys.executable).with_name("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server, endpoint = subprocess.Popen(command, **quiet), f"http://127.0.0.1:{port}"  # type: ignore[call-overload]
    try:
        while not _answers(endpoint):
            assert server.poll() is None, "the S3 server has ended"
            time.sleep(0.2)
        import boto3

        os.environ |= KEYS
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=BUCKET)
        yield endpoint
    finally:
        server.terminate()
        server.wait()


def _answers(endpoint: str) -> bool:
    try:
        urlopen(endpoint, timeout=5).close()
    except OSError:
        return False
    return True


def run(folder: Path, store: str, profile: str, environment: dict[str, str]) -> Run:
    """The flow with everything else in `folder`; waits for the processes that Ray leaves behind as well."""
    keys = (
        f"paths.store={store}",
        f"paths.workspace={folder}/workspace",
        f"tracking.uri=sqlite:///{folder}/mlflow.db",
    )
    command = [sys.executable, str(ROOT / "flows" / "full_pipeline.py"), "run", "--profile", profile]
    places = {"METAFLOW_DATASTORE_SYSROOT_LOCAL": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    others = {child.pid for child in psutil.Process().children()}
    began, before = time.perf_counter(), _processor_seconds()
    with (folder / "log").open("w") as log:
        flow = subprocess.Popen(
            [*command, "--set", " ".join(keys)],
            env=os.environ | places | environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        code = flow.wait()
    seconds = time.perf_counter() - began
    if code:
        raise RuntimeError(f"the run failed: {(folder / 'log').read_text()[-2000:]}")
    _reap(others)
    reports = {
        stage: json.loads((folder / "workspace/reports" / f"{stage}.json").read_text()) for stage in STAGES
    }
    stages = {stage: told["seconds"] for stage, told in reports.items()}
    return Run(seconds, _processor_seconds() - before, stages)


def _processor_seconds() -> float:
    """Of all processes that have ended and were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _reap(others: set[int]) -> None:
    """Wait for what the flow has left: its orphans are this process's children, see `main`."""
    while left := {child.pid for child in psutil.Process().children()} - others:
        for pid in left:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def main() -> None:
    parser = arguments(__doc__, with_torch=False)
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--port", type=int, default=5599, help="of the S3 server (default: 5599)")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans of a run come to this process
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    found: dict[str, list[Run]] = {"folder": [], "S3": []}
    with tempfile.TemporaryDirectory(prefix="ddt-bench-") as name, s3_server(options.port) as endpoint:
        for number in range(options.rounds):
            for kind in found:
                folder = Path(name, f"{kind}-{number}")
                folder.mkdir()
                store = f"{folder}/store" if kind == "folder" else f"s3://{BUCKET}/{number}"
                environment = {} if kind == "folder" else {"AWS_ENDPOINT_URL": endpoint}
                found[kind].append(run(folder, store, options.profile, environment))
    ratios = {}
    for key in ("seconds", "processor_seconds"):
        middle = {kind: median(getattr(each, key) for each in runs) for kind, runs in found.items()}
        ratios[key] = middle["S3"] / middle["folder"]
        told = key.replace("_", " ")
        print(f"{told:20} {middle['folder']:8.1f} in a folder {middle['S3']:8.1f} on S3, {ratios[key]:.2f} x")
    for stage in STAGES:
        folder_s, s3_s = (median(each.stages[stage] for each in runs) for runs in found.values())
        print(f"{stage:20} {folder_s:8.1f} in a folder {s3_s:8.1f} on S3")
    report(
        options,
        {"ratios": ratios, "runs": {kind: [asdict(each) for each in runs] for kind, runs in found.items()}},
    )


if __name__ == "__main__":
    main()
