"""Bootstrap intervals and the shuffling used as a control."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 1000
Statistic = Callable[[np.ndarray], np.ndarray]  # indices [R, n] of resampled cases -> values [R]


def mean_of(values: np.ndarray) -> Statistic:
    """The statistic "mean of these per-case values"."""
    values = np.asarray(values, dtype=np.float64)
    return lambda indices_Rn: values[indices_Rn].mean(axis=1)


def bootstrap(statistic: Statistic, cases: int | Sequence[np.ndarray], seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of a statistic of n cases, resampled with replacement.

    `cases` is n, or the strata: index arrays that are resampled each by itself, concatenated in their order.
    """
    rng = np.random.default_rng(seed)
    strata = [np.arange(cases)] if isinstance(cases, int) else cases
    drawn = [stratum[rng.integers(0, len(stratum), (RESAMPLES, len(stratum)))] for stratum in strata]
    low, high = np.percentile(statistic(np.concatenate(drawn, axis=1)), [2.5, 97.5])
    return float(low), float(high)


def shuffled_partners(count: int, seed: int = 0) -> np.ndarray:
    """For each case another one, every case used once: what a model's outputs are shuffled by."""
    order = np.random.default_rng(seed).permutation(count)
    partners = np.empty(count, dtype=np.int64)
    partners[order] = np.roll(order, -1)
    return partners
