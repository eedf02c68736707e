"""What the three training stages share: run a job on Ray Train once, publish its model, report its curves."""

from __future__ import annotations

import importlib
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddt.manifest import Commit, commits
from ddt.store import mark_complete, open_store
from pipelines.engine.fit import train
from pipelines.engine.runner import StageContext
from pipelines.reports.pictures import curve_plot
from pipelines.reports.report import Report
from pipelines.services.models import publish_model

if TYPE_CHECKING:
    import torch

    from ddt.sections.run import Resources
    from ddt.train.config import FitConfig
    from ddt.train.fit import FitResult, Hook


class Job:
    """A training run as each of its workers sees it. Subclasses implement `run`.

    Checkpoints go under checkpoints/<stage>/<fingerprint> of the store and are removed once the model is
    published, so a run that was killed goes on from the last one.
    """

    def __init__(
        self,
        stage: str,
        fingerprint: str,
        store_uri: str,
        resources: Resources,
        hooks: Sequence[Hook],
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.stage, self.fingerprint, self.hooks, self.stop = stage, fingerprint, hooks, stop
        self.store, self.resources = open_store(store_uri), resources
        self.events: list[dict[str, Any]] = []  # loss spikes, as `ddt.train.fit` tells them

    @property
    def spread(self) -> bool:
        """Whether the model's weights are spread over the workers."""
        return False

    @staticmethod
    def shares(workers: int, fit: FitConfig, resources: Resources) -> bool:
        """Whether so many workers can share the training; images are cut into equal slices."""
        return fit.global_batch % workers == 0

    def run(self, **arguments: Any) -> None:
        """Build the model and its batches, `fit`, then `publish`."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """This worker's accelerator, or the CPU."""
        import torch

        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def is_published(self) -> bool:
        """Whether the model is in the store."""
        return bool(commits(self.store, self.stage, self.fingerprint))

    @property
    def checkpoint_prefix(self) -> str:
        """Where this run's checkpoints lie in the store."""
        return f"checkpoints/{self.stage}/{self.fingerprint[:16]}"

    def fit(self, model: Any, loss: Any, batches: Any, config: FitConfig) -> FitResult:
        """`ddt.train.fit` on this worker's device, with this run's checkpoints and metrics."""
        from ddt.train.checkpoint import Checkpoints
        from ddt.train.fit import fit

        checkpoints = Checkpoints(self.store, self.checkpoint_prefix)
        if not self.spread:
            model = model.to(self.device)
        result = fit(
            model,
            loss,
            batches,
            config,
            checkpoints,
            self.hooks,
            self.stage,
            progress=False,
            stop=self.stop,
        )
        self.events = result.events
        return result

    def publish(
        self, save: Callable[[Path], None], steps: int, measured: dict[str, float] | None = None
    ) -> None:
        """Write the model by `save(folder)` and commit it from rank 0; all save where weights are spread.

        What was `measured` on it, and the loss spikes, are kept in the commit, for the stage's report.
        """
        from ddt.train.distributed import barrier, rank_and_world

        is_first = rank_and_world()[0] == 0
        with tempfile.TemporaryDirectory(prefix="ddt-model-") as name:
            folder = Path(name) / "model"
            if is_first or self.spread:
                save(folder)
            if is_first:
                mark_complete(folder)
                stats = (measured or {}) | ({"events": self.events} if self.events else {})
                publish_model(self.store, self.stage, self.fingerprint, folder, steps, stats)
        if is_first:
            for key in sorted(self.store.list(f"{self.checkpoint_prefix}/"), reverse=True):
                self.store.delete(key)
        barrier()


def run_job(
    job: str,
    identity: dict[str, Any],
    arguments: dict[str, Any],
    hooks: Sequence[Hook],
    stop: Callable[[], bool],
) -> dict[str, Any]:
    """What each worker calls: builds the job `module:class` and runs it, unless its model is published."""
    module, _, name = job.partition(":")
    made: Job = getattr(importlib.import_module(module), name)(**identity, hooks=hooks, stop=stop)
    if not made.is_published:  # by a group that lost a worker after that, with its checkpoints gone
        made.run(**arguments)
    return {}


def group_sizes(job: type[Job], stage: str, fit: FitConfig, resources: Resources) -> list[int]:
    """Numbers of workers that a group may have, ascending, `train_workers` last; ValueError for that one."""
    full = resources.train_workers
    if not job.shares(full, fit, resources):
        raise ValueError(
            f"{stage}: global_batch = {fit.global_batch}: expected a multiple of "
            f"its {full} workers, which take equal slices of images"
        )
    least = resources.min_train_workers or full
    return [size for size in range(least, full + 1) if job.shares(size, fit, resources)]


def run_training(ctx: StageContext, job: type[Job], **arguments: Any) -> tuple[Commit, Report]:
    """Run `job` unless its model is there already; its commit, and a report with the curves so far."""
    unit = ctx.fingerprint[:32]
    done = commits(ctx.store, ctx.name, ctx.fingerprint)
    log = ctx.workspace / "logs" / f"{ctx.name}-{ctx.fingerprint[:16]}.jsonl"
    if unit not in done:
        log.parent.mkdir(parents=True, exist_ok=True)
        resources = ctx.params.resources.of_stage(ctx.name)
        identity = {
            "stage": ctx.name,
            "fingerprint": ctx.fingerprint,
            "store_uri": ctx.store.root_uri,
            "resources": resources,
        }
        job_args = {"job": f"{job.__module__}:{job.__name__}", "identity": identity, "arguments": arguments}
        with log.open("a") as lines:

            def write(step: int, metrics: dict[str, float]) -> None:
                lines.write(json.dumps({"step": step, **metrics}) + "\n")
                lines.flush()
                ctx.on_metrics(step, metrics)

            fit, run_dir = ctx.section.fit, ctx.workspace / "ray_train"
            sizes = group_sizes(job, ctx.name, fit, resources)
            train(
                "pipelines.engine.training:run_job",
                job_args,
                resources,
                sizes,
                run_dir,
                ctx.name,
                fit.steps,
                write,
            )
        done = commits(ctx.store, ctx.name, ctx.fingerprint)
    report = Report(ctx.name)
    report.curves = read_curves(log)
    for name, curve in report.curves.items():
        report.metrics[name] = curve[-1][1]
    stats = dict(done[unit].stats)
    report.notes += map(spike_note, stats.pop("events", []))
    report.metrics |= stats
    losses = {name: curve for name, curve in report.curves.items() if name in PLOTTED}
    if losses:
        path = ctx.folder / "curves.png"
        curve_plot(losses, "loss").save(path)
        report.pictures["Training curves"] = ctx.relative(path)
    return done[unit], report


PLOTTED = ("train/loss", "train/flow", "train/text_ce", "train/visual_ce")


def spike_note(event: dict[str, Any]) -> str:
    """A loss spike in words, as one of the events of `ddt.train.fit`."""
    first, last = event["skipped"]
    return (
        f"Loss spike: {event['loss']:.4g} at step {event['onset']}; training went back to step {event['to']} "
        f"and left out batches {first} to {last}."
    )


def read_curves(log: Path) -> dict[str, list[list[float]]]:
    """Curves of a metrics log; where a step was logged twice (after a restart) the later line counts."""
    steps: dict[int, dict[str, float]] = {}
    if log.is_file():
        for line in log.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # the line a killed worker was writing
            steps[row.pop("step")] = row
    curves: dict[str, list[list[float]]] = {}
    for step in sorted(steps):
        for name, value in steps[step].items():
            curves.setdefault(name, []).append([step, value])
    if "train/text_ce" in curves:  # of the mean cross-entropy: a mean of perplexities would be too high
        curves["train/text_perplexity"] = [[step, math.exp(value)] for step, value in curves["train/text_ce"]]
    return curves
