"""The training loop on a small regression: learning, resume, rewind, stopping, against plain PyTorch."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from ddt.train.checkpoint import Checkpoints
from ddt.train.config import FitConfig
from ddt.train.fit import LossSpikes, NonFiniteLoss, Stopped, fit
from ddt.train.schedule import learning_rate
from ddt.train.state import model_tensors
from tests.float64 import float64

CONFIG = FitConfig(
    steps=8,
    global_batch=8,
    micro_batch=None,
    optimizer="adamw",
    lr=1e-2,
    min_lr_ratio=0.1,
    warmup_steps=2,
    weight_decay=0.05,
    betas=(0.9, 0.95),
    eps=1e-6,
    clip=1.0,
    ema_decay=None,
    bf16=False,
    checkpoint_every=4,
    keep_checkpoints=2,
    log_every=4,
    spike_factor=None,
    spike_window=4,
    rewind_steps=0,
    seed=3,
)


class Net(nn.Module):
    """A small net with dropout, a tied weight and a buffer that the loss moves, like a codebook."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer = nn.Linear(6, 6), nn.Linear(6, 6)
        self.outer.weight = self.inner.weight
        self.dropout = nn.Dropout(0.1)
        self.register_buffer("average", torch.zeros(6))

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        return self.outer(self.dropout(torch.tanh(self.inner(x_BD))))


class Data:
    """y = x * 0.5, drawn by step; `poison` shifts the targets of some batches far off."""

    def __init__(self, poison: dict[int, float] | None = None, size: int = 8) -> None:
        self.poison, self.size = poison or {}, size
        self.asked: list[int] = []

    def batch(self, step: int, rank: int = 0, world: int = 1) -> dict[str, torch.Tensor]:
        self.asked.append(step)
        x_BD = torch.randn(self.size, 6, generator=torch.Generator().manual_seed(step))
        y_BD = x_BD * 0.5 + self.poison.get(step, 0.0)
        return {"x": x_BD[rank::world], "y": y_BD[rank::world]}


def loss_fn(model, batch, step, generator):
    """Noisy regression; moves the buffer of `model`."""
    noise = 0.01 * torch.randn(batch["x"].shape, generator=generator)
    loss = nn.functional.mse_loss(model(batch["x"] + noise), batch["y"])
    with torch.no_grad():
        model.average.lerp_(batch["x"].mean(0), 0.1)
    return loss, {"half": loss.detach() / 2, "other/one": 1.0}


def plain_loss(model, batch, step, generator):
    """Without noise: what plain PyTorch computes too."""
    return nn.functional.mse_loss(model(batch["x"]), batch["y"]), {}


def run(config: FitConfig, **arguments):
    model = Net()
    result = fit(model, loss_fn, arguments.pop("data", Data()), config, progress=False, **arguments)
    return model, result


def assert_same(first: nn.Module, second: nn.Module) -> None:
    ours, theirs = model_tensors(first), model_tensors(second)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def test_loss_falls_and_hooks_get_averages():
    seen: list[tuple[int, dict[str, float]]] = []
    _, result = run(dataclasses.replace(CONFIG, steps=40), hooks=[lambda s, m: seen.append((s, m))])
    assert [step for step, _ in seen] == list(range(4, 41, 4))
    assert seen[-1][1]["train/loss"] < 0.5 * seen[0][1]["train/loss"]
    assert seen[-1][1]["train/half"] == pytest.approx(seen[-1][1]["train/loss"] / 2)
    assert seen[-1][1]["other/one"] == 1.0
    assert result.consumed_samples == 40 * 8 and result.metrics == seen[-1][1]


@float64()
def test_equals_plain_adamw():
    config = dataclasses.replace(CONFIG, steps=10)
    model, reference = Net(), Net()
    model.dropout.p = reference.dropout.p = 0.0
    fit(model, plain_loss, Data(), config, progress=False)
    decay = [p for p in reference.parameters() if p.dim() == 2]
    rest = [p for p in reference.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}],
        lr=0.0, betas=(0.9, 0.95), eps=1e-6, foreach=False, fused=False,
    )  # fmt: skip
    for step in range(10):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        batch = Data().batch(step)
        optimizer.zero_grad()
        plain_loss(reference, batch, step, None)[0].backward()
        nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        optimizer.step()
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_a_loss_finishes_each_step_once_after_its_micro_batches():
    class Told:
        calls: ClassVar[list] = []

        def __call__(self, model, batch, step, generator):
            self.calls.append((step, len(batch["x"])))
            return plain_loss(model, batch, step, generator)

        def finish_step(self, model, step):
            self.calls.append((step, "finished"))
            return {"codes/usage": torch.tensor(float(step))}

    logged = []
    config = dataclasses.replace(CONFIG, steps=2, micro_batch=5, log_every=2)
    fit(Net(), Told(), Data(), config, hooks=[lambda _, metrics: logged.append(metrics)], progress=False)
    assert Told.calls == [(0, 5), (0, 3), (0, "finished"), (1, 5), (1, 3), (1, "finished")]
    assert logged[0]["codes/usage"] == 0.5


@pytest.mark.parametrize("micro_batch", [1, 3, 4])
@float64()
def test_accumulated_gradients_equal_one_batch(micro_batch):
    models = []
    for micro in (None, micro_batch):
        model = Net()
        model.dropout.p = 0.0
        fit(model, plain_loss, Data(), dataclasses.replace(CONFIG, micro_batch=micro), progress=False)
        models.append(model)
    for ours, theirs in zip(*(m.parameters() for m in models), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_learning_rate_warms_up_and_decays():
    config = dataclasses.replace(CONFIG, steps=12, warmup_steps=4, lr=1.0)
    rates = [learning_rate(step, config) for step in range(13)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0 and rates[8] == pytest.approx(0.55) and rates[12] == pytest.approx(0.1)


RESUMED = dataclasses.replace(CONFIG, steps=12, ema_decay=0.9, spike_factor=50.0, checkpoint_every=6)


def _child(folder: str, steps: str) -> None:
    """Trains to `steps` only, as a run that is killed there would have (same schedule)."""

    def stop(step: int, metrics: dict[str, float]) -> None:
        if step == int(steps):
            os._exit(9)  # no clean-up, as after kill -9

    run(RESUMED, checkpoints=Checkpoints(folder), hooks=[stop])


def test_resume_in_a_new_process_is_bit_equal(tmp_path):
    code = f"from tests.train.test_fit import _child; _child({str(tmp_path)!r}, '8')"
    child = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    assert child.returncode == 9
    assert Checkpoints(tmp_path).latest().step == 6
    straight_model, straight = run(RESUMED)
    resumed_model, resumed = run(RESUMED, checkpoints=Checkpoints(tmp_path))
    assert resumed.resumed_from == 6
    assert_same(straight_model, resumed_model)
    for name, weight in straight.ema.weights.items():
        assert torch.equal(weight, resumed.ema.weights[name])
    assert resumed.metrics["train/loss"] == straight.metrics["train/loss"]


class Told:
    """Says to stop when it is asked for the `call`th time."""

    def __init__(self, call: int) -> None:
        self.left = call

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def logged(checkpoints: Checkpoints | None, call: int) -> tuple[Net, list[dict[str, float]]]:
    """A run of RESUMED told to stop at its `call`th step (0: never), and its curves but for speeds."""
    lines: list[dict[str, float]] = []
    hooks = [lambda step, metrics: lines.append({"step": step, **metrics})]
    try:
        model, _ = run(RESUMED, checkpoints=checkpoints, hooks=hooks, stop=Told(call))
    except Stopped as stopped:
        assert stopped.step == checkpoints.latest().step == call
        model = Net()
    timed = ("train/samples_per_s", "train/data_share")
    return model, [{name: line[name] for name in line.keys() - timed} for line in lines]


@pytest.mark.parametrize("call", [1, 7, 8, 12])  # within an interval of the log; where it ends; at the end
def test_what_is_told_to_stop_loses_no_step_and_no_curve(tmp_path, call):
    straight_model, straight = logged(None, 0)
    _, before = logged(Checkpoints(tmp_path), call)
    resumed_model, after = logged(Checkpoints(tmp_path), 0)
    assert_same(straight_model, resumed_model)
    assert [*before, *after] == straight


def test_on_an_accelerator_it_stops_where_the_losses_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("ddt.train.fit._Run._read_every", lambda self: 3)
    with pytest.raises(Stopped, match="stopped after step 3"):
        run(CONFIG, checkpoints=Checkpoints(tmp_path), stop=Told(1))
    assert Checkpoints(tmp_path).latest().step == 3


def test_without_checkpoints_it_stops_too():
    with pytest.raises(Stopped):
        run(CONFIG, stop=Told(2))


def test_a_finished_run_does_nothing(tmp_path):
    first, _ = run(CONFIG, checkpoints=Checkpoints(tmp_path))
    data = Data()
    again, result = run(CONFIG, checkpoints=Checkpoints(tmp_path), data=data)
    assert data.asked == [] and result.resumed_from == 8
    assert "train/loss" in result.metrics
    assert_same(first, again)


def test_ema_follows_the_weights():
    """After n steps it has the decay 1/10, 2/11, ... of a young average, then that of the settings."""
    model, ends, config = Net(), [], dataclasses.replace(CONFIG, ema_decay=0.3, log_every=1)
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    hooks = [lambda *_: ends.append({name: p.detach().clone() for name, p in model.named_parameters()})]
    result = fit(model, loss_fn, Data(), config, hooks=hooks, progress=False)
    for decay, weights in zip((0.1, 2 / 11, 0.25, *[0.3] * 5), ends, strict=True):
        expected = {name: decay * old + (1 - decay) * weights[name] for name, old in expected.items()}
    for name, weight in result.ema.weights.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-7)
    assert not torch.equal(result.ema.weights["inner.weight"], model.inner.weight)
    result.ema.copy_to(model)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, result.ema.weights[name])


def assert_is(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """The model's weights and buffers are these."""
    assert "average" in tensors  # which the loss itself moves
    for name, tensor in model_tensors(model).items():
        assert torch.equal(tensor, tensors[name]), name


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_loss_stops_before_anything_moves(bad):
    good, _ = run(dataclasses.replace(CONFIG, steps=8))
    model = Net()
    states = []

    def remember(model, batch, step, generator):
        states.append({name: tensor.clone() for name, tensor in model_tensors(model).items()})
        return loss_fn(model, batch, step, generator)

    with pytest.raises(NonFiniteLoss, match=r"step 5: loss is (nan|inf).*samples 40 to 47"):
        fit(model, remember, Data({5: bad}), CONFIG, progress=False)
    assert_is(model, states[5])
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_delayed_reading_still_freezes_the_model(monkeypatch):
    """On an accelerator losses are read every few steps; those after the bad one must move nothing."""
    monkeypatch.setattr("ddt.train.fit._Run._read_every", lambda self: 100)
    model = Net()
    states = []

    def remember(model, batch, step, generator):
        states.append({name: tensor.clone() for name, tensor in model_tensors(model).items()})
        return loss_fn(model, batch, step, generator)

    with pytest.raises(NonFiniteLoss, match="step 5"):
        fit(model, remember, Data({5: math.nan}), CONFIG, progress=False)
    assert len(states) == 8
    assert_is(model, states[5])


SPIKES = dataclasses.replace(
    CONFIG, steps=30, spike_factor=5.0, rewind_steps=6, checkpoint_every=4, keep_checkpoints=1, lr=1e-3
)


def test_spike_rewinds_and_skips_its_batches(tmp_path):
    data = Data({17: 40.0})
    model, result = run(SPIKES, checkpoints=Checkpoints(tmp_path), data=data)
    (event,) = result.events
    assert event["onset"] == 17 and event["skipped"] == [16, 17]
    assert event["to"] == 8  # the newest checkpoint at least 6 steps before 17 that is a multiple of 4
    assert data.asked == [*range(18), *range(8, 16), *range(18, 32)]
    assert result.steps == 30 and result.consumed_samples == 32 * 8
    assert result.metrics["train/loss"] < 5

    clean = fit_plain(Without(2))
    spiky = fit_plain(Data({17: 40.0}), Checkpoints(tmp_path / "plain"))
    assert_same(clean, spiky)


class Without(Data):
    """What a run is given that never sees so many batches from 16 on."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def batch(self, step, rank=0, world=1):
        return super().batch(step + self.count * (step >= 16), rank, world)


def test_a_rewind_forgets_a_step_after_the_spike_that_was_not_finite(tmp_path, monkeypatch):
    """On an accelerator they are read together: what then froze the weights must not freeze them for good."""
    clean = fit_plain(Without(4))
    monkeypatch.setattr("ddt.train.fit._Run._read_every", lambda self: 100)
    assert_same(clean, fit_plain(Data({17: 40.0, 18: math.nan}), Checkpoints(tmp_path)))


def fit_plain(data, checkpoints=None):
    model = Net()
    model.dropout.p = 0.0
    fit(model, plain_loss, data, SPIKES, checkpoints, progress=False)
    return model


def test_spike_before_any_checkpoint_goes_back_to_the_start(tmp_path):
    _, result = run(SPIKES, checkpoints=Checkpoints(tmp_path), data=Data({5: 40.0}))
    assert result.events[0]["to"] == 0 and result.events[0]["skipped"] == [4, 5]


def test_endless_spikes_stop(tmp_path, monkeypatch):
    monkeypatch.setattr("ddt.train.fit.MAX_REWINDS", 2)
    poison = {step: 40.0 for step in range(17, 60)}
    with pytest.raises(LossSpikes, match="after 2 rewinds"):
        run(SPIKES, checkpoints=Checkpoints(tmp_path), data=Data(poison))


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="warmup_steps = 9"):
        dataclasses.replace(CONFIG, warmup_steps=9)
    with pytest.raises(ValueError, match="micro_batch = 9"):
        dataclasses.replace(CONFIG, micro_batch=9)
    with pytest.raises(ValueError, match="betas"):
        dataclasses.replace(CONFIG, betas=(0.9, 1.0))


def test_checkpoint_of_another_model_is_refused(tmp_path):
    run(CONFIG, checkpoints=Checkpoints(tmp_path))
    with pytest.raises(ValueError, match="another model configuration"):
        fit(nn.Linear(6, 6), plain_loss, Data(), CONFIG, Checkpoints(tmp_path), progress=False)
