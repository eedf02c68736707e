"""Two gloo processes train to the weights that one process reaches; one then continues from theirs.

One that is told to stop stops both at the same step, and what they leave is no different.

Three can't share a batch of eight samples that are not padded, and say so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from ddt.train.checkpoint import Checkpoints
from ddt.train.distributed import rank_and_world
from ddt.train.fit import Stopped, fit
from ddt.train.state import model_tensors
from tests.float64 import float64
from tests.processes import run_processes
from tests.train.test_fit import CONFIG, Data, Net, Told, plain_loss

STEPS = dataclasses.replace(CONFIG, micro_batch=2, checkpoint_every=4)


@float64()
def train(folder: str, steps: int, stop: Callable[[], bool] = lambda: False) -> Net:
    model = Net()
    model.dropout.p = 0.0
    fit(
        model,
        plain_loss,
        Data(),
        dataclasses.replace(STEPS, steps=steps),
        Checkpoints(folder),
        progress=False,
        stop=stop,
    )
    return model


def trained(folder: str) -> dict[str, torch.Tensor]:
    return model_tensors(train(folder, 8))


def test_two_processes_equal_one(tmp_path):
    first, second = run_processes(trained, 2, str(tmp_path / "two"))
    one, loaded = trained(str(tmp_path / "one")), trained(str(tmp_path / "two"))  # loaded at step 8: no step
    for name, weight in one.items():
        for other in (first, second, loaded):
            torch.testing.assert_close(other[name], weight, rtol=0, atol=1e-12, msg=name)


def told_one(folder: str) -> torch.Tensor:
    """The step that this process stopped at, where the second one is told at its third step."""
    told = Told(3 if rank_and_world()[0] == 1 else 0)
    try:
        train(folder, 8, told)
    except Stopped as stopped:
        return torch.tensor(stopped.step)
    return torch.tensor(0)


def test_all_stop_at_the_step_at_which_one_is_told(tmp_path):
    assert run_processes(told_one, 2, str(tmp_path / "told")) == [3, 3]
    straight, resumed = (run_processes(trained, 2, str(tmp_path / name))[0] for name in ("straight", "told"))
    for name, weight in straight.items():
        assert torch.equal(resumed[name], weight), name


def refusal(folder: str) -> str:
    try:
        train(folder, 8)
    except ValueError as error:
        return str(error)
    return ""


def test_unequal_slices_are_refused(tmp_path):
    said = "global_batch = 8: 3 processes get slices of 2 to 3 rows; expected equal ones"
    assert run_processes(refusal, 3, str(tmp_path)) == [said] * 3
