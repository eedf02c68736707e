"""The scores of the benchmark `recursion` from what was measured of each picture, beside the reference's.

`region_…` among the measures is the spatial reference's twin of a name. Shapes: N cases, T tokens, C cells,
R resamples of n cases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ddt.eval.benchmark import Score, mean_score
from ddt.eval.drawn_from_parts import prefix_counts
from ddt.eval.statistics import SHARE, Statistic, bootstrap, mean_of
from ddt.eval.token_looks import MOST_DB, QUARTERS, TIMES, Arrays

COUNTS_DB = 0.2  # a token whose exchange costs less carries nothing
REGION = "region_"
REGIONS = "regions in raster order"
BASELINE_IS = "the same drawing as regions"
Make = Callable[[str], Statistic]  # from the prefix of the names: of the tokens, or of the reference
DECIBELS = (0.0, MOST_DB)


def recursion_scores(every: Arrays, drawn: Arrays, seed: int) -> dict[str, Score]:
    """Scores from the measures of all cases, and from those of the cases that the sampler drew."""
    scores = {"recursion/any_time_psnr": any_time(every, seed)} if "with_tokens" in every else {}
    return scores | placeless(every, seed) | single_tokens(every, seed) | parts(every, drawn, seed)


def any_time(every: Arrays, seed: int) -> Score:
    """The worst time, which each resample chooses anew; floors at the time that the data have."""
    with_NM = every["with_tokens"]
    worst = int(with_NM.mean(0).argmin())

    def make(prefix: str) -> Statistic:
        return lambda indices_Rn: _means(every[f"{prefix}with_tokens"], indices_Rn).min(-1)

    floors = {"without tokens": every["without_tokens"], "the best linear guess": every["linear_guess"]}
    means = {name: float(value_NM[:, worst].mean()) for name, value_NM in floors.items()}
    best = max(means, key=lambda name: means[name])
    floor_is = f"{best}, t = {TIMES[worst]:g}"
    return _score(make, len(with_NM), seed, MOST_DB, means[best], floor_is, span=DECIBELS)


def placeless(every: Arrays, seed: int) -> dict[str, Score]:
    """Three measures that are 0 for tokens of no place and 1 for those of the picture's regions."""

    def unevenness(prefix: str) -> Statistic:
        half_NC, whole_NC = every[f"{prefix}half_damage"], every[f"{prefix}whole_damage"]

        def statistic(indices_Rn: np.ndarray) -> np.ndarray:
            whole_RC = _means(whole_NC, indices_Rn)
            share_RC = _means(half_NC, indices_Rn) / np.where(np.abs(whole_RC) < 1e-12, 1e-12, whole_RC)
            return share_RC.std(-1) / np.maximum(np.abs(share_RC.mean(-1)), 1e-12)

        return statistic

    def excess(prefix: str) -> Statistic:
        moved_NKS = every[f"{prefix}moved"]

        def statistic(indices_Rn: np.ndarray) -> np.ndarray:
            share_RKS = _means(moved_NKS, indices_Rn)
            return (share_RKS.max(-1) - np.median(share_RKS, -1)).max(-1)

        return statistic

    def by_height(prefix: str) -> Statistic:
        damage_NT, height_NT = every[f"{prefix}token_damage"], every[f"{prefix}token_height"]

        def statistic(indices_Rn: np.ndarray) -> np.ndarray:
            weight_RT = np.maximum(_means(damage_NT, indices_Rn), 1e-12)
            height_RT = _means(damage_NT * height_NT, indices_Rn) / weight_RT
            return np.array([abs(spearman(height_T)) for height_T in height_RT])

        return statistic

    measures: dict[str, tuple[Make, str]] = {
        "place_unevenness": (unevenness, "the upper half of a picture"),
        "roll_excess": (excess, "codes that move with the picture"),
        "order_by_height": (by_height, "row by row"),
    }
    cases = len(every["moved"])
    return {
        f"recursion/{name}": _score(make, cases, seed, 0.0, 1.0, floor_is, higher_is_better=False)
        for name, (make, floor_is) in measures.items()
    }


def single_tokens(every: Arrays, seed: int) -> dict[str, Score]:
    """How many tokens carry something, and what the one that carries least does."""

    def counting(prefix: str) -> Statistic:
        loss_NT = every[f"{prefix}token_loss_db"]
        return lambda indices_Rn: (_means(loss_NT, indices_Rn) >= COUNTS_DB).mean(-1)

    def least(prefix: str) -> Statistic:
        loss_NT = every[f"{prefix}token_loss_db"]
        return mean_of(loss_NT[:, loss_NT.mean(0).argmin()])

    cases, floor_is = len(every["token_loss_db"]), "a token that says nothing"
    return {
        "recursion/tokens_that_count": _score(counting, cases, seed, 1.0, 0.0, floor_is),
        "recursion/least_token_db": _score(least, cases, seed, None, 0.0, floor_is),
    }


def parts(every: Arrays, drawn: Arrays, seed: int) -> dict[str, Score]:
    """Prefixes and mixtures as the sampler draws them; on scenes with what the detector reads of them."""
    num_tokens = every["codes"].shape[1]
    counts, scores = prefix_counts(num_tokens), {}
    for quarter in range(1, QUARTERS + 1):
        place = counts.index(num_tokens * quarter // QUARTERS)
        for name in ("psnr", "background", "placed", "kept"):
            if f"prefix_{name}" in drawn:
                span = DECIBELS if name == "psnr" else SHARE
                value_N, grey_N = drawn[f"prefix_{name}"][:, place], drawn[f"grey_{name}"][:, 0]
                score = mean_score(value_N, floors={"plain grey": grey_N}, seed=seed, span=span)
                regions = float(drawn[f"{REGION}prefix_{name}"][:, place].mean())
                scores[f"recursion/prefix_{100 * quarter // QUARTERS}_{name}"] = _beside(score, regions)
    if "exchange_valid" in drawn:
        floors = {"the upper half of one picture over the lower of another": drawn["cut_valid"]}
        score = mean_score(
            drawn["exchange_valid"], drawn["picture_valid"], floors, seed=seed, tokenized=drawn["own_valid"]
        )
        regions = float(drawn[f"{REGION}exchange_valid"].mean())
        scores["recursion/exchange_valid"] = _beside(score, regions)
    return scores


def _score(
    make: Make,
    cases: int,
    seed: int,
    ceiling: float | None,
    floor: float,
    floor_is: str,
    higher_is_better: bool = True,
    span: tuple[float, float] | None = None,
) -> Score:
    """A statistic of all cases with its interval, beside the reference's."""
    value, regions = (float(make(prefix)(np.arange(cases)[None])[0]) for prefix in ("", REGION))
    low, high = bootstrap(make(""), cases, seed, span)
    # The extremes of few cases lie further out than that of all: the value may be outside its resamples.
    low, high = min(low, value), max(high, value)
    return _beside(Score(value, low, high, cases, ceiling, floor, floor_is, higher_is_better), regions)


def _means(value_N: np.ndarray, indices_Rn: np.ndarray) -> np.ndarray:
    """Means over each resample's cases [R, ...] of values [N, ...], without laying out all of them."""
    counts_RN = np.zeros((len(indices_Rn), len(value_N)))
    np.add.at(counts_RN, (np.arange(len(indices_Rn))[:, None], indices_Rn), 1 / indices_Rn.shape[1])
    return np.tensordot(counts_RN, value_N, 1)


def _beside(score: Score, regions: float) -> Score:
    return replace(score, baseline=regions, baseline_is=BASELINE_IS)


def spearman(value_T: np.ndarray) -> float:
    """Spearman's rank correlation of values with their order; equal values share their mean rank.

    0 where all are equal.
    """
    _, place_T, counts = np.unique(value_T, return_inverse=True, return_counts=True)
    ranks_T = (np.cumsum(counts) - (counts - 1) / 2)[place_T]
    if len(counts) < 2:
        return 0.0
    return float(np.corrcoef(ranks_T, np.arange(len(value_T)))[0, 1])
