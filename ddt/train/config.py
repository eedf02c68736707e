"""The decisions of one training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ddt.config import Count, Range


@dataclass(frozen=True)
class FitConfig:
    """How `ddt.train.fit` trains a model; the model and its loss are not its business.

    `optimizer` muon moves the matrices of blocks by Muon, the rest by AdamW (the paper has AdamW for all).
    `micro_batch` is the most samples one process passes through the model at once; gradients accumulate to
    `global_batch`, the samples of one optimizer step over all processes. `clip`, `ema_decay` and
    `spike_factor` are off when null. A loss above `spike_factor` x the median of the last `spike_window`
    losses is a spike: training goes back to a checkpoint at least `rewind_steps` before it.
    """

    steps: Count
    global_batch: Count
    micro_batch: Count | None
    optimizer: Literal["adamw", "muon"]
    lr: Annotated[float, Range(0)]
    min_lr_ratio: Annotated[float, Range(0, 1)]
    warmup_steps: Annotated[int, Range(0)]
    weight_decay: Annotated[float, Range(0)]
    betas: tuple[Annotated[float, Range(0, 1)], Annotated[float, Range(0, 1)]]
    eps: Annotated[float, Range(0)]
    clip: Annotated[float, Range(0)] | None
    ema_decay: Annotated[float, Range(0, 1)] | None
    bf16: bool
    checkpoint_every: Count
    keep_checkpoints: Count
    log_every: Count
    spike_factor: Annotated[float, Range(1)] | None
    spike_window: Count
    rewind_steps: Annotated[int, Range(0)]
    seed: int

    def __post_init__(self) -> None:
        if self.steps < 1 or self.global_batch < 1 or self.checkpoint_every < 1 or self.log_every < 1:
            raise ValueError("steps, global_batch, checkpoint_every and log_every must be at least 1")
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps = {self.warmup_steps}: more than steps = {self.steps}")
        if self.micro_batch is not None and not 1 <= self.micro_batch <= self.global_batch:
            raise ValueError(
                f"micro_batch = {self.micro_batch}: expected null or 1 to global_batch = {self.global_batch}"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas = {self.betas}: expected two numbers in [0, 1)")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip = {self.clip}: expected a positive number, or null for no clipping")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay = {self.ema_decay}: expected a number in (0, 1), or null for none")
        if self.spike_factor is not None and self.spike_factor <= 1:
            raise ValueError(f"spike_factor = {self.spike_factor}: expected more than 1, or null for none")
