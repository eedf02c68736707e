"""The judges' short training loop: AdamW, warm-up and cosine, clipping, bf16 where the machine has it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ddt.train.precision import autocast

WARMUP_SHARE = 0.05
CLIP_NORM = 1.0
WEIGHT_DECAY = 0.05


def optimise(
    model: torch.nn.Module,
    loss_fn: Callable[[Any], tuple[torch.Tensor, dict[str, float]]],
    batches: Iterable[Any],
    *,
    steps: int,
    learning_rate: float,
    name: str,
    progress: bool = True,
) -> None:
    """Train the parameters of `model` for `steps` batches.

    RuntimeError on a non-finite loss, before the optimizer moves.
    """
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, steps))
    bar = tqdm(zip(range(steps), batches, strict=False), total=steps, desc=name, disable=not progress)
    model.train()
    for step, batch in bar:
        with autocast(torch.device("cpu")):
            loss, metrics = loss_fn(batch)
        if not math.isfinite(loss.item()):
            raise RuntimeError(f"{name}: the loss became {loss.item()} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            bar.set_postfix({key: f"{value:.3f}" for key, value in metrics.items()})
    model.eval()


class _Drawn(torch.utils.data.IterableDataset):
    def __init__(self, draw: Callable[[np.random.Generator], Any], seed: int) -> None:
        self.draw, self.seed = draw, seed

    def __iter__(self) -> Iterator[Any]:
        torch.set_num_threads(1)
        return (self.draw(np.random.default_rng([self.seed, index])) for index in itertools.count())


def prefetch(draw: Callable[[np.random.Generator], Any], seed: int) -> Iterator[Any]:
    """Endless batches, each a function of (seed, index), drawn in a process beside the training."""
    return iter(
        torch.utils.data.DataLoader(_Drawn(draw, seed), batch_size=None, num_workers=1, prefetch_factor=4)
    )


def warm_cosine(step: int, steps: int) -> float:
    """Linear warm-up over the first twentieth, then a cosine to a hundredth."""
    warmup = max(1, int(WARMUP_SHARE * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
