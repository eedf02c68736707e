"""K-means on the unit sphere, which places the first codes, and its two sums, whose averages move them later.

Shapes: d code dimensions, K codes, N vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ddt.tokenizer.lookup import nearest, unit

ITERATIONS = 10


def spherical_kmeans(z_Nd: Tensor, codebook_size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Unit centres [K, d] of unit vectors, their hits [K] and sums [K, d].

    Starts at K different rows (without replacement, so no two centres are born equal).
    """
    centres_Kd = random_rows(z_Nd, codebook_size, seed)
    for _ in range(ITERATIONS):
        codes_N = nearest(z_Nd, centres_Kd)
        hits_K, sums_Kd = count(codes_N, codebook_size), add_up(z_Nd, codes_N, codebook_size)
        centres_Kd = torch.where(hits_K[:, None] > 0, unit(sums_Kd), centres_Kd)
    return centres_Kd, hits_K, sums_Kd


def count(codes_N: Tensor, codebook_size: int) -> Tensor:
    """How many vectors each code got, float32 [K]. (bincount would wait for the device.)"""
    ones_N = torch.ones(codes_N.shape, device=codes_N.device)
    return ones_N.new_zeros(codebook_size).scatter_add_(0, codes_N, ones_N)


def add_up(z_Nd: Tensor, codes_N: Tensor, codebook_size: int) -> Tensor:
    """The sum of the vectors that each code got, [K, d]."""
    return z_Nd.new_zeros(codebook_size, z_Nd.shape[1]).index_add_(0, codes_N, z_Nd)


def random_rows(x_Nd: Tensor, count: int, seed: int) -> Tensor:
    """`count` different rows in random order, or all where there are fewer."""
    generator = torch.Generator(x_Nd.device).manual_seed(seed)
    return x_Nd[torch.randperm(len(x_Nd), generator=generator, device=x_Nd.device)[:count]]
