"""Threads or processes for a training on these cores: python bench/threads.py [--beside 2] [--json FILE].

Steps of the default's language model by the clock, in one thread; in one a core, which wait for each other
awake for as long as libgomp has it, or go to sleep soon (as workers are told) or at once; and in a process a
core of one thread each (as the default's two workers); alone and beside busy processes of other work. Prints
milliseconds a step and the ratio to one thread.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from measure import arguments, report
from mllm import VOCABULARY, Batches, documents

from ddt.mllm.build import new_model
from ddt.mllm.loss import LanguageModelLoss
from ddt.params import load_params
from ddt.train.fit import fit
from pipelines.engine.cluster import ENVIRONMENT

WARM_STEPS = 5
CORES = len(os.sched_getaffinity(0))
SOON = {"GOMP_SPINCOUNT": ENVIRONMENT["GOMP_SPINCOUNT"]}
WAYS: dict[str, tuple[int, int, dict[str, str]]] = {  # processes, threads of each, what the environment says
    "one thread": (1, 1, {}),
    f"{CORES} threads, libgomp's choice": (1, CORES, {}),
    f"{CORES} threads, asleep soon": (1, CORES, SOON),
    f"{CORES} threads, asleep at once": (1, CORES, {"OMP_WAIT_POLICY": "PASSIVE"}),
    f"{CORES} processes of one thread": (CORES, 1, SOON),
}


def train(threads: int, steps: int) -> None:
    """Prints the seconds of a step after the first few; as one of a group where torchrun started several."""
    torch.set_num_threads(threads)
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
    settings = {"steps": WARM_STEPS + steps, "warmup_steps": 1, "log_every": 1, "checkpoint_every": 10**9}
    params = load_params(
        overrides=[f"pretrain.fit.{key}={value}" for key, value in settings.items()]
    ).pretrain
    assert params.model is not None
    times: list[float] = []
    model, loss = new_model(params.model, VOCABULARY, seed=0), LanguageModelLoss(VOCABULARY)
    hooks = [lambda *_: times.append(time.perf_counter())]
    fit(model, loss, Batches(documents(32, 32), 128), params.fit, hooks=hooks, progress=False)
    if times:  # hooks are called on rank 0
        print(json.dumps((times[-1] - times[WARM_STEPS - 1]) / steps))


def busy() -> None:
    """Work of one core that never waits."""
    while True:
        sum(range(10_000))


@contextmanager
def beside(count: int) -> Iterator[None]:
    """`count` busy processes inside the block."""
    processes = [multiprocessing.Process(target=busy, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()


def measured(way: str, steps: int) -> float:
    """Seconds of a step in processes of its own: libgomp reads the environment when it is loaded."""
    processes, threads, variables = WAYS[way]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    group = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    script = [str(Path(__file__)), "--train", str(threads), "--steps", str(steps)]
    command = [sys.executable, *(group if processes > 1 else []), *script]
    told = subprocess.run(command, env=inherited | variables, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(told.stdout.splitlines()[-1]))


def main() -> None:
    parser = arguments(__doc__, with_torch=False)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--beside", type=int, default=CORES, help="busy processes (default: one a core)")
    parser.add_argument("--train", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train is not None:
        train(options.train, options.steps)
        return
    found: dict[str, dict[str, float]] = {}
    for others in dict.fromkeys((0, options.beside)):
        with beside(others):
            times = {way: measured(way, options.steps) for way in WAYS}
        found[str(others)] = times
        for way, took in times.items():
            print(f"beside {others}: {way:28} {1e3 * took:8.1f} ms, {took / times['one thread']:.2f} x")
    report(options, found)


if __name__ == "__main__":
    main()
