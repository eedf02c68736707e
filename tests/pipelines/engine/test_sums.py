"""Sums over units: the same as in memory, however units are shared out; what fails is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipelines.engine.actors import UnitInputError
from pipelines.engine.cluster import connect
from pipelines.engine.sums import _sum, add_up
from tests.pipelines.ray_support import RESOURCES

UNITS = [{"unit": f"u{i}", "value": i} for i in range(23)]


def powers(unit: dict[str, Any], bad: str = "") -> np.ndarray:
    if unit["unit"] == bad:
        raise ValueError("it is\ntoo bad")
    return np.array([1, unit["value"], unit["value"] ** 2])


WANT = np.array([[1, i, i**2] for i in range(23)]).sum(0)


def test_a_share_is_added_up_or_names_the_unit_that_failed() -> None:
    total, error = _sum(powers, {}, UNITS)
    assert np.array_equal(total, WANT) and error is None
    total, error = _sum(powers, {"bad": "u7"}, UNITS)
    assert total is None and error is not None
    assert (error["unit"], error["reason"], error["mistake"]) == ("unit u7", "it is too bad", True)


@pytest.mark.ray
def test_on_workers() -> None:
    with connect(RESOURCES):
        for units in (UNITS, UNITS[:1]):
            want = WANT if len(units) > 1 else [1, 0, 0]
            assert np.array_equal(add_up(powers, {}, units, RESOURCES, "powers"), want)
        with pytest.raises(UnitInputError, match=r"^powers, unit u7: it is too bad$"):
            add_up(powers, {"bad": "u7"}, UNITS, RESOURCES, "powers")
