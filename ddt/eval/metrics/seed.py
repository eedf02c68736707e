"""SEED-Bench: choice of an option from a generated letter or from the losses of the options."""

from collections.abc import Sequence

LETTERS = "ABCD"


def seed_letter(prediction: str) -> str:
    """First character of the stripped prediction ("" if there is none); "(A)" therefore counts as "("."""
    return prediction.strip()[:1]


def seed_rank(losses: Sequence[float]) -> str:
    """Letter of the option with the lowest loss (answer ranking, the official way); the first on a tie."""
    values = [float(loss) for loss in losses]
    if not 1 <= len(values) <= len(LETTERS):
        raise ValueError(f"seed_rank: {len(values)} losses, allowed: 1 to {len(LETTERS)}")
    return LETTERS[values.index(min(values))]
