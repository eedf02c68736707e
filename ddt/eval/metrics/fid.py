"""Frechet distance and Inception Score from features that some Inception network gave elsewhere."""

import numpy as np

ROWS_AT_ONCE = 4096  # 4096 x 2048 float64 is 64 MiB: the working set stays small next to the features


Moments = tuple[np.ndarray, np.ndarray]  # mean [d] and covariance [d, d] of features, float64


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """The Frechet distance of two sets of features [n, d]; covariances are divided by n - 1, in float64.

    A covariance of fewer samples than dimensions is singular, the distance then biased: use n well above d.
    """
    features_a, features_b = np.asarray(features_a), np.asarray(features_b)
    if features_a.ndim != 2 or features_b.ndim != 2 or features_a.shape[1] != features_b.shape[1]:
        raise ValueError(
            f"frechet_distance: shapes {features_a.shape} and {features_b.shape}, needs [n, d] twice"
        )
    return frechet_of_moments(moments(features_a), moments(features_b))


def frechet_of_moments(a: Moments, b: Moments) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)).

    The trace of the root is taken from the eigenvalues of S_a^(1/2) S_b S_a^(1/2), which is symmetric, so it
    needs no general matrix root (7e-8 from the published implementations).
    """
    (mean_a, covariance_a), (mean_b, covariance_b) = a, b
    if covariance_a.shape != covariance_b.shape or mean_a.shape != mean_b.shape:
        raise ValueError(f"frechet_distance: {mean_a.shape[0]} and {mean_b.shape[0]} dimensions")
    scale, basis = _root(covariance_a)
    inner = scale[:, None] * (basis.T @ covariance_b @ basis) * scale
    root_trace = np.sqrt(np.linalg.eigvalsh((inner + inner.T) / 2).clip(min=0)).sum()
    offset = mean_a - mean_b
    return float(offset @ offset + np.trace(covariance_a) + np.trace(covariance_b) - 2 * root_trace)


def frechet_influence(features: np.ndarray, own: Moments, other: Moments) -> np.ndarray:
    """What each sample of features [n, d] adds to n times the Frechet distance, to first order: [n], mean 0.

    `own` are the moments of these features. Their covariance S_a moves the distance by tr((1 - A) dS_a) with
    A the matrix of the optimal map to the other Gaussian, their mean by 2 (mu_a - mu_b) dmu_a. So a bootstrap
    of these numbers' mean around the distance is one of the distance itself, without a decomposition for each
    resample. It vanishes where both sets have the same moments.
    """
    (mean_a, covariance_a), (mean_b, covariance_b) = own, other
    scale, basis = _root(covariance_a)
    inner, turned = np.linalg.eigh(scale[:, None] * (basis.T @ covariance_b @ basis) * scale)
    # 1 - A in that basis, A = S_a^(-1/2) (S_a^(1/2) S_b S_a^(1/2))^(1/2) S_a^(-1/2)
    excess = np.eye(len(scale)) - (turned * np.sqrt(inner.clip(min=0))) @ turned.T / np.outer(scale, scale)
    excess *= len(features) / (len(features) - 1)  # as the covariance is divided
    influence = np.empty(len(features))
    for start in range(0, len(features), ROWS_AT_ONCE):
        centred = features[start : start + ROWS_AT_ONCE].astype(np.float64) - mean_a
        inside = centred @ basis
        squares = ((inside @ excess) * inside).sum(axis=1)
        influence[start : start + ROWS_AT_ONCE] = squares + 2 * centred @ (mean_a - mean_b)
    return influence - influence.mean()


def _root(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Roots of the eigenvalues [k] and their vectors [d, k], without those that are 0 but for rounding.

    Of fewer samples than dimensions most are, and the root of rounding is not small: 1e-8 for 1e-16.
    """
    values, vectors = np.linalg.eigh(covariance)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return np.sqrt(values[kept]), vectors[:, kept]


def moments(features: np.ndarray) -> Moments:
    """Mean and covariance of features [n, d]; ValueError for fewer than two."""
    count, width = features.shape
    if count < 2:
        raise ValueError(f"frechet_distance: {count} samples, needs at least 2")
    mean = features.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((width, width))
    for start in range(0, count, ROWS_AT_ONCE):
        centred = features[start : start + ROWS_AT_ONCE].astype(np.float64) - mean
        covariance += centred.T @ centred
    return mean, covariance / (count - 1)


def inception_score(
    logits: np.ndarray, splits: int = 10, shuffle: bool = True, seed: int = 2020
) -> tuple[float, float]:
    """Mean and population standard deviation over splits of exp(mean KL(p(y|x) || p(y))); `logits` [n,
    classes].

    torch-fidelity shuffles with RandomState(2020), the defaults here; the ADM evaluator does not shuffle.
    """
    count = len(logits)
    if not 1 <= splits <= count:
        raise ValueError(f"inception_score: splits {splits}, allowed: 1 to the number of samples {count}")
    ordered = np.asarray(logits, dtype=np.float64)
    if shuffle:
        ordered = ordered[np.random.RandomState(seed).permutation(count)]
    shifted = ordered - ordered.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    scores = []
    for index in range(splits):
        part = slice(index * count // splits, (index + 1) * count // splits)
        marginal = p[part].mean(axis=0, keepdims=True)
        # A class with probability 0 in the whole split adds nothing (0 * log 0).
        log_marginal = np.log(np.where(marginal > 0, marginal, 1.0))
        divergence = (p[part] * (log_p[part] - log_marginal)).sum(axis=1).mean()
        scores.append(np.exp(divergence))
    return float(np.mean(scores)), float(np.std(scores))
