"""Runs a function in several gloo processes, forked from a server that has imported torch once."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

PRELOAD = ["torch", "transformers", "ddt.mllm.sharding", "ddt.train.fit"]
HANGS_AFTER_S = 900  # a processor that many others use takes minutes for what takes seconds


def run_processes(function: Callable[..., Any], world: int, *arguments: Any, exit_code: int = 0) -> list[Any]:
    """`function(*arguments)` in `world` processes of one group; what each returned, in the order of ranks.

    The function must be importable by name; what it returns is saved by torch. Processes that should end with
    another `exit_code` return nothing.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workers = [
            context.Process(target=_work, args=(function, rank, world, folder, arguments))
            for rank in range(world)
        ]
        for worker in workers:
            worker.start()
        ends = time.monotonic() + HANGS_AFTER_S
        for worker in workers:
            worker.join(max(0.0, ends - time.monotonic()))
        codes = [worker.exitcode for worker in workers]
        for worker in workers:
            worker.kill()
        assert codes == [exit_code] * world, f"exit codes {codes}"
        if exit_code:
            return []
        return [torch.load(folder / str(rank), weights_only=True) for rank in range(world)]


def _work(function: Callable[..., Any], rank: int, world: int, folder: Path, arguments: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder / 'rendezvous'}", rank=rank, world_size=world)
    torch.save(function(*arguments), folder / str(rank))
    dist.barrier()
    dist.destroy_process_group()
