"""Muon with AdamW: which parameters it takes, equality with the two run apart, skipped steps, resume."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from ddt.train.checkpoint import Checkpoints
from ddt.train.fit import NonFiniteLoss, fit
from ddt.train.muon import Muon
from ddt.train.optimizer import Combined, build_optimizer, is_hidden_matrix
from ddt.train.state import load_optimizer, optimizer_tensors
from tests.float64 import float64
from tests.train.test_fit import CONFIG

MUON = dataclasses.replace(CONFIG, optimizer="muon")
HIDDEN = {"blocks.0.weight", "blocks.1.weight"}


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.head = nn.Linear(8, 6)

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        x_BD = self.embed(x_BD)
        for block in self.blocks:
            x_BD = x_BD + torch.tanh(block(x_BD))
        return self.head(x_BD)


class Data:
    def __init__(self, broken: int | None = None) -> None:
        self.broken = broken

    def batch(self, step: int, rank: int = 0, world: int = 1) -> torch.Tensor:
        x_BD = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        return x_BD * float("nan") if step == self.broken else x_BD


def loss_fn(model, x_BD, step, generator):
    return (model(x_BD) - 0.5 * x_BD).square().mean(), {}


def test_muon_takes_the_matrices_of_blocks_only() -> None:
    model = Stack()
    assert {n for n, p in model.named_parameters() if is_hidden_matrix(n, p)} == HIDDEN
    assert not is_hidden_matrix("blocks.0.image.modulation.weight", torch.zeros(6, 2))
    assert is_hidden_matrix("model.layers.3.mlp.up_proj.weight", torch.zeros(6, 2))


@float64()
def test_it_equals_the_two_optimizers_run_apart() -> None:
    together, apart = Stack(), Stack()
    combined = build_optimizer(together, MUON)
    assert isinstance(combined, Combined)
    named = dict(apart.named_parameters())
    rest = {n: p for n, p in named.items() if n not in HIDDEN}
    muon = Muon([named[n] for n in sorted(HIDDEN)], lr=1e-2, weight_decay=0.05)
    groups = [
        {"params": [p for p in rest.values() if p.dim() > 1], "weight_decay": 0.05},
        {"params": [p for p in rest.values() if p.dim() == 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-6)
    for step in range(3):
        for model, optimizers in ((together, [combined]), (apart, [muon, adamw])):
            loss_fn(model, Data().batch(step), step, None)[0].backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    for (name, mine), other in zip(together.named_parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-9, msg=name)


def test_a_step_that_is_not_finite_moves_nothing() -> None:
    model = Stack()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(NonFiniteLoss):
        fit(model, loss_fn, Data(broken=0), MUON, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_resume_is_the_uninterrupted_run(tmp_path) -> None:
    whole = Stack()
    fit(whole, loss_fn, Data(), MUON, progress=False)
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(NonFiniteLoss):
        fit(Stack(), loss_fn, Data(broken=5), MUON, checkpoints, progress=False)
    resumed = Stack()
    result = fit(resumed, loss_fn, Data(), MUON, checkpoints, progress=False)
    assert result.resumed_from == 4
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_its_state_goes_through_a_checkpoint() -> None:
    model = Stack()
    optimizer = build_optimizer(model, MUON)
    loss_fn(model, Data().batch(0), 0, None)[0].backward()
    optimizer.step()
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(model, optimizer).items()}
    assert "blocks.0.weight:momentum_buffer" in saved and "head.weight:exp_avg" in saved
    other = build_optimizer(model, MUON)
    load_optimizer(model, other, saved)
    found = optimizer_tensors(model, other)
    assert saved.keys() == found.keys() and all(torch.equal(saved[n], found[n]) for n in saved)
