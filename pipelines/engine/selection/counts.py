"""What `select` counts of a group's rows, where they are: digits of their keys, and what became of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ddt.data.parts import read_parts
from ddt.data.topk import TopK, digit_counts
from ddt.data.verdicts import KEPT, ROW, Tally, decide
from ddt.store import open_store


def count_digits(unit: dict[str, Any], store: str, prefix: list[int], seed: int) -> np.ndarray:
    """`digit_counts` of the rows that nothing dropped."""
    rows = _rows(unit, store)
    rows = rows[rows["verdict"] == KEPT]
    return digit_counts(prefix, seed, np.ascontiguousarray(rows["id"]), rows["score"])


def count_verdicts(unit: dict[str, Any], store: str, selection: TopK) -> np.ndarray:
    """The tally of all rows, as an array."""
    return Tally.of(decide(_rows(unit, store), selection)).to_array()


def _rows(unit: dict[str, Any], store: str) -> np.ndarray:
    with open_store(store).open(unit["survivors"]) as file:
        return read_parts(file, 0, unit["parts"], ROW)
