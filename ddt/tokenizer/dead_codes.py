"""Codes that are matched too rarely, or crowd one that is matched more, restart where vectors come.

The codebook is its averages here, changed in place: `sums_Kd` of vectors matched in a step, `hits_K` of their
number. Shapes: d code dimensions, K codes, N vectors of this process.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ddt.tokenizer.kmeans import random_rows
from ddt.tokenizer.lookup import largest_cosine, rows_at_once, unit
from ddt.tokenizer.ranks import gather_rows, world_size


def restart_dead_codes(
    sums_Kd: Tensor, hits_K: Tensor, outputs_Nd: Tensor, *, threshold: float, code_distance: float, seed: int
) -> None:
    """Dead codes restart at random outputs of the encoder, those of all ranks.

    Dead is a code with fewer than `threshold` of its even share of hits or, with `code_distance`, one nearer
    than that to a code with more hits. Restarts are then drawn from outputs that far from all live codes.
    """
    limit = threshold * len(outputs_Nd) * world_size() / len(hits_K)
    near = 1 - code_distance**2 / 2  # the cosine of unit vectors `code_distance` apart
    dead_K = hits_K < limit
    if code_distance:
        dead_K |= _crowded(sums_Kd, hits_K, near)
        dead_K[hits_K.argmax()] = False  # one stays whatever the threshold
    if dead_K.device.type == "cpu" and not dead_K.any():
        return  # an accelerator would have to be waited for to know
    outputs_Nd = gather_rows(outputs_Nd)
    if code_distance:
        live_Kd = unit(sums_Kd[~dead_K])
        outputs_Nd = outputs_Nd[largest_cosine(outputs_Nd, live_Kd) < near]
        _park(sums_Kd, hits_K, dead_K, live_Kd)
    _restart(sums_Kd, hits_K, dead_K, outputs_Nd, limit, seed)


def _crowded(sums_Kd: Tensor, hits_K: Tensor, near: float) -> Tensor:
    """[K] whether a code with more hits has a cosine above `near`.

    Not in the paper. Averages alone put many codes where many vectors are: in flat backgrounds, whose
    codes then changed with one grey level, and which the language model had to learn by heart.
    """
    codes_Kd = unit(sums_Kd)
    rows = rows_at_once(codes_Kd)
    crowded = [
        ((chunk_Kd @ codes_Kd.T > near) & (hits_K > chunk_hits_K[:, None])).any(1)
        for chunk_Kd, chunk_hits_K in zip(codes_Kd.split(rows), hits_K.split(rows), strict=True)
    ]
    return torch.cat(crowded)


def _park(sums_Kd: Tensor, hits_K: Tensor, dead_K: Tensor, live_Kd: Tensor) -> None:
    """A code for which there is no room waits opposite the most frequent one, where no vector comes."""
    sums_Kd[dead_K] = -live_Kd[hits_K[~dead_K].argmax()]
    hits_K[dead_K] = 0


def _restart(
    sums_Kd: Tensor, hits_K: Tensor, dead_K: Tensor, outputs_Nd: Tensor, limit: float, seed: int
) -> None:
    """Gives each dead code another random output, as far as there are some: the n-th the n-th drawn.

    Done for all codes and kept for the dead, since how many these are only the device knows.
    """
    if not len(outputs_Nd):
        return
    drawn_Kd = random_rows(outputs_Nd, len(dead_K), seed)
    nth_K = dead_K.cumsum(0) - 1
    restarts_K = dead_K & (nth_K < len(drawn_Kd))
    restarted_Kd = drawn_Kd[nth_K.clamp(0, len(drawn_Kd) - 1)] * limit
    sums_Kd.copy_(torch.where(restarts_K[:, None], restarted_Kd, sums_Kd))
    hits_K.masked_fill_(restarts_K, limit)
