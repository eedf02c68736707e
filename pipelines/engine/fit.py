"""Training on Ray Train: a function of ddt, run by a group of workers that starts again where one is lost.

The function knows no Ray: it gets its arguments and `hooks`, calls `ddt.train.fit.fit` with checkpoints in
the store, and returns plain JSON. A new group calls it again, perhaps with fewer workers, and `fit` goes on
from the newest complete checkpoint; Ray's own checkpoints and reports are not used, since each report makes
training wait.

Told to end, the driver has the workers save a checkpoint before it does; a worker or a node that is told has
them save one as well, and a new group goes on from it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddt.clean import one_line
from ddt.progress import Progress
from ddt.sections.run import Resources
from pipelines.engine.cluster import connect, is_own_cluster
from pipelines.engine.collector import Collector
from pipelines.engine.failures import is_mistake
from pipelines.engine.stopping import signal_name
from pipelines.engine.watchdog import Watchdog
from pipelines.reports.overhead import count

POLL_S = 0.5
# After a torch error a worker of several waits so long before it says so: where a peer was lost, which gives
# the others such errors, Ray has seen it by then and ended the group.
PEER_LOST_S = 5.0
logger = logging.getLogger(__name__)
OnMetrics = Callable[[int, dict[str, float]], None]


class TrainingError(RuntimeError):
    """Training failed; the message says why in one line."""


class TrainingInputError(TrainingError, ValueError):
    """The same, where the reason is the user's input."""


class TrainingSystemError(TrainingError, OSError):
    """The same, where the reason is a disk, the network or a store: it may pass."""


@dataclass(frozen=True)
class Training:
    """What a training run gave: the job's result, and its metrics by step (`step` is an entry of each)."""

    result: dict[str, Any]
    history: list[dict[str, float]]
    restarts: int


def train(
    job: str,
    job_args: Mapping[str, Any],
    resources: Resources,
    sizes: Sequence[int],
    run_dir: str | Path,
    label: str,
    steps: int,
    on_metrics: OnMetrics | None = None,
) -> Training:
    """Runs `job`, "module:function", as `function(**job_args, hooks=..., stop=...)` on all workers.

    Both are for `ddt.train.fit`. The function returns a dict of plain JSON; rank 0's is the result. `run_dir`
    is for Ray Train's own notes. `on_metrics(step, metrics)` is called in this process as metrics come;
    progress goes to stderr. A lost worker restarts all of them, at most `resources.max_failures` times (-1:
    always), with as many as fit of the `sizes` that the job can be shared among: ascending, the last of them
    `resources.train_workers`.
    Ctrl-C or SIGTERM is raised again, as KeyboardInterrupt or Terminated with a line that says what is saved,
    once the workers have a checkpoint or `resources.grace_s` are over; the second one is raised at once.
    Raises TrainingInputError for a ValueError of the job, TrainingSystemError for an OSError or one of the
    store, TrainingError for anything else that ends it.
    """
    with connect(resources):
        import ray

        began = time.time()
        collector: Any = _start_collector()
        watchdog = Watchdog(label, resources.stalled_after_s)
        monitor = _Monitor(collector, label, steps, sizes[-1], on_metrics, began, watchdog)
        try:
            with monitor.watching():
                error = _Driver(label, resources.grace_s, collector).run(
                    lambda: _run_trainer(job, dict(job_args), resources, sizes, Path(run_dir), collector)
                )
            failure, result = ray.get(collector.outcome.remote())
        except ray.exceptions.RayError as lost:  # the collector, that is the node this process runs on
            raise TrainingError(f"{label}: {_brief(lost)}") from lost
    if failure is not None:
        raise _failure(label, failure)
    if error is not None or result is None:
        raise TrainingError(f"{label}: {_brief(error)}") from error
    return Training(json.loads(result), monitor.history, monitor.groups - 1)


def _start_collector() -> Any:
    """The collector's actor, on the node of this process."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Collector).remote()  # type: ignore[call-overload]


def _run_trainer(
    job: str,
    job_args: dict[str, Any],
    resources: Resources,
    sizes: Sequence[int],
    run_dir: Path,
    collector: Any,
) -> Exception | None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.exceptions import TrainingFailedError

    from pipelines.engine.told import ToldTorchConfig
    from pipelines.engine.trainer import trainer_class

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    cpus = _cpus_per_worker(resources, ray.cluster_resources().get("CPU", 1.0))
    wanted = {"CPU": cpus}
    if resources.gpus_per_worker:
        wanted["GPU"] = resources.gpus_per_worker
    scaling: dict[str, Any] = {
        "use_gpu": bool(resources.gpus_per_worker),
        "resources_per_worker": wanted,
    }
    options: dict[str, Any] = {
        "train_loop_per_worker": _work,
        "train_loop_config": {
            "job": job,
            "job_args": job_args,
            "threads": max(1, int(cpus)),
            "collector": collector,
        },
        "torch_config": ToldTorchConfig(backend="nccl" if resources.gpus_per_worker else "gloo"),
        "run_config": RunConfig(
            storage_path=str(run_dir.absolute()),
            failure_config=FailureConfig(max_failures=resources.max_failures),
        ),
    }
    trainer: Any
    if len(sizes) > 1 and not is_own_cluster():  # which is one node
        from pipelines.engine.elastic import ElasticTrainer

        trainer = ElasticTrainer(sizes, scaling, collector, **options)
    else:
        config = ScalingConfig(num_workers=sizes[-1], **scaling)
        trainer = trainer_class()(scaling_config=config, **options)
    try:
        trainer.fit()
    except (TrainingFailedError, ray.exceptions.RayError) as error:
        return error
    return None


@dataclass(frozen=True)
class _Driver:
    """Runs the groups of a training; when this process is told to end it has them save a checkpoint first."""

    label: str
    grace_s: float
    collector: Any

    def run(self, trainer: Callable[[], Exception | None]) -> Exception | None:
        """The error of `trainer`, which is called again where a worker, not this process, was told to end."""
        while True:
            error = self._run_once(trainer)
            step = self._take_stop()
            if step is None:
                return error
            told = "a worker or its node was told to end; a new group goes on from a checkpoint of step"
            logger.warning("%s: %s %d", self.label, told, step)

    def _run_once(self, trainer: Callable[[], Exception | None]) -> Exception | None:
        """Runs it in a thread: in this one Ray would put its own handler of Ctrl-C in place."""
        ended: Future[Exception | None] = Future()

        def work() -> None:
            try:
                ended.set_result(trainer())
            except BaseException as error:  # which is raised in the driver's thread
                ended.set_exception(error)

        threading.Thread(target=work, name="training", daemon=True).start()
        try:
            return ended.result()
        except KeyboardInterrupt as told:
            return self._stop(ended, told)

    def _stop(self, ended: Future[Exception | None], told: KeyboardInterrupt) -> Exception | None:
        """Waits until the workers have stopped, then raises `told` with what became of it."""
        import ray

        limit = f"{self.grace_s:g} s (resources.grace_s)"
        say = f"{signal_name(told)}: a checkpoint is made, which may take {limit}; again ends at once"
        print(f"{self.label}: {say}", file=sys.stderr, flush=True)
        self.collector.stop.remote()
        wait([ended], self.grace_s)
        _, result = ray.get(self.collector.outcome.remote())
        if result is not None and ended.done():
            return ended.result()  # it was done before it could be told; its stage has little left to do
        step = self._take_stop()
        saved = "no checkpoint was made" if ended.done() else f"no checkpoint within {limit}"
        if step is not None:
            saved = f"a checkpoint of step {step} is saved"
        goes_on = "the same command, or resume, goes on from the newest one"
        raise type(told)(f"{self.label}: ended by {signal_name(told)}; {saved}; {goes_on}")

    def _take_stop(self) -> int | None:
        import ray

        step: int | None = ray.get(self.collector.take_stop.remote())
        return step


def _cpus_per_worker(resources: Resources, cpus: float) -> float:
    """Whole cores, as many as there are for each; a share of one where there are fewer cores than workers."""
    if resources.train_cpus_per_worker is not None:
        return float(resources.train_cpus_per_worker)
    share = cpus / resources.train_workers
    return float(int(share)) if share >= 1 else share


def _work(config: dict[str, Any]) -> None:
    """One worker of the group: the job, with its metrics and its result sent to the collector."""
    import ray
    import torch

    from ddt.train.fit import Stopped
    from pipelines.engine.told import is_told, listen_to_driver

    collector, context = config["collector"], ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    if ray.get(collector.start.remote(rank, workers, time.time())):
        return  # Ray starts a group again whatever ended the last one
    if rank == 0:
        listen_to_driver(collector)
    torch.set_num_threads(config["threads"])
    module, _, function = config["job"].partition(":")

    def send(step: int, metrics: dict[str, float]) -> None:
        collector.add.remote(step, metrics)

    try:
        work = getattr(importlib.import_module(module), function)
        result = work(**config["job_args"], hooks=[send], stop=is_told)
        if rank == 0:
            ray.get(collector.finish.remote(json.dumps(result)))
    except Stopped as stopped:  # all of them alike, so that Ray sees no failure
        if rank == 0:
            ray.get(collector.stopped.remote(stopped.step))
    except Exception as error:  # the driver gets the reason whatever it is
        may_pass = _may_pass(error)
        if may_pass and workers > 1:
            time.sleep(PEER_LOST_S)
        failure = {
            "kind": type(error).__name__,
            "reason": one_line(error),
            "user": isinstance(error, ValueError | OSError),
            "mistake": is_mistake(error),
            "trace": traceback.format_exc(),
        }
        ends = ray.get(collector.fail.remote(failure, may_pass))
        if workers > 1 or not ends:
            raise  # the others may wait for this worker in a collective; Ray stops them


def _may_pass(error: Exception) -> bool:
    """Whether a new group may be spared it: for a lost peer or device torch raises a RuntimeError."""
    from ddt.train.fit import LossSpikes, NonFiniteLoss

    return isinstance(error, RuntimeError) and not isinstance(error, LossSpikes | NonFiniteLoss)


class _Monitor:
    """Shows a run's progress in the driver and keeps its metrics."""

    def __init__(
        self,
        collector: Any,
        label: str,
        steps: int,
        workers: int,
        on_metrics: OnMetrics | None,
        began: float,
        watchdog: Watchdog,
    ) -> None:
        self.collector, self.label, self.steps = collector, label, steps
        self.on_metrics, self.began, self.watchdog = on_metrics, began, watchdog
        self.full_size = self.size = workers
        self.history: list[dict[str, float]] = []
        self.groups = self.seen = 0
        self.bar: Progress | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Polls in a thread while the block runs, and once more after it."""
        ended = threading.Event()

        def poll() -> None:
            while not ended.wait(POLL_S):
                self.look()

        thread = threading.Thread(target=poll, name="training-monitor", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.look()
            if self.bar is not None:
                self.bar.close()

    def look(self) -> None:
        """Takes in what is new."""
        import ray

        began, groups, lines = ray.get(self.collector.since.remote(self.seen))
        if began is not None and self.bar is None:
            count("ray", max(0.0, began - self.began))
            self.bar = Progress(self.label, self.steps)
        for size in groups[self.groups :]:
            if size != self.size:
                logger.warning("%s: goes on with %d of %d workers", self.label, size, self.full_size)
            self.size = size
        if lines or len(groups) > self.groups:
            self.watchdog.beat()
        self.watchdog.look(self._at_work)
        self.groups, self.seen = len(groups), self.seen + len(lines)
        for step, metrics in lines:
            # After a restart or a rewind, steps come again: the later ones are what the model learned from.
            while self.history and self.history[-1]["step"] >= step:
                self.history.pop()
            self.history.append({"step": step, **metrics})
            if self.on_metrics is not None:
                self.on_metrics(step, metrics)
            if self.bar is not None:
                self.bar.update(step, f"loss {metrics.get('train/loss', float('nan')):.4g}")

    def _at_work(self) -> str:
        logged = self.history[-1]["step"] if self.history else 0
        return f"{logged:g} of {self.steps} steps are logged, {self.size} workers"


def _brief(error: Exception | None) -> str:
    """Ray's page on a lost worker, in one line; the whole of it is the cause of the exception."""
    lines = [line.strip() for line in str(error or "the job gave no result").splitlines()]
    return " ".join(line for line in lines[:3] if line)


def _failure(label: str, failure: dict[str, Any]) -> TrainingError:
    if failure["user"]:
        kind = TrainingInputError if failure["mistake"] else TrainingSystemError
        return kind(f"{label}: {failure['reason']}")
    logger.error("%s", failure["trace"])
    return TrainingError(f"{label}: {failure['kind']}: {failure['reason']}")
