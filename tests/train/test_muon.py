"""Muon over batches of matrices against its closed form and against torch's; and shared among processes.

In bfloat16, as where that is native, and in float32, as where it is only emulated, whatever machine this is.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from ddt.train.muon import Muon, newton_schulz, orthogonalized
from tests.processes import run_processes

SHAPES = [(8, 8), (16, 8), (8, 16), (8, 8), (5, 7), (8, 8)]  # lying, standing, alone in its shape
SETTINGS = {"ns_coefficients": (3.4445, -4.775, 2.0315), "ns_steps": 5, "eps": 1e-7}


@pytest.fixture(params=[True, False], ids=["bfloat16", "float32"])
def native(request, monkeypatch) -> bool:
    """Whether bfloat16 is native."""
    monkeypatch.setattr("ddt.train.muon.has_bf16", lambda device: request.param)
    return request.param


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


def closed_form(matrix: torch.Tensor) -> torch.Tensor:
    """The iteration is a polynomial of the singular values: here it is taken of them, in float64."""
    a, b, c = SETTINGS["ns_coefficients"]
    left, values, right = torch.linalg.svd(matrix.double() / matrix.double().norm(), full_matrices=False)
    for _ in range(SETTINGS["ns_steps"]):
        values = a * values + b * values**3 + c * values**5
    return left * values @ right


def test_directions_are_the_closed_form(native) -> None:
    # bfloat16 has 8 bits, and each of five iterations more than triples a small value and its error: 0.05 is
    # the worst of 120 matrices; in float32 3e-6.
    tolerance = 0.1 if native else 1e-4
    for found, matrix in zip(orthogonalized(matrices(), SETTINGS), matrices(), strict=True):
        assert found.dtype == (torch.bfloat16 if native else torch.float32)
        torch.testing.assert_close(found.double(), closed_form(matrix), rtol=0, atol=tolerance)


def test_it_moves_matrices_as_torchs_does(native, monkeypatch) -> None:
    if not native:
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)  # how torch's chooses its precision
    # In bfloat16 equal where it is emulated; natively, sums in another order may round each entry otherwise.
    share = 0.02 if native else 1e-4
    for ours, theirs, start in zip(moved(Muon), moved(torchs), matrices(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=share * (theirs - start).abs().max().item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_singular_values_end_near_one(dtype) -> None:
    x_BMN = torch.stack([matrix for matrix in matrices() if matrix.shape == (8, 8)])
    values = torch.linalg.svdvals(newton_schulz(x_BMN.to(dtype), SETTINGS).float())
    assert values.min() > 0.3 and values.max() < 1.3


def test_a_matrix_of_zeros_stays_zero(native) -> None:
    found = orthogonalized([torch.zeros(3, 4), torch.eye(3, 4)], SETTINGS)
    assert torch.equal(found[0].float(), torch.zeros(3, 4))


def test_a_closure_is_refused() -> None:
    with pytest.raises(ValueError, match="closure"):
        Muon([nn.Parameter(torch.eye(2))], 0.1, 0.0).step(lambda: 0.0)


def shared() -> list[list[torch.Tensor]]:
    """Directions in bfloat16 and in float32."""
    with pytest.MonkeyPatch.context() as patch:
        found = []
        for native in (True, False):
            patch.setattr("ddt.train.muon.has_bf16", lambda device, native=native: native)
            found.append([direction.float() for direction in orthogonalized(matrices(), SETTINGS)])
    return found


def test_processes_share_the_work() -> None:
    alone = shared()
    for found in run_processes(shared, 2):
        for tolerance, ours, theirs in zip((0.1, 1e-4), found, alone, strict=True):
            for mine, other in zip(ours, theirs, strict=True):
                torch.testing.assert_close(mine, other, rtol=0, atol=tolerance)
