"""Computing in float64, where a test compares two ways to one result.

In float32 processors differ in the last bits, and a training makes more of it: Adam divides by small
numbers, a vector between two codes goes to the other one. In float64 what is left is far below any change
that is meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float64() -> Iterator[None]:
    """Models, data and random numbers made inside are float64. Also a decorator."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
