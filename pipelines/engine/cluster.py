"""Where the work runs: the one module that starts or finds Ray.

- `RAY_ADDRESS` set: attach to that cluster (KubeRay, a Metaflow gang, `ray start`).
- an owner given (a flow's steps): one local cluster for the whole run, see shared_cluster.py beside this.
  Attaching takes 0.05 s, starting takes 4 s.
- neither: a local cluster in this process, for as long as the `connect` block lasts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator

from ddt.clean import one_line
from ddt.sections.run import Resources
from pipelines.engine.shared_cluster import REPOSITORY, ClusterError, leave_with, shared_address, start_holder
from pipelines.engine.stopping import own_sigterm
from pipelines.reports.overhead import overhead

OWNER_VARIABLE = "DDT_RAY_OWNER"
HOST_AND_PORT = re.compile(r"(ray://)?\[?([^\[\]/]+)\]?:(\d+)/?")  # others Ray judges at once
ANSWER_SECONDS = 10  # within which a cluster must say anything at all
# A client's preface and empty settings; a server's settings begin with a frame of this type (RFC 9113).
HTTP2_PREFACE, HTTP2_SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0", 4
STARTS, TOO_LATE = 3, "timed out during startup"  # what Ray says of a node that did not come up in its 30 s

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
    # Threads of a training that wait for each other sleep soon: awake for as long as libgomp has it, each
    # takes the core that the other waits for once anything else runs on this machine (bench/threads.py).
    "GOMP_SPINCOUNT": "2000",
}


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
    """Starts a cluster on this machine that ends with this process; its address.

    Ray gives itself 30 s, too little on a machine that is busy: it is tried STARTS times.
    """
    starts = 1
    while True:
        try:
            return _start(cpus, object_store_mb)
        except Exception as error:  # Ray raises it bare
            stop()
            if starts == STARTS or TOO_LATE not in str(error):
                raise
        starts += 1


def _start(cpus: int, object_store_mb: int) -> str:
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
