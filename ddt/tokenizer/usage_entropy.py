"""The usage term of the loss: Selftok's, not in the paper.

Shapes: B batch, T tokens, d code dimensions, K codes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ddt.tokenizer.codebook_metrics import perplexity

MAX_ROWS = 4096  # their similarities carry gradients, so they are held whole
SHARPNESS = 10.0  # softmax(10 · cosine), as Selftok


def usage_entropy_loss(z_BTd: Tensor, codebook_Kd: Tensor, hits_K: Tensor, floor: float) -> Tensor:
    """log K − entropy of the mean soft assignment, while codes are used less than the floor.

    `floor` is a perplexity of `hits_K` as a share of K; above it the term is zero.
    """
    share_K = hits_K / hits_K.sum()
    if perplexity(share_K) >= floor * len(share_K):
        return z_BTd.new_zeros(())
    z_Nd = z_BTd.flatten(0, 1)
    z_Nd = z_Nd[:: -(-len(z_Nd) // MAX_ROWS)]
    mean_K = (SHARPNESS * z_Nd @ codebook_Kd.T).softmax(-1).mean(0)
    return torch.log(z_BTd.new_tensor(len(share_K))) + (mean_K * (mean_K + 1e-10).log()).sum()
