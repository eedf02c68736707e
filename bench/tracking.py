"""What MLflow costs a training while it goes on: python bench/tracking.py [--seconds 120].

The processor's time that the driver of a stage takes to sample the machine and to write that with the curves
into SQLite, in a thread beside the training, as a share of one core: what a training on all cores has less.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from measure import arguments, report

from ddt.params import load_params
from ddt.sections.run import Tracking
from pipelines.reports.report import Report
from pipelines.services.stage_run import StageRun
from pipelines.services.system_metrics import SWITCH

ROOT = Path(__file__).resolve().parent.parent
METRICS = {f"train/metric_{number}": float(number) for number in range(12)}
STEP_S = 0.5  # between two of a training's reports


def share(tracking: Tracking, folder: Path, seconds: float, sampled: bool) -> float:
    """Of one core, over `seconds` of a training."""
    os.environ[SWITCH] = str(sampled).lower()
    run = StageRun(tracking, "pretrain", "f" * 64, {}, {}, folder, None)
    clock, processor = time.perf_counter(), time.process_time()
    step = 0
    while time.perf_counter() - clock < seconds:
        step += 1
        run.on_metrics(step, METRICS)
        time.sleep(STEP_S)
    taken = (time.process_time() - processor) / (time.perf_counter() - clock)
    run.finish(Report("pretrain"))
    return taken


def main() -> None:
    parser = arguments(__doc__, with_torch=False)
    parser.add_argument("--seconds", type=float, default=120)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ddt-bench-tracking-") as folder:
        tracking = load_params(
            ROOT / "params.yaml", None, [f"tracking.uri=sqlite:///{folder}/mlflow.db"]
        ).tracking
        taken = {
            name: share(tracking, Path(folder), options.seconds, sampled)
            for name, sampled in (("curves alone", False), ("curves and system metrics", True))
        }
    for name, of_core in taken.items():
        print(f"{name:28} {of_core:.2%} of a core")
    report(options, {"share_of_a_core": taken})


if __name__ == "__main__":
    main()
