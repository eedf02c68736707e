"""How well codes are used: usage, perplexity, largest share. Shapes: B batch, T tokens, K codes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def codebook_metrics(codes_BT: Tensor, hits_K: Tensor) -> dict[str, Tensor]:
    """Usage, perplexity and largest share of one step's codes, and the perplexity of each position.

    `hits_K` is how often each code is among `codes_BT`.
    """
    share_K = hits_K / codes_BT.numel()
    position_T = position_perplexity(codes_BT)
    return {
        "codes/usage": (share_K > 0).float().mean(),
        "codes/perplexity": perplexity(share_K),
        "codes/largest_share": share_K.max(),
        "codes/min_position_perplexity": position_T.min(),
        **by_position("position_perplexity", position_T),
    }


def by_position(family: str, value_T: Tensor) -> dict[str, Tensor]:
    """A metric for each token: `<family>/0001` is V_1's."""
    return {f"{family}/{i:04}": value for i, value in enumerate(value_T.unbind(), start=1)}


def perplexity(share_K: Tensor) -> Tensor:
    """exp of the entropy of a distribution: the number of codes it is worth."""
    return torch.special.entr(share_K).sum().exp()


def position_perplexity(codes_BT: Tensor) -> Tensor:
    """Perplexity [T] of the codes at each position over a batch, without a T × K table.

    Sorted, equal codes are runs, of which a position has at most B: a size known without asking the device.
    """
    sorted_TB = codes_BT.T.contiguous().sort(dim=1).values
    starts_TB = F.pad(sorted_TB[:, 1:] != sorted_TB[:, :-1], (1, 0), value=True)
    ones_TB = torch.ones(sorted_TB.shape, device=codes_BT.device)
    runs_TB = torch.zeros_like(ones_TB).scatter_add_(1, starts_TB.cumsum(1) - 1, ones_TB)
    return torch.special.entr(runs_TB / len(codes_BT)).sum(1).exp()
