"""Two gloo processes train to the weights that one process reaches; one then continues from theirs.

Three can't share a batch of eight samples that are not padded, and say so.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from ddt.train.checkpoint import Checkpoints
from ddt.train.fit import fit
from tests.processes import run_processes
from tests.train.test_fit import CONFIG, Data, Net, plain_loss

STEPS = dataclasses.replace(CONFIG, micro_batch=2, checkpoint_every=4)


def train(folder: str, steps: int) -> Net:
    model = Net()
    model.dropout.p = 0.0
    fit(
        model,
        plain_loss,
        Data(),
        dataclasses.replace(STEPS, steps=steps),
        Checkpoints(folder),
        progress=False,
    )
    return model


def _worker(folder: str) -> None:
    dist.init_process_group("gloo")
    train(folder, 8)
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = f"from tests.train.test_fit_distributed import _worker; _worker({str(tmp_path / 'two')!r})"
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    environment |= {"OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment | {"RANK": str(rank)}, cwd=Path(__file__).parents[2]
        )
        for rank in range(2)
    ]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    one, two = train(str(tmp_path / "one"), 8), train(str(tmp_path / "two"), 8)  # two: loads step 8, no step
    for ours, theirs in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def refusal(folder: str) -> str:
    try:
        train(folder, 8)
    except ValueError as error:
        return str(error)
    return ""


def test_unequal_slices_are_refused(tmp_path):
    said = "global_batch = 8: 3 processes get slices of 2 to 3 rows; expected equal ones"
    assert run_processes(refusal, 3, str(tmp_path)) == [said] * 3
