"""Bootstrap intervals: of means, of equal cases, of a Frechet distance; and the shuffling."""

import math

import numpy as np
import pytest

from ddt.eval.metrics import frechet_distance, frechet_influence
from ddt.eval.metrics.fid import moments
from ddt.eval.official.reconstruction import frechet_score
from ddt.eval.statistics import bootstrap, mean_of, never_seen, shuffled_partners, shuffled_within


def test_bootstrap_covers_a_mean():
    values = np.random.default_rng(0).random(400)
    low, high = bootstrap(mean_of(values), 400)
    standard_error = values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - 1.96 * standard_error, abs=0.3 * standard_error)
    assert high == pytest.approx(values.mean() + 1.96 * standard_error, abs=0.3 * standard_error)


def test_equal_cases_keep_a_doubt():
    # 1 - 0.05^(1/n): were that the share of failures, n successes in a row would happen once in twenty.
    low, high = bootstrap(mean_of(np.ones(60)), 60)
    assert high == 1 and (low**60) == pytest.approx(0.05)
    assert low == pytest.approx(1 - 3 / 60, abs=0.002)  # the rule of three
    assert bootstrap(mean_of(np.zeros(60)), 60) == (0, pytest.approx(1 - low))
    assert bootstrap(mean_of(np.full(60, 0.5)), 60) == pytest.approx((low - 0.5, 1.5 - low))
    assert bootstrap(mean_of(np.full(60, 60.0)), 60, span=(0, 60)) == pytest.approx((60 * low, 60))
    assert bootstrap(mean_of(np.full(60, 7.0)), 60, span=None) == (7, 7)
    # One failure more than none: the two intervals fit together.
    almost, _ = bootstrap(mean_of(np.r_[np.ones(59), 0]), 60)
    assert almost <= low + 0.01


def test_equal_cases_in_strata_keep_the_doubt_of_their_mean():
    strata = [np.arange(10), np.arange(10, 40)]
    low, _ = bootstrap(mean_of(np.ones(40)), strata)
    # The mean of two shares is lowest where the smaller stratum has all failures that are still likely.
    rng = np.random.default_rng(0)
    shares = rng.random((200_000, 2))
    likely = shares[(shares[:, 0] ** 10 * shares[:, 1] ** 30) >= 0.05]
    assert low == pytest.approx(likely.mean(axis=1).min(), abs=0.01)
    assert never_seen([30, 30]) == pytest.approx(never_seen([60]), rel=0.03)


@pytest.mark.parametrize("count", [400, 12])
def test_the_influence_is_the_derivative_of_the_frechet_distance(count):
    rng = np.random.default_rng(count)
    a, b = rng.normal(size=(count, 20)), 0.4 + rng.normal(size=(300, 20)) @ rng.normal(size=(20, 20)) / 4
    if count < 20:  # fewer samples than dimensions: the covariance is singular
        assert np.linalg.matrix_rank(np.cov(a, rowvar=False)) < 20
    value, influence = frechet_distance(a, b), frechet_influence(a, moments(a), moments(b))
    other = moments(b)
    # Count each sample a little more often than the others, with weights that sum to one.
    for index in range(0, count, count // 4):
        step = 1e-5
        weights = np.full(count, (1 - step) / count)
        weights[index] += step
        mean = weights @ a
        # n / (n - 1) as in the distance itself, so that the start is the same
        covariance = ((a - mean).T * weights) @ (a - mean) * count / (count - 1)
        slope = (_distance(mean, covariance, *other) - value) / step
        assert slope == pytest.approx(influence[index], rel=0.02, abs=0.05 * np.abs(influence).mean())


def _distance(mean_a, covariance_a, mean_b, covariance_b):
    root = np.sqrt(np.linalg.eigvals(covariance_a @ covariance_b).real.clip(min=0)).sum()
    offset = mean_a - mean_b
    return offset @ offset + np.trace(covariance_a) + np.trace(covariance_b) - 2 * root


def test_the_interval_of_a_frechet_distance_is_that_of_its_bootstrap():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2000, 4)), 0.3 + 1.2 * rng.normal(size=(2000, 4))
    value = frechet_distance(a, b)
    score = frechet_score(value, frechet_influence(a, moments(a), moments(b)))
    resampled = [frechet_distance(a[rng.integers(0, 2000, 2000)], b) for _ in range(400)]
    assert score.low < value < score.high and score.n == 2000
    assert score.high - score.low == pytest.approx(np.ptp(np.percentile(resampled, [2.5, 97.5])), rel=0.15)
    same = frechet_score(0.0, frechet_influence(a, moments(a), moments(a)))
    assert same.low == 0 and same.high == pytest.approx(0, abs=1e-9)


def test_no_case_keeps_its_own_output_when_shuffled():
    for count in (2, 3, 50):
        partners = shuffled_partners(count)
        assert sorted(partners) == list(range(count))
        assert all(index != other for index, other in enumerate(partners))
    groups = ["a", "b", "a", "c", "b", "a"]
    partners = shuffled_within(groups)
    assert sorted(partners) == list(range(6)) and partners[3] == 3
    assert all(groups[i] == groups[j] for i, j in enumerate(partners))
    assert all(i != j for i, j in enumerate(partners) if i != 3)
