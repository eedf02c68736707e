"""Bootstrap intervals, what they are where all cases are equal, and the shuffling used as a control."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np

RESAMPLES = 1000
INDICES_AT_ONCE = 1 << 22  # 32 MiB: VQAv2's 214,354 cases at once would be 1.7 GB
SHARE = (0.0, 1.0)  # the span of accuracies and of most other metrics here
Statistic = Callable[[np.ndarray], np.ndarray]  # indices [R, n] of resampled cases -> values [R]


def mean_of(values: np.ndarray) -> Statistic:
    """The statistic "mean of these per-case values"."""
    values = np.asarray(values, dtype=np.float64)
    return lambda indices_Rn: values[indices_Rn].mean(axis=1)


def bootstrap(
    statistic: Statistic,
    cases: int | Sequence[np.ndarray],
    seed: int = 0,
    span: tuple[float, float] | None = SHARE,
) -> tuple[float, float]:
    """95 % percentile interval of a statistic of n cases, resampled with replacement.

    `cases` is n, or the strata: index arrays that are resampled each by itself, concatenated in their order.
    `span` are the lowest and the highest value the statistic can have, None where it has no such ends. Where
    no resample differs, as when all answers are right, it widens the interval: see `never_seen`.
    """
    strata = [np.arange(cases)] if isinstance(cases, int) else cases
    # Every stratum has its own generator, so that blocks of resamples draw what all at once would.
    rngs = np.random.default_rng(seed).spawn(len(strata))
    rows = max(1, INDICES_AT_ONCE // sum(map(len, strata)))
    values = []
    for start in range(0, RESAMPLES, rows):
        count = min(rows, RESAMPLES - start)
        drawn = [
            stratum[rng.integers(0, len(stratum), (count, len(stratum)))]
            for rng, stratum in zip(rngs, strata, strict=True)
        ]
        values.append(statistic(np.concatenate(drawn, axis=1)))
    low, high = map(float, np.percentile(np.concatenate(values), [2.5, 97.5]))
    if span is not None and high - low <= 1e-9 * (span[1] - span[0]):
        margin = never_seen([len(stratum) for stratum in strata]) * (span[1] - span[0])
        return min(low, max(span[0], low - margin)), max(high, min(span[1], high + margin))
    return low, high


def never_seen(counts: Sequence[int]) -> float:
    """The largest share of a population of which a sample without a single such case leaves 5 % doubt.

    1 - 0.05^(1/n), about 3/n: the rule of three (Hanley and Lippman-Hand 1983). For strata of `counts` cases
    it is the share of their mean, largest where the smallest stratum has all of it.
    """
    return (1 - 0.05 ** (1 / min(counts))) / len(counts)


def shuffled_partners(count: int, seed: int = 0) -> np.ndarray:
    """For each case another one, every case used once: what a model's outputs are shuffled by."""
    order = np.random.default_rng(seed).permutation(count)
    partners = np.empty(count, dtype=np.int64)
    partners[order] = np.roll(order, -1)
    return partners


def shuffled_within(groups: Sequence[Hashable], seed: int = 0) -> np.ndarray:
    """`shuffled_partners` of the same group for each case; one that is alone in its group is its own."""
    partners = np.arange(len(groups))
    for group in dict.fromkeys(groups):
        members = np.flatnonzero([other == group for other in groups])
        partners[members] = members[shuffled_partners(len(members), seed)]
    return partners
