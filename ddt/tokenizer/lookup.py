"""The nearest code by cosine, a chunk of rows at a time: no tensor of N × K is ever held.

Shapes: d code dimensions, K codes, N vectors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Similarities held at once. An accelerator has the memory for more, and is busy only with many rows.
LOOKUP_ELEMENTS = 1 << 24  # 64 MiB in float32
ACCELERATOR_LOOKUP_ELEMENTS = 1 << 27  # 512 MiB; the paper's batch in 8 pieces


def unit(x: Tensor) -> Tensor:
    """L2-normalised along the last dimension."""
    return F.normalize(x, dim=-1, eps=1e-8)


def nearest(z_Nd: Tensor, codebook_Kd: Tensor) -> Tensor:
    """int64 [N]: the code with the largest inner product; ties go to the lowest index."""
    rows = _rows_at_once(codebook_Kd)
    return torch.cat([(chunk @ codebook_Kd.T).argmax(-1) for chunk in z_Nd.split(rows)])


def _rows_at_once(codebook_Kd: Tensor) -> int:
    """How many vectors may be compared with all codes in one product."""
    on_cpu = codebook_Kd.device.type == "cpu"
    return max(1, (LOOKUP_ELEMENTS if on_cpu else ACCELERATOR_LOOKUP_ELEMENTS) // len(codebook_Kd))
