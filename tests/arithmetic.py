"""Other machines' arithmetic on this one: a plugin for pytest that `bench/arithmetic.py` loads.

Processors differ in the order of sums and in the last bits of exp and the like. With
`DDT_TEST_ROUNDING=<seed>:<units>` each such result is moved by up to so many units in the last place, as a
function of the value and the seed, so that equal computations stay equal. `DDT_TEST_BF16=1` has the code
compute in bfloat16 as where that is native, `0` as where it is only emulated. Passed comparisons of numbers
are written to the file `DDT_TEST_COMPARED`, where pytest has the option `enable_assertion_pass_hook`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ddt.data import captioner
from ddt.train import muon, precision

# What no two kernels round alike. Sums, products and quotients of two numbers are the same on all machines.
ROUNDED = {
    "mm", "addmm", "bmm", "baddbmm", "dot", "mv", "convolution", "convolution_backward",
    "sum", "mean", "var", "std", "var_mean", "linalg_vector_norm", "norm", "cumsum",
    "index_add_", "scatter_add_", "native_layer_norm", "native_layer_norm_backward",
    "native_group_norm", "native_group_norm_backward",
    "_softmax", "_log_softmax", "_softmax_backward_data", "_log_softmax_backward_data", "logsumexp",
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward",
    "exp", "log", "tanh", "sigmoid", "silu", "gelu", "silu_backward", "gelu_backward", "tanh_backward",
    "sin", "cos", "rsqrt", "pow", "erf", "lerp", "lerp_", "addcmul", "addcmul_", "addcdiv", "addcdiv_",
    "_foreach_lerp", "_foreach_lerp_", "normal_", "randn",
}  # fmt: skip
BITS = {torch.float32: (torch.int32, 2.0**-23), torch.float64: (torch.int64, 2.0**-52)}


class Rounding(TorchDispatchMode):
    """Moves results by some units in the last place."""

    def __init__(self, seed: int, units: int) -> None:
        super().__init__()
        self.seed, self.units = seed, units

    def __torch_dispatch__(self, function, types, args=(), kwargs=None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in ROUNDED:
            for tensor in tree_leaves(result):
                if isinstance(tensor, Tensor) and tensor.dtype in BITS and tensor.device.type == "cpu":
                    self._move(tensor)
        return result

    def _move(self, tensor: Tensor) -> None:
        integer, unit = BITS[tensor.dtype]
        bits = tensor.contiguous().view(integer)
        mixed = (bits ^ (bits >> 7)) * 1_540_483_477 + self.seed * 97
        steps = (mixed >> 11) % (2 * self.units + 1) - self.units
        # Whole and half numbers and the like are exact on every machine.
        exact = (tensor * 256).frac() == 0
        tensor.mul_(1 + unit * steps.to(tensor.dtype).masked_fill_(exact, 0))


def install() -> None:
    """Sets what the environment asks for, until this process ends."""
    native = os.environ.get("DDT_TEST_BF16")
    if native is not None:
        for module in (precision, muon, captioner):
            module.has_bf16 = lambda device: native == "1"  # type: ignore[attr-defined]
    rounding = os.environ.get("DDT_TEST_ROUNDING")
    if rounding is not None:
        Rounding(*map(int, rounding.split(":"))).__enter__()


def pytest_sessionstart(session: Any) -> None:
    install()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """torch.compile does not work where operations are intercepted."""
    if "DDT_TEST_ROUNDING" in os.environ:
        for item in items:
            if item.path.name == "test_compiled.py":
                item.add_marker(pytest.mark.skip(reason="torch.compile goes past the rounding"))


def pytest_assertion_pass(item: Any, lineno: int, orig: str, expl: str) -> None:
    path = os.environ.get("DDT_TEST_COMPARED")
    if path is not None and re.search(r"[<>]", orig) and re.search(r"\d\.\d|e-\d", expl):
        with Path(path).open("a") as file:
            file.write(f"{item.nodeid}\t{lineno}\t{orig}\t{' '.join(expl.split())}\n")
