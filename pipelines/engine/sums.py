"""Counts that are made where the data are, and added up here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ddt.sections.run import Resources
from pipelines.engine.actors import actors, failure, unit_error

TASKS_PER_ROOM = 4  # for each core or so: as many parts of a sum as even out their lengths

Function = Callable[..., np.ndarray]


def add_up(
    function: Function,
    arguments: dict[str, Any],
    units: list[dict[str, Any]],
    resources: Resources,
    desc: str,
) -> np.ndarray:
    """The sum of `function(unit, **arguments)` over all units, arrays of one shape: a few of them are here at
    a time. Inside `connect`. Ray does a lost worker's share again. Raises UnitError.
    """
    import ray

    room = actors(len(units), resources)
    size = -(-len(units) // (TASKS_PER_ROOM * room))
    waiting = [units[start : start + size] for start in range(0, len(units), size)]
    task = ray.remote(num_cpus=resources.cpus_per_actor)(_sum)
    running: list[Any] = []
    total: Any = 0
    while waiting or running:
        while waiting and len(running) < room:
            running.append(task.remote(function, arguments, waiting.pop()))
        [done], running = ray.wait(running)
        subtotal, error = ray.get(done)
        if error is not None:
            raise unit_error(desc, error)
        total = total + subtotal
    return total


def _sum(
    function: Function, arguments: dict[str, Any], units: list[dict[str, Any]]
) -> tuple[Any, dict[str, Any] | None]:
    """The sum of some units, or what went wrong with the first that failed."""
    total: Any = 0
    for unit in units:
        try:
            total = total + function(unit, **arguments)
        except Exception as error:  # as a value: Ray would wrap it
            return None, failure(error, unit)
    return total, None
