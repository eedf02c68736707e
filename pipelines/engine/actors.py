"""Units of work over Ray Data's actors: how many at once, what is tried again, what is told of failures."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from ddt.clean import one_line
from ddt.progress import Progress
from ddt.sections.run import Resources
from pipelines.engine.cluster import is_own_cluster
from pipelines.engine.failures import is_mistake
from pipelines.engine.watchdog import Watchdog
from pipelines.reports.overhead import count

RETRY_AFTER_S = 1.0  # and longer each time: a store that throttles wants to be left alone
MAX_BLOCKS = 1000  # a block is what Ray Data retries as a whole and reports as done


class UnitError(RuntimeError):
    """The worker failed on a unit; the message, one line, names what the unit is of and the reason."""

    def __init__(self, message: object) -> None:
        super().__init__(one_line(message))


class UnitInputError(UnitError, ValueError):
    """The same, where the reason is the user's input: one line, no traceback."""


class UnitSystemError(UnitError, OSError):
    """The same, where the reason is a disk, the network or a store: one line as well, and it may pass."""


class LostWorkers(OSError):
    """A unit has taken its worker's process along too often."""

    def __init__(self, losses: int) -> None:
        super().__init__(
            f"its worker was lost {losses} times (resources.unit_retries): killed, out of memory perhaps, or "
            "with its node"
        )


PLAIN = (ValueError, LostWorkers)  # errors whose message says it all


class _Actor:
    """One Ray Data actor: builds the worker on the first unit, and answers with a result or a reason.

    Rows are JSON text: Arrow would guess one type for each column from all units, None and nested included.
    An exception of the worker travels as a value, since Ray would retry or wrap it; only a lost process is
    Ray's business, which restarts the actor and gives it the unit again. Both, of exceptions those that may
    pass, are tried again `retries` times in all, as the ledger counts losses.
    """

    def __init__(
        self, worker: Callable[..., Any], worker_args: dict[str, Any], ledger: Any, retries: int
    ) -> None:
        self.ledger, self.retries = ledger, retries
        self.make_worker = lambda: worker(**worker_args)
        self.worker: Callable[[dict[str, Any]], dict[str, Any]] | None = None

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        answer: dict[str, Any] = {"started": time.time()}
        unit = json.loads(row["unit"])
        name = unit.get("name") or f"unit {unit['unit']}"
        losses = self.ledger.begin(unit["unit"], name)
        try:
            if losses > self.retries:
                raise LostWorkers(losses)
            if self.worker is None:
                self.worker = self.make_worker()
        except Exception as error:  # whatever it is, the driver is told
            of_unit = isinstance(error, LostWorkers)  # else of all units: settings, a model
            answer["error"] = failure(error, unit) | {"of_unit": of_unit}
        else:
            answer |= self._work(self.worker, unit, losses)
        self.ledger.end(unit["unit"])
        return {"answer": json.dumps(answer)}

    def _work(self, worker: Callable[..., Any], unit: dict[str, Any], failures: int) -> dict[str, Any]:
        """The result, or why there is none after so many failures before."""
        while True:
            try:
                return {"result": worker(unit)}
            except Exception as error:
                told, failures = failure(error, unit), failures + 1
                if told["mistake"] or failures > self.retries:
                    return {"error": told}
            time.sleep(RETRY_AFTER_S * failures)


def failure(error: Exception, unit: dict[str, Any]) -> dict[str, Any]:
    """What a worker tells of a unit that it failed on, while it handles the exception: see `unit_error`."""
    reason = one_line(error)
    return {
        "id": unit["unit"],
        "of_unit": True,  # not of the worker itself, which would fail on any
        "reason": reason if isinstance(error, PLAIN) else f"{type(error).__name__}: {reason}",
        "user": isinstance(error, ValueError | OSError),  # their input, or a disk that is full
        "mistake": is_mistake(error),
        "trace": traceback.format_exc(),
        "unit": unit.get("name") or f"unit {unit['unit']}",
    }


def map_units(
    units: list[dict[str, Any]],
    worker: Callable[..., Any],
    worker_args: dict[str, Any],
    resources: Resources,
    desc: str,
    on_failure: Callable[[dict[str, Any]], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Results of `worker(**worker_args)(unit)` for every unit, as they come, through Ray Data actors.

    Units and results are plain JSON; a unit is known by its entry `unit`, and to people by `name`, the file
    it is of, where it has one. A killed actor is restarted and its unit done again, `resources.unit_retries`
    times at most. A unit that the worker fails on for good is told to `on_failure`, as `failure` has it;
    without it, or where the worker itself can't be made, UnitError names the unit.
    """
    if not units:
        return
    from pipelines.engine.ledger import Ledger

    began, first_start = time.time(), None
    bar = Progress(desc, len(units), unit="unit")
    done = 0
    ledger, watchdog = Ledger.new(), Watchdog(desc, resources.stalled_after_s)
    try:
        with watchdog.watching(ledger.at_work):
            for answer in _answers(units, worker, worker_args, ledger, resources):
                if first_start is None:
                    first_start = answer["started"]
                    count("ray", max(0.0, first_start - began))
                watchdog.beat()
                done += 1
                bar.update(done)
                if "result" in answer:
                    yield answer["result"]
                elif on_failure is None or not answer["error"]["of_unit"]:
                    raise unit_error(desc, answer["error"])
                else:
                    on_failure(answer["error"])
    finally:
        bar.close()
        ledger.close()


def _answers(
    units: list[dict[str, Any]],
    worker: Callable[..., Any],
    worker_args: dict[str, Any],
    ledger: Any,
    resources: Resources,
) -> Iterator[dict[str, Any]]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # ours counts units; Ray's show operators
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [{"unit": json.dumps(unit)} for unit in units]
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_BLOCKS)).map(
        _Actor,  # type: ignore[arg-type]  # Ray takes a class here; its annotation does not say so
        fn_constructor_args=(worker, worker_args, ledger, resources.unit_retries),
        compute=pool(len(units), resources),
        num_cpus=resources.cpus_per_actor,
        num_gpus=resources.gpus_per_actor,
    )
    batch: Any  # a pyarrow Table
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for answer in batch["answer"].to_pylist():
            yield json.loads(answer)


def pool(units: int, resources: Resources) -> Any:
    """The actors of a stage, as Ray Data has them: those that there is room for, and from one on where
    `max_actors` lets the cluster grow. What waits for a node is what Ray's autoscaler starts one for.
    """
    import ray.data

    most = actors(units, resources)
    if not _may_grow(resources):
        return ray.data.ActorPoolStrategy(size=most)
    at_once = max(1, min(most, int(_room(resources))))
    return ray.data.ActorPoolStrategy(min_size=1, initial_size=at_once, max_size=most)


def actors(units: int, resources: Resources) -> int:
    """The most actors, or tasks, that work at once: as many as `resources.max_actors` where the cluster may
    grow, else as it has room for, and no more than there are units. ValueError where none fits.
    """
    import ray

    if _may_grow(resources):
        return max(1, min(units, resources.max_actors or 1))
    room = min(_room(resources), resources.max_actors or math.inf)
    if room < 1:
        total = ray.cluster_resources()
        raise ValueError(
            f"resources: actor wants {resources.cpus_per_actor:g} CPUs, {resources.gpus_per_actor:g} GPUs; "
            f"the cluster has {total.get('CPU', 0):g} and {total.get('GPU', 0):g}"
        )
    return max(1, min(units, int(room)))


def _may_grow(resources: Resources) -> bool:
    """Whether nodes may come that are not there yet. The cluster of our own is this machine."""
    return resources.max_actors is not None and not is_own_cluster()


def _room(resources: Resources) -> float:
    """How many actors fit on the nodes that there are, and into `resources.cpus`."""
    import ray

    total = ray.cluster_resources()
    room = min(total.get("CPU", 1.0), resources.cpus or math.inf) / resources.cpus_per_actor
    return min(room, total.get("GPU", 0.0) / resources.gpus_per_actor) if resources.gpus_per_actor else room


def unit_error(stage: str, error: dict[str, Any]) -> UnitError:
    """The exception for what `failure` told; a fault of ours is printed with its trace."""
    named = error["unit"] in error["reason"]  # a reader's message begins with the file
    told = f"{stage}: {error['reason']}" if named else f"{stage}, {error['unit']}: {error['reason']}"
    if error["user"]:
        return (UnitInputError if error["mistake"] else UnitSystemError)(told)
    print(error["trace"], file=sys.stderr)
    return UnitError(told)
