"""SEED-Bench: choice of an option from a generated letter or from the losses of the options."""

from collections.abc import Sequence

import numpy as np

LETTERS = "ABCD"


def seed_letter(prediction: str) -> str:
    """First character of the stripped prediction ("" if there is none); "(A)" therefore counts as "("."""
    return prediction.strip()[:1]


def seed_rank(losses: Sequence[float]) -> str:
    """Letter of the option with the lowest loss (answer ranking, the official way).

    The first on a tie; a loss that is no number comes last, as the official argsort puts it.
    """
    if not 1 <= len(losses) <= len(LETTERS):
        raise ValueError(f"seed_rank: {len(losses)} losses, allowed: 1 to {len(LETTERS)}")
    return LETTERS[int(np.argsort(np.asarray(losses, dtype=np.float64), kind="stable")[0])]
