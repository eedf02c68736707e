"""Averages of a run's metrics between two logs, without a device synchronisation at each step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ddt.train.distributed import gather_objects


class MetricAverages:
    """Weighted sums by name, kept on the device until `flush`."""

    def __init__(self) -> None:
        self._sums: dict[str, Any] = {}
        self._weights: dict[str, float] = {}

    def add(self, metrics: Mapping[str, float | Tensor], weight: float = 1.0) -> None:
        """Adds one (micro-)batch's metrics. A name without a family becomes `train/<name>`."""
        for name, value in metrics.items():
            key = name if "/" in name else f"train/{name}"
            value = value.detach().float() if isinstance(value, Tensor) else float(value)
            self._sums[key] = self._sums.get(key, 0.0) + value * weight
            self._weights[key] = self._weights.get(key, 0.0) + weight

    def flush(self) -> dict[str, float]:
        """The averages over processes and steps since the last flush; every process must call it."""
        tensors = {key: value for key, value in self._sums.items() if isinstance(value, Tensor)}
        numbers: list[float] = torch.stack(list(tensors.values())).tolist() if tensors else []
        sums = {**self._sums, **dict(zip(tensors, numbers, strict=True))}
        totals: dict[str, list[float]] = {}
        for part in gather_objects({key: (sums[key], self._weights[key]) for key in sums}):
            for key, (total, weight) in part.items():
                entry = totals.setdefault(key, [0.0, 0.0])
                entry[0] += total
                entry[1] += weight
        self._sums, self._weights = {}, {}
        return {key: total / weight if weight else math.nan for key, (total, weight) in totals.items()}
