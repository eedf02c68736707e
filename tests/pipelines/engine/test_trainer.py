import pytest
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

from pipelines.engine.trainer import trainer_class

IDLE = {"DatasetsCallback", "PlacementGroupCleanerCallback"}


def callbacks(trainer: TorchTrainer) -> set[str]:
    return {type(made).__name__ for made in trainer._create_default_callbacks()}


@pytest.mark.parametrize(("address", "left_out"), [("", IDLE), ("ray://cluster:10001", set())])
def test_only_on_a_cluster_of_our_own_helpers_are_left_out(monkeypatch, address, left_out):
    monkeypatch.setenv("RAY_ADDRESS", address)
    scaling = ScalingConfig(num_workers=1)
    usual = callbacks(TorchTrainer(lambda: None, scaling_config=scaling))
    assert usual >= IDLE
    assert callbacks(trainer_class()(lambda: None, scaling_config=scaling)) == usual - left_out
