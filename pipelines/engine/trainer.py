"""Ray Train's trainer, without the helpers that have nothing to do on a cluster of our own.

Each of them is a process that imports Ray Train when a stage begins, and asks around while it trains. Written
against Ray 2.60: which helpers there are is no public matter of Ray's.
"""

from __future__ import annotations

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import RayTrainCallback

from pipelines.engine.cluster import is_own_cluster


class LeanTorchTrainer(TorchTrainer):
    """TorchTrainer for a local cluster, which ends with its owner.

    No dataset actor: batches are drawn by the job. No cleaner of placement groups: it asks the dashboard
    whether the controller lives, and where there is none it holds up the end of every training for 12 s.
    """

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        idle = (DatasetsCallback, PlacementGroupCleanerCallback)
        usual: list[RayTrainCallback] = super()._create_default_callbacks()  # type: ignore[misc]
        return [made for made in usual if not isinstance(made, idle)]


def trainer_class() -> type[TorchTrainer]:
    """What trains on the cluster that this process is attached to."""
    return LeanTorchTrainer if is_own_cluster() else TorchTrainer
