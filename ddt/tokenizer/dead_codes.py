"""Codes that are matched too rarely restart where vectors come.

The codebook is its averages here, changed in place: `sums_Kd` of vectors matched in a step, `hits_K` of their
number. Shapes: d code dimensions, K codes, N vectors of this process.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ddt.tokenizer.kmeans import random_rows
from ddt.tokenizer.ranks import gather_rows, world_size


def restart_dead_codes(
    sums_Kd: Tensor, hits_K: Tensor, outputs_Nd: Tensor, *, threshold: float, seed: int
) -> None:
    """Codes with fewer than `threshold` of their even share of hits restart at random outputs, of all ranks.

    As far as there are some: the n-th dead code at the n-th drawn. Done for all codes and kept for the dead,
    since how many these are only the device knows.
    """
    limit = threshold * len(outputs_Nd) * world_size() / len(hits_K)
    dead_K = hits_K < limit
    if dead_K.device.type == "cpu" and not dead_K.any():
        return  # an accelerator would have to be waited for to know
    drawn_Kd = random_rows(gather_rows(outputs_Nd), len(dead_K), seed)
    nth_K = dead_K.cumsum(0) - 1
    restarts_K = dead_K & (nth_K < len(drawn_Kd))
    restarted_Kd = drawn_Kd[nth_K.clamp(0, len(drawn_Kd) - 1)] * limit
    sums_Kd.copy_(torch.where(restarts_K[:, None], restarted_Kd, sums_Kd))
    hits_K.masked_fill_(restarts_K, limit)
