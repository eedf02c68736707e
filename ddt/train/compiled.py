"""The blocks of a transformer, compiled while it trains on CUDA.

What lies between its matrix products (norms, modulation, gates, GELU, casts) then takes fewer passes through
memory, and fewer kernels to start, than one for each operation. Blocks are compiled one by one, not the model
as a whole: those of one kind share a compilation, however deep the model is.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

logger = logging.getLogger(__name__)

COMPILE_FROM_STEPS = 2000  # a minute at first, won back if a step becomes 30 ms shorter


@contextmanager
def compiled_blocks(model: nn.Module, device: torch.device, steps: int) -> Iterator[int]:
    """Compiles the blocks of `model`, in place, for a training of so many steps; yields how many it compiled.

    None on a CPU, for a short training, and where there is nothing to compile with. Afterwards they run as
    written: an evaluation has other batches, in another precision, each of which would be compiled anew.
    """
    wanted = device.type == "cuda" and steps >= COMPILE_FROM_STEPS
    possible = wanted and can_compile()
    if wanted and not possible:
        logger.warning("training is not compiled: Triton, a C compiler or Python's headers are missing")
    blocks = repeated_blocks(model) if possible else []
    for block in blocks:
        block.compile(dynamic=False)  # in place: no name of a parameter changes
    try:
        yield len(blocks)
    finally:
        for block in blocks:
            block._compiled_call_impl = None  # torch has no public way back


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The members of its lists of modules."""
    return [block for part in model.modules() if isinstance(part, nn.ModuleList) for block in part]


def can_compile() -> bool:
    """Whether Triton is there, and what it needs to build the C code that starts its kernels."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return compiler is not None and headers.is_file() and importlib.util.find_spec("triton") is not None
