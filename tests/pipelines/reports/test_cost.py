"""Hours and money of stages, against what is worked out by hand."""

from dataclasses import replace
from pathlib import Path

import pytest

from ddt.params import load_params
from ddt.sections.run import Prices
from pipelines.reports.cost import cost_of, cost_row, total

ROOT = Path(__file__).resolve().parents[3]
LAPTOP = load_params(ROOT / "params.yaml").resources
NODE = replace(
    LAPTOP,
    cpus=64,
    cpus_per_actor=8,
    gpus_per_actor=1.0,
    train_workers=8,
    train_cpus_per_worker=4,
    tokenizer_workers=2,
    gpus_per_worker=1.0,
    prices=Prices("EUR", 0.05, 2.0),
)


@pytest.mark.parametrize(
    ("stage", "cores", "accelerators"),
    [
        ("ingest", 64, 0),
        ("recaption", 64, 8),  # eight actors
        ("select", 64, 0),
        ("train_tokenizer", 2, 2),  # tokenizer_cpus_per_worker is 1
        ("pretrain", 32, 8),
        ("evaluate", 64, 8),
        ("promote", 1, 0),
    ],
)
def test_what_a_stage_keeps_from_others(stage: str, cores: int, accelerators: int) -> None:
    assert NODE.taken_by(stage, 64) == (cores, accelerators)
    cost = cost_of(stage, NODE, 64, 1800)
    assert cost["cost/core_hours"] == cores / 2
    assert cost.get("cost/accelerator_hours", 0) == accelerators / 2
    assert cost["cost/money"] == pytest.approx(cores / 2 * 0.05 + accelerators / 2 * 2.0)


def test_without_prices_or_accelerators_hours_alone_are_told() -> None:
    cost = cost_of("pretrain", LAPTOP, 2, 3600)
    assert cost == {"cost/core_hours": 2.0}
    assert cost_row(cost, "USD") == ["2.00", "", ""]
    assert cost_row(cost_of("pretrain", NODE, 64, 3600), "EUR") == ["32.00", "8.00", "17.60 EUR"]
    assert total([{"a": 1.0} | cost, cost]) == {"cost/core_hours": 4.0}
    assert total([]) == {}
