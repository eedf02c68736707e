"""Muon over batches of matrices against torch's, one after the other; and shared among processes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from ddt.train.muon import Muon, newton_schulz, orthogonalized
from tests.processes import run_processes

SHAPES = [(8, 8), (16, 8), (8, 16), (8, 8), (5, 7), (8, 8)]  # lying, standing, alone in its shape
SETTINGS = {"ns_coefficients": (3.4445, -4.775, 2.0315), "ns_steps": 5, "eps": 1e-7}


def matrices(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def torchs(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.Muon(parameters, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")


def moved(new_optimizer: Callable[..., torch.optim.Optimizer], steps: int = 4) -> list[torch.Tensor]:
    parameters = [nn.Parameter(matrix) for matrix in matrices()]
    optimizer = new_optimizer(parameters, lr=0.02, weight_decay=0.1)
    for step in range(steps):
        for index, (parameter, gradient) in enumerate(zip(parameters, matrices(step + 1), strict=True)):
            parameter.grad = None if index == step else gradient  # a matrix without a gradient stays
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def test_it_moves_matrices_as_torchs_does() -> None:
    for ours, theirs, start in zip(moved(Muon), moved(torchs), matrices(), strict=True):
        # bfloat16 has 8 bits: sums in another order differ by half a percent of a step
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0.01 * (theirs - start).abs().max().item())


def test_singular_values_end_near_one() -> None:
    x_BMN = torch.stack([matrix for matrix in matrices() if matrix.shape == (8, 8)])
    values = torch.linalg.svdvals(newton_schulz(x_BMN, SETTINGS))
    assert values.min() > 0.3 and values.max() < 1.3


def test_a_matrix_of_zeros_stays_zero() -> None:
    found = orthogonalized([torch.zeros(3, 4), torch.eye(3, 4)], SETTINGS)
    assert torch.equal(found[0].float(), torch.zeros(3, 4))


def test_a_closure_is_refused() -> None:
    with pytest.raises(ValueError, match="closure"):
        Muon([nn.Parameter(torch.eye(2))], 0.1, 0.0).step(lambda: 0.0)


def shared() -> list[torch.Tensor]:
    return [direction.float() for direction in orthogonalized(matrices(), SETTINGS)]


def test_processes_share_the_work() -> None:
    alone = shared()
    for found in run_processes(shared, 2):
        for ours, theirs in zip(found, alone, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02)
