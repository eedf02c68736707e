"""The gate over seeds and kinds of arithmetic: python bench/gate.py [--seeds 1 2 3 4 5] [--share 0.4].

Each seed is a run of its own up to `evaluate`, each with another arithmetic of KINDS, in turn: the seed is
that of the benchmarks and of the trainings named by --trained; the crawl and its curation are the same.
Told to do without AVX-512 a processor emulates bfloat16, slowly: trainings are in float32 there. A training
takes its threads from `resources`, whatever OMP_NUM_THREADS says.
Printed is, for each metric that the gate of params.yaml asks about without a champion, the interval, its
limit, and whether it passes. --share trains for that share of the steps, which is a harder test: less
training, lower scores. All runs keep their work in --folder, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import arguments, report

from ddt.eval.benchmark import Score
from ddt.params import load_params
from pipelines.engine.graph import STAGES
from pipelines.promote import checks_of
from pipelines.reports.report import Report
from pipelines.reports.workspace import report_path

ROOT = Path(__file__).resolve().parent.parent
TRAINED = ("train_tokenizer", "pretrain", "finetune")


@dataclass(frozen=True)
class Kind:
    """An arithmetic: what the environment says, and what params.yaml."""

    environment: dict[str, str]
    settings: tuple[str, ...] = ()


FLOAT32 = tuple(f"{stage}.fit.bf16=false" for stage in TRAINED)
KINDS = {
    "as the machine is": Kind({}),
    "one worker": Kind({}, ("resources.train_workers=1",)),
    "one thread": Kind({}, ("resources.train_workers=1", "resources.train_cpus_per_worker=1")),
    "float32": Kind({}, FLOAT32),
    "float32 without AVX-512": Kind({"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}, FLOAT32),
    "SSE4.1": Kind({"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}, FLOAT32),
    "MKL compatible": Kind({"MKL_CBWR": "COMPATIBLE"}),
}


def overrides(seed: int, kind: Kind, options: argparse.Namespace) -> list[str]:
    """What a run of this seed has other than params.yaml."""
    base, folder = load_params(), options.folder.absolute()
    given: dict[str, Any] = {
        "paths.store": folder / "store",
        "paths.workspace": folder / "gate" / f"seed-{seed}",
        "tracking.uri": f"sqlite:///{folder / 'mlflow.db'}",
        "evaluate.seed": seed,
        "evaluate.benchmarks": "[reconstruct, geneval, vqa]",
    }
    for stage in options.trained:
        given[f"{stage}.fit.seed"] = 100 * seed + TRAINED.index(stage)
        steps = getattr(base, stage).fit.steps
        given[f"{stage}.fit.steps"] = max(1, round(steps * options.share))
    return [*(f"{key}={value}" for key, value in given.items()), *kind.settings]


def checks(seed: int, kind: Kind, options: argparse.Namespace) -> list[list[str]]:
    """A row a metric of the gate: name, limit, value, interval, passed."""
    given = overrides(seed, kind, options)
    settings = [word for override in given for word in ("--set", override)]
    for stage in STAGES[: STAGES.index("promote")]:
        command = [sys.executable, "-m", "pipelines", stage, *settings]
        environment = {**os.environ, "RAY_worker_niceness": "0", **kind.environment}
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    params = load_params(overrides=given)
    stored = Report.load(report_path(Path(params.paths.workspace), "evaluate")).scores
    scores = {name: Score(**score) for name, score in stored.items()}
    rows = [check.row() for check in checks_of(params.promote, scores, None)]
    return [[row[0], *row[2:]] for row in rows]


def main() -> None:
    parser = arguments(__doc__, with_torch=False)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--share", type=float, default=1.0, help="of the default's training steps")
    parser.add_argument("--trained", nargs="+", choices=TRAINED, default=TRAINED, help="with each seed")
    parser.add_argument("--folder", type=Path, default=ROOT / "data", help="of the store and the workspaces")
    options = parser.parse_args()
    print("| seed | arithmetic | metric | limit | value | 95 % interval | passed |")
    print("|--:|---|---|--:|--:|---|---|")
    results: list[dict[str, Any]] = []
    for i, seed in enumerate(options.seeds):
        kind = list(KINDS)[i % len(KINDS)]
        for row in checks(seed, KINDS[kind], options):
            print(f"| {seed} | {kind} | {' | '.join(row)} |", flush=True)
            results.append({"seed": seed, "kind": kind, "share": options.share, "check": row})
    report(options, {"checks": results})
    if any(result["check"][-1] != "yes" for result in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
