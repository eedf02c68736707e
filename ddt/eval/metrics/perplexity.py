"""Token-weighted perplexity in float64."""

from typing import Any

import numpy as np


def token_nll(logits: Any, targets: Any, ignore_index: int | None = None) -> tuple[float, int]:
    """Sum of the negative log likelihoods (nats) and the number of counted tokens.

    `logits` [..., V], `targets` [...] integers (numpy or torch). Sum both over a set's batches and take
    exp(sum / count): the mean of batch perplexities is another, wrong number.
    """
    logits_NV = _array(logits, np.float64)
    vocabulary = logits_NV.shape[-1]
    targets_N = _array(targets, np.int64).reshape(-1)
    logits_NV = logits_NV.reshape(-1, vocabulary)
    if len(logits_NV) != len(targets_N):
        raise ValueError(f"perplexity: {len(logits_NV)} positions of logits for {len(targets_N)} targets")
    if ignore_index is not None:
        keep_N = targets_N != ignore_index
        logits_NV, targets_N = logits_NV[keep_N], targets_N[keep_N]
    if len(targets_N) == 0:
        return 0.0, 0
    if targets_N.min() < 0 or targets_N.max() >= vocabulary:
        raise ValueError(f"perplexity: target outside 0..{vocabulary - 1}")
    top_N1 = logits_NV.max(axis=-1, keepdims=True)
    log_sum_N = np.log(np.exp(logits_NV - top_N1).sum(axis=-1)) + top_N1[:, 0]
    nll_N = log_sum_N - logits_NV[np.arange(len(targets_N)), targets_N]
    return float(nll_N.sum()), len(targets_N)


def perplexity(logits: Any, targets: Any, ignore_index: int | None = None) -> float:
    """exp(sum of NLL / number of tokens), tokens equal to `ignore_index` left out. ValueError if none is
    left.
    """
    total, count = token_nll(logits, targets, ignore_index)
    if count == 0:
        raise ValueError("perplexity: no token to count")
    with np.errstate(over="ignore"):
        return float(np.exp(total / count))


def _array(values: Any, dtype: Any) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu().double() if dtype is np.float64 else values.detach().cpu()
    return np.asarray(values, dtype=dtype)
