"""How a training's worker knows that it is to stop: its driver, its process or its node was told to.

The driver says so through the collector, which rank 0 asks once a second in a thread. SIGTERM reaches the
main thread of the worker, which is Ray's, so the handler is put in place from there. A node that is drained
(Kubernetes takes its pod away) is what Ray tells every worker. `ddt.train.fit` asks at each step; that costs
the reading of two variables.

Written against Ray 2.60: where it keeps what it knows of a drained node is no public matter of Ray's.
"""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

from ray.exceptions import RayError
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.execution.context import get_train_context

POLL_S = 1.0
TOLD = threading.Event()  # of this worker's process


def is_told() -> bool:
    """Whether this worker is to stop."""
    return TOLD.is_set() or get_train_context().preemption_context.preemption_info is not None


def listen_to_driver(collector: Any) -> None:
    """Begins to ask the collector."""
    import ray

    def ask() -> None:
        try:
            while not ray.get(collector.is_stopping.remote()):
                time.sleep(POLL_S)
        except RayError:  # the driver is gone, and takes this worker along
            return
        TOLD.set()

    threading.Thread(target=ask, name="told", daemon=True).start()


def _listen_to_sigterm() -> None:
    signal.signal(signal.SIGTERM, lambda *_: TOLD.set())


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_start(worker_group, backend_config)
        worker_group.execute(_listen_to_sigterm)


class ToldTorchConfig(TorchConfig):
    """Torch's process group, of workers that SIGTERM tells to stop rather than ends."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _Backend
