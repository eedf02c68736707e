"""How the rows that a checkpoint has no weights for begin: at the mean of its text rows, or drawn around it.

A row is a function of (seed, weight's name, row), so a process that holds a part of them draws the same.
n rows, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddt.data.order import uniform
from ddt.mllm.config import NewRowsKind

ROWS_AT_ONCE = 1 << 10


@dataclass(frozen=True)
class NewRows:
    """ "mean": the mean of the old rows. "normal": drawn from their mean and variance in each dimension.

    Equal rows give equal logits: drawn ones tell the codes apart from the first step.
    """

    kind: NewRowsKind = "mean"
    seed: int = 0

    def fill(self, rows_nD: Tensor, first: int, mean_D: Tensor, std_D: Tensor, name: str) -> None:
        """Writes rows `first`, `first` + 1, ... of the weight `name` into `rows_nD`."""
        if self.kind == "mean":
            rows_nD[:] = mean_D.to(rows_nD)
            return
        width = rows_nD.shape[1]
        for start in range(0, len(rows_nD), ROWS_AT_ONCE):
            part_nD = rows_nD[start : start + ROWS_AT_ONCE]
            index = torch.arange(part_nD.numel()) + (first + start) * width
            # 2**-54 keeps the inverse of the normal distribution finite at 0.
            drawn = torch.from_numpy(uniform(self.seed, f"new rows of {name}", index.numpy())) + 2.0**-54
            normal_nD = torch.special.ndtri(drawn).reshape(-1, width)
            part_nD[:] = (mean_D.double().cpu() + std_D.double().cpu() * normal_nD).to(part_nD)
