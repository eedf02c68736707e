"""What benchmarks share: the time and the peak memory of a function, and where the numbers go."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def arguments(description: str | None, with_torch: bool = True) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have; those of numpy's work have no device to choose."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    if with_torch:
        parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        parser.add_argument("--threads", type=int, default=1, help="of the CPU (default: 1)")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    return parser


def now() -> float:
    """Seconds: with one CPU thread the processor's, so that other work does not count; else the clock's."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def seconds(function: Callable[[], Any], runs: int = 2) -> float:
    """The fastest of `runs` runs after one to warm up."""
    function()
    times = []
    for _ in range(runs):
        began = now()
        function()
        times.append(now() - began)
    return min(times)


def peak_bytes(make: Callable[..., Callable[[], Any]], *args: Any, device: str) -> int:
    """Most memory that `make(*args)()` takes beyond what `make` left, in a process of its own.

    Of the allocator on CUDA, of the process elsewhere (Linux). `make` is a function of a module.
    """
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    worker = context.Process(target=_measure_peak, args=(make, args, device, queue))
    worker.start()
    found = queue.get()
    worker.join()
    return found


def _measure_peak(
    make: Callable[..., Callable[[], Any]], args: tuple[Any, ...], device: str, queue: Any
) -> None:
    function = make(*args)
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
        before = status_bytes("VmRSS")
        function()
        queue.put(status_bytes("VmHWM") - before)
    else:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        queue.put(torch.cuda.max_memory_allocated() - before)


def status_bytes(name: str) -> int:
    """Of this process, by its name in /proc: VmRSS (now) or VmHWM (the most so far)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if name in line)
    return int(line.split()[1]) * 1024


def report(options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Writes the numbers to `--json` if asked for, with the options they were measured at."""
    if options.json:
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        options.json.write_text(json.dumps({**settings, **results}, indent=2, default=str) + "\n")
