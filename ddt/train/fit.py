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
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from ddt.progress import Progress
from ddt.train.batching import Batches, derive_seed, pinned, rows, split, to_device
from ddt.train.checkpoint import Checkpoints, Position
from ddt.train.config import FitConfig
from ddt.train.distributed import barrier, gather_objects, mean_over_ranks, parallel_loss, rank_and_world
from ddt.train.ema import Ema
from ddt.train.metrics import MetricAverages
from ddt.train.optimizer import build_optimizer
from ddt.train.parallel import ShardedLoss, clip_gradients, is_sharded
from ddt.train.precision import autocast
from ddt.train.prefetch import Prefetch
from ddt.train.schedule import learning_rate
from ddt.train.spikes import BatchCursor, SpikeDetector
from ddt.train.state import blank_optimizer, load_model, load_optimizer, model_tensors, optimizer_tensors

logger = logging.getLogger(__name__)

Metrics = dict[str, Any]
LossFunction = Callable[[nn.Module, Any, int, torch.Generator], tuple[Tensor, Metrics]]
FinishStep = Callable[[nn.Module, int], Metrics]
Hook = Callable[[int, dict[str, float]], None]

LOSSES_READ_EVERY = 8  # steps between reads of the losses on an accelerator; each read waits for the device
MAX_REWINDS = 20  # a run that spikes more often than this has a cause that skipping batches does not cure


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient is not a finite number; the weights are those before that step."""


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


def prefetches(device: torch.device) -> bool:
    """Whether batches are made in a thread: on a CPU it would take the cores that the step computes on."""
    return device.type != "cpu"


def fit(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Batches,
    config: FitConfig,
    checkpoints: Checkpoints | None = None,
    hooks: Sequence[Hook] = (),
    label: str = "train",
    progress: bool = True,
) -> FitResult:
    """Trains `model` in place for `config.steps` optimizer steps and returns how it went.

    `loss_fn(model, batch, step, generator)` gives a scalar loss, averaged over the batch's samples, and
    metrics to log; where it has a `finish_step(model, step)`, that is called once all micro-batches of a step
    went through, and gives more of them. Continues from the newest complete checkpoint if there is one.
    `hooks` are called on rank 0 as `hook(step, metrics)` every `log_every` steps with averages since the last
    call.
    Raises NonFiniteLoss before such a step moves the weights, ValueError where processes get unequal slices.
    """
    run = _Run(model, loss_fn, batches, config, checkpoints, hooks)
    resumed_from = run.resume()
    started = time.monotonic()
    bar = Progress(label, config.steps, run.step, enabled=progress and run.rank == 0)
    was_training = model.training
    model.train()
    try:
        while run.step < config.steps:
            run.advance()
            bar.update(run.step, f"loss {run.last_loss:.4g}")
    finally:
        run.close()
        bar.close()
        model.train(was_training)
    seconds = time.monotonic() - started
    return FitResult(
        run.step, run.consumed_samples, resumed_from, seconds, run.last_metrics, run.events, run.ema
    )


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
    ) -> None:
        self.model, self.batches, self.config = model, batches, config
        self.checkpoints, self.hooks = checkpoints, hooks
        self.rank = rank_and_world()[0]
        self.data_rank, self.data_world = rank_and_world()
        if isinstance(loss_fn, ShardedLoss):
            self.data_rank, self.data_world = loss_fn.data_rank_and_world
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("the model has no parameter to train")
        self.device = self.parameters[0].device
        self.loss_module = parallel_loss(model, loss_fn)
        self.finish_step: FinishStep | None = getattr(loss_fn, "finish_step", None)
        self.optimizer = build_optimizer(model, config)
        self.ema = Ema(model, config.ema_decay) if config.ema_decay else None
        self.generator = torch.Generator(self.device)
        self.spikes = SpikeDetector(config.spike_factor, config.spike_window)
        self.cursor = BatchCursor()
        self.prefetch = Prefetch(self._make_batch) if prefetches(self.device) else None
        self.step = 0
        self.slices_equal = False
        self.events: list[dict[str, Any]] = []
        self.averages = MetricAverages()
        self.last_loss = math.nan
        self.last_metrics: dict[str, float] = {}
        self.unread: list[Tensor] = []  # [loss, gradient norm] of the steps up to self.step, on the device
        # 1 once a step was not finite: the fused optimizer then skips that step and all after it by itself,
        # so the device need not be asked before every step.
        self.broken = torch.zeros((), device=self.device)
        self.logged_at, self.logged_step, self.data_s = time.monotonic(), 0, 0.0

    @property
    def consumed_samples(self) -> int:
        """Position in the order of samples, skipped batches included."""
        return self.cursor.batch_of(self.step) * self.config.global_batch

    def advance(self) -> None:
        """One optimizer step, then whatever is due after it."""
        self._train_step()
        self.step += 1
        config = self.config
        save_due = self.step % config.checkpoint_every == 0 or self.step == config.steps
        log_due = self.step % config.log_every == 0 or self.step == config.steps
        if (save_due or log_due or self.step % self._read_every() == 0) and self._read_losses():
            return
        if log_due:
            self._log()
        if save_due:
            self.save()

    def _read_every(self) -> int:
        return 1 if self.device.type == "cpu" else LOSSES_READ_EVERY

    def _train_step(self) -> None:
        config, step = self.config, self.step
        index = self.cursor.batch_of(step)
        started = time.monotonic()
        batch = self._batch(index)
        pieces, total = split(batch, config.micro_batch), rows(batch)
        self._check_slices(total)
        self.data_s += time.monotonic() - started
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        self.optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(derive_seed(config.seed, index, self.data_rank))  # dropout and the like
        loss_sum = torch.zeros((), device=self.device)
        for number, piece in enumerate(pieces):
            weight = rows(piece) / total
            self.generator.manual_seed(derive_seed(config.seed, index, self.data_rank, number))
            with self._gradient_sync(number == len(pieces) - 1):
                with autocast(self.device, config.bf16):
                    loss, metrics = self.loss_module(to_device(piece, self.device), step, self.generator)
                (loss * weight).backward()
            loss_sum += loss.detach().float() * weight
            self.averages.add(metrics, weight)
        if self.finish_step is not None:
            self.averages.add(self.finish_step(self.model, step))
        self._apply(mean_over_ranks(loss_sum))

    def _batch(self, index: int) -> Any:
        if self.prefetch is None:
            return self._make_batch(index)
        is_last = self.step + 1 == self.config.steps
        return self.prefetch.get(index, None if is_last else self.cursor.batch_of(self.step + 1))

    def _make_batch(self, index: int) -> Any:
        batch = self.batches.batch(index, self.data_rank, self.data_world)
        return pinned(batch) if self.device.type == "cuda" else batch

    def close(self) -> None:
        """Ends the thread that makes batches, if there is one."""
        if self.prefetch is not None:
            self.prefetch.close()

    def _check_slices(self, own: int) -> None:
        """ValueError where processes have different numbers of rows; asked once, since it takes a gather."""
        if not self.slices_equal and len(sizes := set(gather_objects(own))) > 1:
            raise ValueError(
                f"global_batch = {self.config.global_batch}: {self.data_world} processes get slices of "
                f"{min(sizes)} to {max(sizes)} rows; expected equal ones"
            )
        self.slices_equal = True

    def _apply(self, loss: Tensor) -> None:
        norm = clip_gradients(self.parameters, self.config.clip or math.inf)
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        self.broken = torch.maximum(self.broken, (~finite).float())
        optimizer: Any = self.optimizer  # torch reads both from a fused optimizer but declares neither
        optimizer.grad_scale, optimizer.found_inf = None, self.broken
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.step)
        self.averages.add({"loss": loss, "grad_norm": norm})
        self.unread.append(torch.stack([loss, norm]))

    def _gradient_sync(self, last: bool) -> AbstractContextManager[Any]:
        if isinstance(self.loss_module, FSDPModule):
            self.loss_module.set_requires_gradient_sync(last)
        elif isinstance(self.loss_module, DistributedDataParallel) and not last:
            return self.loss_module.no_sync()
        return nullcontext()

    def _read_losses(self) -> bool:
        """Judges the steps since the last read; True if one was a spike and training went back."""
        values = torch.stack(self.unread).tolist()
        first = self.step - len(values)
        self.unread = []
        for step, (loss, norm) in enumerate(values, start=first):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise NonFiniteLoss(self._describe_broken(step, loss, norm))
            if self.spikes.sees(loss):
                self._rewind(step, loss)
                return True
            self.last_loss = loss
        return False

    def _describe_broken(self, step: int, loss: float, norm: float) -> str:
        index, size = self.cursor.batch_of(step), self.config.global_batch
        saved = self.checkpoints.latest() if self.checkpoints else None
        return (
            f"step {step}: loss is {loss}, gradient norm is {norm} (samples {index * size} to "
            f"{(index + 1) * size - 1}); stopped with the weights as they were before this step; last "
            f"checkpoint: {'none' if saved is None else f'step {saved.step}'}"
        )

    def _rewind(self, onset: int, loss: float) -> None:
        """Goes back to before the spike that began at step `onset` and skips the batches that caused it."""
        if self.checkpoints is None or len(self.events) == MAX_REWINDS:
            raise LossSpikes(f"step {onset}: loss spiked to {loss:.4g} after {len(self.events)} rewinds")
        # The weights that gave the high loss were made by the batch before it.
        first, last = self.cursor.batch_of(max(onset - 1, 0)), self.cursor.batch_of(self.step - 1)
        skipped, events = self.cursor, self.events
        self._load(self.checkpoints.before(onset - self.config.rewind_steps))
        barrier()  # every process has read its checkpoint before any is replaced
        skipped.skip(first, last)
        event = {"event": "rewind", "onset": onset, "loss": loss, "to": self.step, "skipped": [first, last]}
        self.cursor, self.events = skipped, [*events, event]
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
            "train/data_share": self.data_s / seconds,
            "train/consumed_samples": float(self.consumed_samples),
            "train/rewinds": float(len(self.events)),
        }
        self.last_metrics, self.data_s = metrics, 0.0
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
        groups = {
            "model": model_tensors(self.model),
            "optimizer": optimizer_tensors(self.model, self.optimizer),
        }
        if self.ema is not None:
            groups["ema"] = self.ema.weights
        state = {
            "step": self.step,
            "consumed_samples": self.consumed_samples,
            "skipped": self.cursor.skipped,
            "losses": list(self.spikes.history),
            "events": self.events,
            "metrics": self.last_metrics,
        }
        rewind_steps = self.config.rewind_steps if self.config.spike_factor is not None else None
        position = Position(len(self.events), self.step)
        self.checkpoints.save(position, groups, state, self.config.keep_checkpoints, rewind_steps)
        barrier()

    def _load(self, position: Position) -> None:
        assert self.checkpoints is not None
        if is_sharded(self.parameters):
            state = self._load_shards(position)
        else:
            groups, state = self.checkpoints.load(position)
            load_model(self.model, groups["model"])
            load_optimizer(self.model, self.optimizer, groups["optimizer"])
            if self.ema is not None:
                self.ema.load(groups.get("ema", {}))
        self.step = self.logged_step = state["step"]
        self.cursor = BatchCursor(state["skipped"])
        self.spikes = SpikeDetector(self.config.spike_factor, self.config.spike_window, state["losses"])
        self.events, self.last_metrics = state["events"], state["metrics"]
        self.unread = []

    def _load_shards(self, position: Position) -> dict[str, Any]:
        """Reads what this process holds, and no more, from a checkpoint of any layout; its state."""
        assert self.checkpoints is not None
        groups = {"model": model_tensors(self.model)}
        blank_optimizer(self.model, self.optimizer, self.checkpoints.stored(position, "optimizer"))
        groups["optimizer"] = optimizer_tensors(self.model, self.optimizer)
        if self.ema is not None:
            groups["ema"] = self.ema.weights
        return self.checkpoints.load_into(position, groups)
