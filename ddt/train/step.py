"""One optimizer step: the loss and gradient of every micro-batch, then the move of the weights.

Everything random is a function of (seed, batch index, rank).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from ddt.train.batching import derive_seed, rows, split, to_device
from ddt.train.config import FitConfig
from ddt.train.distributed import mean_over_ranks, parallel_loss
from ddt.train.ema import Ema
from ddt.train.metrics import MetricAverages
from ddt.train.optimizer import build_optimizer
from ddt.train.parallel import clip_gradients
from ddt.train.precision import autocast
from ddt.train.schedule import learning_rate
from ddt.train.undo import Undo

Metrics = dict[str, Any]
LossFunction = Callable[[nn.Module, Any, int, torch.Generator], tuple[Tensor, Metrics]]
FinishStep = Callable[[nn.Module, int], Metrics]


class TrainStep:
    """What moves the weights of `model`: its optimizer, and the EMA where the run keeps one.

    `finish_step` of the loss, if it has one, is called once all micro-batches went through.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFunction, config: FitConfig, data_rank: int) -> None:
        self.model, self.config, self.data_rank = model, config, data_rank
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("the model has no parameter to train")
        self.device = self.parameters[0].device
        self.loss_module = parallel_loss(model, loss_fn)
        self.finish_step: FinishStep | None = getattr(loss_fn, "finish_step", None)
        self.optimizer = build_optimizer(model, config)
        self.ema = Ema(model, config.ema_decay) if config.ema_decay else None
        self.undo = Undo(model)
        self.generator = torch.Generator(self.device)
        # 1 once a step was not finite: that step and all after it then move nothing. The device sees to that
        # by itself (the fused optimizer takes this as it is): it need not be asked before every step.
        self.broken = torch.zeros((), dtype=torch.float32, device=self.device)

    def __call__(self, batch: Any, step: int, index: int, averages: MetricAverages, stop: bool) -> Tensor:
        """[loss, gradient norm, whether to stop] over all processes, on the device.

        `index` is the batch's, for its seeds. The third is above 0 where `stop` is True in any process.
        Metrics are added to `averages`. Weights, averages, the optimizer's state and the model's buffers are
        afterwards what they were where loss or gradient of this step, or of one before, are not finite.
        """
        config = self.config
        pieces, total = split(batch, config.micro_batch), rows(batch)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        self.optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(derive_seed(config.seed, index, self.data_rank))  # dropout and the like
        self.undo.keep()
        loss_sum = torch.zeros((), device=self.device)
        for number, piece in enumerate(pieces):
            weight = rows(piece) / total
            self.generator.manual_seed(derive_seed(config.seed, index, self.data_rank, number))
            with self._gradient_sync(number == len(pieces) - 1):
                with autocast(self.device, config.bf16):
                    loss, metrics = self.loss_module(to_device(piece, self.device), step, self.generator)
                (loss * weight).backward()
            loss_sum += loss.detach().float() * weight
            averages.add(metrics, weight)
        if self.finish_step is not None:
            averages.add(self.finish_step(self.model, step))
        loss, told = mean_over_ranks(torch.stack([loss_sum, loss_sum.new_full((), float(stop))])).unbind()
        norm = self._move(loss, step)
        self.undo.undo(self.broken)
        averages.add({"loss": loss, "grad_norm": norm})
        return torch.stack([loss, norm, told])

    def _move(self, loss: Tensor, step: int) -> Tensor:
        """Moves the weights unless loss or gradient is not finite; the gradient's norm before clipping."""
        norm = clip_gradients(self.parameters, self.config.clip or math.inf)
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        self.broken = torch.maximum(self.broken, (~finite).float())
        optimizer: Any = self.optimizer  # torch reads both from a fused optimizer but declares neither
        optimizer.grad_scale, optimizer.found_inf = None, self.broken
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(step, self.broken)
        return norm

    def _gradient_sync(self, last: bool) -> AbstractContextManager[Any]:
        if isinstance(self.loss_module, FSDPModule):
            self.loss_module.set_requires_gradient_sync(last)
        elif isinstance(self.loss_module, DistributedDataParallel) and not last:
            return self.loss_module.no_sync()
        return nullcontext()
