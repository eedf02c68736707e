"""What a stage took: core and accelerator hours, and money by the prices in params.yaml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ddt.sections.run import Resources

CORE_HOURS, ACCELERATOR_HOURS, MONEY = "cost/core_hours", "cost/accelerator_hours", "cost/money"


def cost_of(stage: str, resources: Resources, cores: int, seconds: float) -> dict[str, float]:
    """Hours of what the stage kept from others for `seconds` on a cluster of `cores`, as metrics.

    Accelerators and money only where there are some. A run that was broken off is told by its last attempt.
    """
    hours = seconds / 3600
    taken = [amount * hours for amount in resources.taken_by(stage, cores)]
    metrics = {CORE_HOURS: taken[0]}
    if taken[1]:
        metrics[ACCELERATOR_HOURS] = taken[1]
    prices = resources.prices
    if prices.core_hour or prices.accelerator_hour:
        metrics[MONEY] = taken[0] * prices.core_hour + taken[1] * prices.accelerator_hour
    return metrics


def cost_row(metrics: Mapping[str, float], currency: str) -> list[str]:
    """Core hours, accelerator hours and money of a stage for people; what it does not have is empty."""
    parts = [(CORE_HOURS, "{:.2f}"), (ACCELERATOR_HOURS, "{:.2f}"), (MONEY, f"{{:.2f}} {currency}")]
    return [text.format(metrics[name]) if name in metrics else "" for name, text in parts]


def total(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The sum over stages."""
    names = {name for stage in metrics for name in stage if name.startswith("cost/")}
    return {name: sum(stage.get(name, 0.0) for stage in metrics) for name in sorted(names)}
