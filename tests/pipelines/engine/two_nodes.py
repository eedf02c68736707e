"""A training on a Ray cluster of two nodes, and units on one that grows from none, each for a process of its
own that knows no other cluster.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
import queue
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipelines.engine.cluster import connect
from pipelines.engine.fit import train
from tests.pipelines.ray_support import END, GROWN_AT, LOST_AT, RESOURCES
from tests.processes import HANGS_AFTER_S


@contextlib.contextmanager
def nodes(*cpus: int):
    """A cluster of nodes with so many cores, and this process connected to it; losses are soon noticed."""
    from ray.cluster_utils import Cluster

    noticed = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 300}
    noticed |= {"health_check_failure_threshold": 2}
    head = {"num_cpus": cpus[0], "include_dashboard": False, "_system_config": noticed}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for count in cpus[1:]:
        cluster.add_node(num_cpus=count)
    os.environ["RAY_ADDRESS"] = cluster.address
    with connect(RESOURCES):
        yield cluster
    cluster.shutdown()


def lose_and_add_a_node(folder: str) -> dict[str, Any]:
    """Trains on two nodes, of which one is lost and replaced later; what came of it and what was said."""
    said, steps = io.StringIO(), queue.Queue[int]()
    logging.getLogger("pipelines.engine.fit").addHandler(logging.StreamHandler(said))
    os.environ["RAY_AUTH_MODE"] = "disabled"  # read when Ray is imported; nodes started by hand have no token
    from pipelines.engine import elastic

    elastic.GRACE_S, elastic.GROW_CHECK_S = 1.0, 0.5

    def wait_for(step: int) -> None:
        while steps.get(timeout=HANGS_AFTER_S) != step:
            pass

    with nodes(1, 1) as cluster, ThreadPoolExecutor() as pool:
        [other] = cluster.worker_nodes
        job_args = {"folder": folder, "lost_node": other.node_id}
        wanted = dataclasses.replace(
            RESOURCES, train_workers=2, min_train_workers=1, train_cpus_per_worker=1, max_failures=-1
        )
        job = "tests.pipelines.ray_support:elastic_job"
        training = pool.submit(
            train, job, job_args, wanted, [1, 2], f"{folder}/ray", "job", END,
            lambda step, metrics: steps.put(step),
        )  # fmt: skip
        wait_for(LOST_AT)
        cluster.remove_node(other, allow_graceful=False)
        wait_for(GROWN_AT)
        cluster.add_node(num_cpus=1)  # Ray wants the main thread for that
        done = training.result(HANGS_AFTER_S)
    logged = [int(entry["step"]) for entry in done.history]
    return {"restarts": done.restarts, "logged": logged, "said": said.getvalue(), **done.result}


def grow_from_no_node(folder: str) -> dict[str, Any]:
    """Units that want an accelerator, on a cluster without any: one joins when that was asked for, as Ray's
    autoscaler would have it; what was asked for before, and the squares.
    """
    from pipelines.engine.actors import map_units
    from tests.pipelines.ray_support import Squarer

    os.environ["RAY_AUTH_MODE"] = "disabled"
    wanted = dataclasses.replace(RESOURCES, gpus_per_actor=1, max_actors=2)
    units = [{"unit": f"u{n}", "value": n, "extra": None} for n in range(6)]
    with nodes(0) as cluster, ThreadPoolExecutor() as pool:
        working = pool.submit(lambda: list(map_units(units, Squarer, {"folder": folder}, wanted, "squares")))
        asked = _wait_for_an_actor_without_a_place()
        cluster.add_node(num_cpus=2, num_gpus=2)
        found = working.result(HANGS_AFTER_S)
    return {"asked": asked, "squares": sorted(result["square"] for result in found)}


def _wait_for_an_actor_without_a_place() -> str:
    from ray._private.state import actors

    limit = time.monotonic() + HANGS_AFTER_S
    while time.monotonic() < limit:
        for actor in actors().values():
            if actor["State"] == "PENDING_CREATION" and "MapWorker" in actor["ActorClassName"]:
                return str(actor["State"])
        time.sleep(1)
    raise TimeoutError
