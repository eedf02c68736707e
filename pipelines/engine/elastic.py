"""Ray Train with as many workers as fit: a lost node is waited for a while, then training goes on without it.

Ray's own elastic policy gives the frame: it asks the autoscaler for the full size and looks, while a group
runs, whether it can grow. It takes any number of workers, takes it at once, and counts what nodes have, free
or not. Here a group has one of the sizes that its job can be shared among, the full one is waited for, and
only what is free or its own counts, so that no group is stopped to grow into cores that somebody else uses.

Made for the internals of Ray 2.60; tests/pipelines/test_elastic.py fails where they change.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ray._private.state import available_resources_per_node
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ScalingDecision,
)
from ray.train.v2.api.config import ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

GRACE_S = 120.0  # a cluster replaces a node in minutes, and starting without it costs another start later
# Growing repeats the steps since the last checkpoint; being a node short costs its share of all to come.
GROW_CHECK_S = 600.0
LOOK_S = 1.0


class LargestThatFits(ElasticScalingPolicy):
    """Starts a group of the largest of `sizes` (ascending) that fits, below the last only after `grace_s`.

    `collector` is the actor of pipelines.engine.collector.
    """

    def __init__(
        self, scaling_config: ScalingConfig, sizes: Sequence[int], grace_s: float, collector: Any
    ) -> None:
        super().__init__(scaling_config)
        self.sizes, self.grace_s, self.collector = sizes, grace_s, collector
        self.places: list[str] = []  # nodes of the group's workers: Ray frees them when the next one starts
        self.waiting_since: float | None = None

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """The size to start with, or a Noop: look again. Where not even the least fits Ray waits for it."""
        self._maybe_send_resource_request()
        now = time.monotonic()
        if self.waiting_since is None:
            self.waiting_since = now
        size = self._count_possible_workers(self._get_reserved_resources())
        if size != self.sizes[-1] and now - self.waiting_since < self.grace_s:
            time.sleep(LOOK_S)  # Ray asks again at once
            return NoopDecision()
        self.places, self.waiting_since = [], None
        return self._get_resize_decision(size or self.sizes[0])

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """Ray's own, every GROW_CHECK_S; a group never shrinks while it runs, since its places count too."""
        self.places = [worker.metadata.node_id for worker in worker_group_state.workers]
        return super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)

    def before_controller_execute_failure_decision(self, failure_decision: Any) -> None:
        """A group has failed: what its workers report while the next one is waited for is no news."""
        self.collector.end_group.remote()

    def _get_reserved_resources(self) -> dict[str, dict[str, float]]:
        """What is free now, by living node."""
        return available_resources_per_node()

    def _count_possible_workers(self, reserved_resources: dict[str, dict[str, float]]) -> int:
        """The largest size that fits into what is free and what the group has itself; 0 where none does."""
        own = sum(node in reserved_resources for node in self.places)
        room = own + super()._count_possible_workers(reserved_resources)
        return max((size for size in self.sizes if size <= room), default=0)


class ElasticTrainer(TorchTrainer):
    """A TorchTrainer whose group has one of `sizes`, ascending; `scaling` is the rest of its config."""

    def __init__(self, sizes: Sequence[int], scaling: dict[str, Any], collector: Any, **options: Any) -> None:
        config = ScalingConfig(
            num_workers=(sizes[0], sizes[-1]), elastic_resize_monitor_interval_s=GROW_CHECK_S, **scaling
        )
        super().__init__(scaling_config=config, **options)
        self.policy = LargestThatFits(config, sizes, GRACE_S, collector)

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        return super()._initialize_and_run_controller(**options | {"scaling_policy": self.policy})
