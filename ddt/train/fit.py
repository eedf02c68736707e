"""One training loop for the tokenizer, pre-training and instruction tuning.

It knows a model, a loss and batches by step; what runs it (a plain process, Ray Train, torchrun) is not its
business: where torch.distributed is initialised it averages gradients over the processes.

Everything random is a function of (seed, batch index), so a run that continues from a checkpoint is the run
that was never interrupted, bit for bit on a CPU.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ddt.progress import Progress
from ddt.train.batching import Batches
from ddt.train.checkpoint import Checkpoints, Position
from ddt.train.config import FitConfig
from ddt.train.distributed import barrier, gather_objects, rank_and_world
from ddt.train.ema import Ema
from ddt.train.feed import Feed
from ddt.train.metrics import MetricAverages
from ddt.train.parallel import ShardedLoss
from ddt.train.resume import load_groups, tensor_groups
from ddt.train.schedule import learning_rate
from ddt.train.spikes import BatchCursor, SpikeDetector
from ddt.train.step import LossFunction, TrainStep

logger = logging.getLogger(__name__)

Hook = Callable[[int, dict[str, float]], None]

LOSSES_READ_EVERY = 8  # steps between reads of the losses on an accelerator; each read waits for the device
MAX_REWINDS = 20  # a run that spikes more often than this has a cause that skipping batches does not cure


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient is not a finite number; the model is what it was before that step."""


class Stopped(Exception):
    """The training was asked to stop; where it keeps checkpoints, there is one of `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step


class LossSpikes(RuntimeError):
    """The loss spiked again and again although the batches that caused it were skipped."""


@dataclass(frozen=True)
class FitResult:
    """How a run ended. `metrics` are the last averages; `ema` is None where the run keeps none."""

    steps: int
    consumed_samples: int
    resumed_from: int
    seconds: float
    metrics: dict[str, float]
    events: list[dict[str, Any]] = field(default_factory=list)
    ema: Ema | None = None


def fit(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Batches,
    config: FitConfig,
    checkpoints: Checkpoints | None = None,
    hooks: Sequence[Hook] = (),
    label: str = "train",
    progress: bool = True,
    stop: Callable[[], bool] = lambda: False,
) -> FitResult:
    """Trains `model` in place for `config.steps` optimizer steps and returns how it went.

    `loss_fn(model, batch, step, generator)` gives a scalar loss, averaged over the batch's samples, and
    metrics to log; where it has a `finish_step(model, step)`, that is called once all micro-batches of a step
    went through, and gives more of them. Continues from the newest complete checkpoint if there is one.
    `hooks` are called on rank 0 as `hook(step, metrics)` every `log_every` steps with averages since the last
    call. `stop` is asked at each step; where one process is told True, all save a checkpoint when the losses
    are read next: on a CPU at the end of this step, on an accelerator within LOSSES_READ_EVERY.
    Raises Stopped then, NonFiniteLoss with the model as it was before such a step (weights, codebook and
    all), ValueError where processes get unequal slices.
    """
    run = _Run(model, loss_fn, batches, config, checkpoints, hooks, stop)
    resumed_from = run.resume()
    started = time.monotonic()
    bar = Progress(label, config.steps, run.step, enabled=progress and run.rank == 0)
    was_training = model.training
    model.train()
    try:
        while run.step < config.steps:
            run.advance()
            bar.update(run.step, f"loss {run.last_loss:.4g}")
            if run.told:
                run.stop_here()
    finally:
        run.feed.close()
        bar.close()
        model.train(was_training)
    seconds = time.monotonic() - started
    ema = run.train_step.ema
    return FitResult(run.step, run.consumed_samples, resumed_from, seconds, run.last_metrics, run.events, ema)


class _Run:
    """The moving parts of one `fit`."""

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        batches: Batches,
        config: FitConfig,
        checkpoints: Checkpoints | None,
        hooks: Sequence[Hook],
        stop: Callable[[], bool],
    ) -> None:
        self.config, self.checkpoints, self.hooks, self.stop = config, checkpoints, hooks, stop
        data_rank, data_world = rank_and_world()
        self.rank = data_rank
        if isinstance(loss_fn, ShardedLoss):
            data_rank, data_world = loss_fn.data_rank_and_world
        self.train_step = TrainStep(model, loss_fn, config, data_rank)
        self.device = self.train_step.device
        self.feed = Feed(batches, config.steps, config.global_batch, data_rank, data_world, self.device)
        self.spikes = SpikeDetector(config.spike_factor, config.spike_window)
        self.step = 0
        self.events: list[dict[str, Any]] = []
        self.averages = MetricAverages()
        self.last_loss = math.nan
        self.last_metrics: dict[str, float] = {}
        # [loss, gradient norm, whether to stop] of the steps up to self.step, on the device
        self.unread: list[Tensor] = []
        self.told = False  # to stop; the same in all processes
        self.saved_step: int | None = None
        self.logged_at, self.logged_step = time.monotonic(), 0

    @property
    def consumed_samples(self) -> int:
        """Position in the order of samples, skipped batches included."""
        return self.feed.cursor.batch_of(self.step) * self.config.global_batch

    def advance(self) -> None:
        """One optimizer step, then whatever is due after it."""
        config, index = self.config, self.feed.cursor.batch_of(self.step)
        batch = self.feed.get(self.step)
        self.unread.append(self.train_step(batch, self.step, index, self.averages, self.stop()))
        self.step += 1
        save_due = self.step % config.checkpoint_every == 0 or self.step == config.steps
        log_due = self.step % config.log_every == 0 or self.step == config.steps
        if (save_due or log_due or self.step % self._read_every() == 0) and self._read_losses():
            return
        if log_due:
            self._log()
        if save_due:
            self.save()

    def stop_here(self) -> None:
        """Raises Stopped, once there is a checkpoint of this step."""
        if self.saved_step != self.step:
            self.save()
        raise Stopped(self.step)

    def _read_every(self) -> int:
        return 1 if self.device.type == "cpu" else LOSSES_READ_EVERY

    def _read_losses(self) -> bool:
        """Judges the steps since the last read; True if one was a spike and training went back."""
        values = torch.stack(self.unread).tolist()
        first = self.step - len(values)
        self.unread = []
        self.told = any(told for _, _, told in values)
        for step, (loss, norm, _) in enumerate(values, start=first):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise NonFiniteLoss(self._describe_broken(step, loss, norm))
            if self.spikes.sees(loss):
                self._rewind(step, loss)
                return True
            self.last_loss = loss
        return False

    def _describe_broken(self, step: int, loss: float, norm: float) -> str:
        index, size = self.feed.cursor.batch_of(step), self.config.global_batch
        saved = self.checkpoints.latest() if self.checkpoints else None
        return (
            f"step {step}: loss is {loss}, gradient norm is {norm} (samples {index * size} to "
            f"{(index + 1) * size - 1}); stopped with the model as it was before this step; last "
            f"checkpoint: {'none' if saved is None else f'step {saved.step}'}"
        )

    def _rewind(self, onset: int, loss: float) -> None:
        """Goes back to before the spike that began at step `onset` and skips the batches that caused it."""
        if self.checkpoints is None or len(self.events) == MAX_REWINDS:
            raise LossSpikes(f"step {onset}: loss spiked to {loss:.4g} after {len(self.events)} rewinds")
        # The weights that gave the high loss were made by the batch before it.
        first, last = self.feed.cursor.batch_of(max(onset - 1, 0)), self.feed.cursor.batch_of(self.step - 1)
        skipped, events = self.feed.cursor, self.events
        self._load(self.checkpoints.before(onset - self.config.rewind_steps))
        barrier()  # every process has read its checkpoint before any is replaced
        skipped.skip(first, last)
        event = {"event": "rewind", "onset": onset, "loss": loss, "to": self.step, "skipped": [first, last]}
        self.feed.cursor, self.events = skipped, [*events, event]
        self.averages = MetricAverages()
        self.save()  # the same weights again, now knowing what to skip
        logger.warning("loss spike: %s", event)

    def _log(self) -> None:
        now = time.monotonic()
        seconds = max(now - self.logged_at, 1e-9)
        steps = self.step - self.logged_step
        metrics = self.averages.flush()
        metrics |= {
            "train/lr": learning_rate(self.step - 1, self.config),
            "train/samples_per_s": steps * self.config.global_batch / seconds,
            "train/data_share": self.feed.waited_s / seconds,
            "train/consumed_samples": float(self.consumed_samples),
            "train/rewinds": float(len(self.events)),
        }
        self.last_metrics, self.feed.waited_s = metrics, 0.0
        self.logged_at, self.logged_step = now, self.step
        if self.rank == 0:
            for hook in self.hooks:
                hook(self.step, metrics)

    def resume(self) -> int:
        """Loads the newest complete checkpoint; the step it is of, 0 where there is none."""
        # Rank 0 decides: it may already be writing when another process looks.
        latest = gather_objects(self.checkpoints.latest() if self.checkpoints else None)[0]
        if latest is not None:
            self._load(latest)
        elif self.config.spike_factor is not None:
            self.save()  # so that an early spike has somewhere to go back to
        return self.step

    def save(self) -> None:
        """Writes a checkpoint of this step: rank 0 all of it, or each process its shards."""
        if self.checkpoints is None:
            return
        trained = self.train_step
        groups = tensor_groups(trained.model, trained.optimizer, trained.ema)
        state = {
            "step": self.step,
            "consumed_samples": self.consumed_samples,
            "skipped": self.feed.cursor.skipped,
            "losses": list(self.spikes.history),
            "events": self.events,
            "metrics": self.last_metrics,
            "averages": gather_objects(self.averages.state()),
        }
        rewind_steps = self.config.rewind_steps if self.config.spike_factor is not None else None
        position = Position(len(self.events), self.step)
        self.checkpoints.save(position, groups, state, self.config.keep_checkpoints, rewind_steps)
        self.saved_step = self.step
        barrier()

    def _load(self, position: Position) -> None:
        assert self.checkpoints is not None
        trained = self.train_step
        state = load_groups(self.checkpoints, position, trained.model, trained.optimizer, trained.ema)
        self.step = self.logged_step = state["step"]
        self.feed.cursor = BatchCursor(state["skipped"])
        self.spikes = SpikeDetector(self.config.spike_factor, self.config.spike_window, state["losses"])
        self.events, self.last_metrics = state["events"], state["metrics"]
        rank, world = rank_and_world()
        self.averages = MetricAverages()
        self.averages.load(state["averages"][rank::world], self.device)
        self.unread = []
        trained.broken.zero_()  # a step after the spike may not have been finite
