"""Where the work runs: the one module that starts or finds Ray, and spreads units of work over it.

- `RAY_ADDRESS` set: attach to that cluster (KubeRay, a Metaflow gang, `ray start`).
- an owner given (a flow's steps): one local cluster for the whole run, see shared_cluster.py beside this.
  Attaching takes 0.05 s, starting takes 4 s.
- neither: a local cluster in this process, for as long as the `connect` block lasts.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from ddt.clean import one_line
from ddt.progress import Progress
from ddt.sections.run import Resources
from pipelines.engine.failures import is_mistake
from pipelines.engine.shared_cluster import REPOSITORY, ClusterError, leave_with, shared_address, start_holder
from pipelines.engine.stopping import own_sigterm
from pipelines.engine.watchdog import Watchdog
from pipelines.reports.overhead import count, overhead

OWNER_VARIABLE = "DDT_RAY_OWNER"
HOST_AND_PORT = re.compile(r"(ray://)?\[?([^\[\]/]+)\]?:(\d+)/?")  # others Ray judges at once
ANSWER_SECONDS = 10  # within which a cluster must say anything at all
# A client's preface and empty settings; a server's settings begin with a frame of this type (RFC 9113).
HTTP2_PREFACE, HTTP2_SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0", 4
RETRY_AFTER_S = 1.0  # and longer each time: a store that throttles wants to be left alone
MAX_BLOCKS = 1000  # a block is what Ray Data retries as a whole and reports as done

# Of a cluster of our own: nobody takes this machine away, and no dashboard shows Ray's metrics.
OWN_CLUSTER = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_TRAIN_METRICS_ENABLED": "0"}
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Train asks its workers how they are every 2 s, and sees no sooner that they are done. Each question
    # takes time from training.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # notes of the C++ side; errors come as exceptions
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in a worker as in the driver
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


class UnitError(RuntimeError):
    """The worker failed on a unit; the message, one line, names what the unit is of and the reason."""

    def __init__(self, message: object) -> None:
        super().__init__(one_line(message))


class UnitInputError(UnitError, ValueError):
    """The same, where the reason is the user's input: one line, no traceback."""


class UnitSystemError(UnitError, OSError):
    """The same, where the reason is a disk, the network or a store: one line as well, and it may pass."""


@contextlib.contextmanager
def connect(resources: Resources, owner_pid: int | None = None) -> Iterator[None]:
    """Ray, ready for use inside the block.

    `owner_pid` (or the variable DDT_RAY_OWNER) names the process whose life a shared local cluster follows.
    Inside another `connect` it does nothing. Raises ClusterError where Ray does not come up.
    """
    with overhead("ray"):
        _prepare_environment()
        import ray
    if ray.is_initialized():
        yield
        return
    with own_sigterm():
        try:
            with overhead("ray"), own_sigterm(is_over=False):
                _attach_or_start(resources, owner_pid or int(os.environ.get(OWNER_VARIABLE) or 0))
            yield
        finally:
            with overhead("ray"):
                stop()


def require_cluster() -> None:
    """ClusterError where no Ray answers at `RAY_ADDRESS`: Ray itself would try for minutes, then abort.

    It takes a minute at most, and a moment as a rule.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    place = HOST_AND_PORT.fullmatch(address)
    if place is None:
        return
    is_client, host, port = place.groups()
    try:
        reason = _why_no_grpc(host, int(port)) or (None if is_client else _why_no_ray(address))
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    if reason is not None:
        raise ClusterError(
            f"RAY_ADDRESS = {address}: no cluster there ({reason}); start it, or unset RAY_ADDRESS, and one "
            "starts on this machine"
        )


def _why_no_grpc(host: str, port: int) -> str | None:
    """None where a gRPC server answers, as Ray's control store is one. OSError where nothing does."""
    with socket.create_connection((host, port), ANSWER_SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return None
        connection.sendall(HTTP2_PREFACE)
        frame = connection.recv(9)
    is_settings = len(frame) > 3 and frame[3] == HTTP2_SETTINGS
    return None if is_settings else "what answers is no Ray"


def _why_no_ray(address: str) -> str | None:
    """None where the control store tells the cluster's name. Ray waits 40 s for one that says nothing."""
    _prepare_environment()
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
    from ray.exceptions import RpcError

    try:
        with _quiet_stderr():
            GcsClient(address=address)
    except RpcError as error:
        return str(error)
    return None


def begin_shared(resources: Resources, owner_pid: int) -> None:
    """Begins to start the owner's shared cluster without waiting, so that it is up when a step connects."""
    if is_own_cluster():
        _prepare_environment()
        start_holder(owner_pid, local_cpus(resources), resources.object_store_mb)


def _attach_or_start(resources: Resources, owner_pid: int) -> None:
    import ray

    require_cluster()
    address = os.environ.get("RAY_ADDRESS", "")
    try:
        if not address and not owner_pid:
            start_local(local_cpus(resources), resources.object_store_mb)
            return
        if not address:
            address = shared_address(owner_pid, local_cpus(resources), resources.object_store_mb)
            leave_with(owner_pid)
        with _quiet_stderr():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ClusterError:
        raise
    except Exception as error:  # Ray raises it bare where its start takes too long
        place = f"at {address}" if address else "on this machine"
        raise ClusterError(one_line(f"Ray {place}: {error}")) from error


def start_local(cpus: int, object_store_mb: int) -> str:
    """Starts a cluster on this machine that ends with this process; its address."""
    _prepare_environment()
    import ray

    with _quiet_stderr():
        context = ray.init(
            address="local",  # never a cluster that another program left behind in /tmp/ray
            num_cpus=cpus,
            object_store_memory=object_store_mb * 1_000_000,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    return str(context.address_info["gcs_address"])  # type: ignore[attr-defined]


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Drops what Ray's C++ side prints while it starts; what goes wrong is raised as an exception."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def is_own_cluster() -> bool:
    """Whether Ray runs on this machine alone and ends with this run: no `RAY_ADDRESS` names another."""
    return not os.environ.get("RAY_ADDRESS")


def stop() -> None:
    """Leaves the cluster; ends it where this process started it."""
    import ray

    ray.shutdown()


def local_cpus(resources: Resources) -> int:
    """The cores a local cluster takes: as told, or all that this process may run on."""
    if resources.cpus is not None:
        return resources.cpus
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prepare_environment() -> None:
    for name, value in (ENVIRONMENT | (OWN_CLUSTER if is_own_cluster() else {})).items():
        os.environ.setdefault(name, value)
    if is_own_cluster():
        # Ray protects a cluster it starts with a token, and a process that attaches must be told so; this is
        # read when ray is imported.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    # Workers inherit it, so that they import ddt and pipelines from wherever they start.
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(REPOSITORY) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), *filter(None, paths)])


# Units over actors


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
