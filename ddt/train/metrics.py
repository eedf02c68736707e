"""Averages of a run's metrics between two logs, without a device synchronisation at each step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ddt.train.distributed import gather_objects


class MetricAverages:
    """Weighted sums by name, kept on the device until `flush`.

    NaN, which is what the mean of no samples is, counts as not there: a loss need not ask the device whether
    a batch has any.
    """

    def __init__(self) -> None:
        # Of metrics that come together: their weighted sums and their weights, [2, M]. A step of the
        # tokenizer has some 150 metrics; one by one they would take three kernels each.
        self._sums: dict[tuple[str, ...], Tensor] = {}

    def add(self, metrics: Mapping[str, float | Tensor], weight: float = 1.0) -> None:
        """Adds one (micro-)batch's metrics. A name without a family becomes `train/<name>`."""
        tensors = {name: value for name, value in metrics.items() if isinstance(value, Tensor)}
        numbers = {name: float(value) for name, value in metrics.items() if name not in tensors}
        if tensors:
            self._add(tensors, torch.stack([value.detach().float() for value in tensors.values()]), weight)
        if numbers:
            self._add(numbers, torch.tensor(list(numbers.values()), dtype=torch.float64), weight)

    def _add(self, names: Iterable[str], values_M: Tensor, weight: float) -> None:
        keys = tuple(name if "/" in name else f"train/{name}" for name in names)
        weights_M = (~values_M.isnan()).to(values_M.dtype) * weight
        sums_2M = torch.stack([values_M.nan_to_num(0.0, math.inf, -math.inf) * weight, weights_M])
        self._sums[keys] = self._sums[keys] + sums_2M if keys in self._sums else sums_2M

    def state(self) -> list[dict[str, Any]]:
        """This process's sums as plain JSON."""
        return [
            {"names": keys, "sums": sums_2M.tolist(), "dtype": str(sums_2M.dtype), "on": sums_2M.device.type}
            for keys, sums_2M in self._sums.items()
        ]

    def load(self, states: Iterable[list[dict[str, Any]]], device: torch.device) -> None:
        """Adds what `state` gave in one process or several; what was on an accelerator goes to `device`."""
        for part in chain.from_iterable(states):
            keys = tuple(part["names"])
            dtype = torch.float64 if part["dtype"] == str(torch.float64) else torch.float32
            place = torch.device("cpu") if part["on"] == "cpu" else device
            sums_2M = torch.tensor(part["sums"], dtype=dtype, device=place)
            self._sums[keys] = self._sums[keys] + sums_2M if keys in self._sums else sums_2M

    def flush(self) -> dict[str, float]:
        """The averages over processes and steps since the last flush; every process must call it."""
        read = [(keys, sums_2M.tolist()) for keys, sums_2M in self._sums.items()]
        totals: dict[str, list[float]] = {}
        for part in gather_objects(read):
            for keys, (sums, weights) in part:
                for key, total, weight in zip(keys, sums, weights, strict=True):
                    entry = totals.setdefault(key, [0.0, 0.0])
                    entry[0] += total
                    entry[1] += weight
        self._sums = {}
        return {key: total / weight for key, (total, weight) in totals.items() if weight}
