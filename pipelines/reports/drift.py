"""What has changed since the version before: of a stage's numbers, and of a distribution."""

from __future__ import annotations

import numpy as np

from pipelines.reports.report import Report

APART = ("cost/", "overhead/")  # how it went, not what was made


def drift_table(now: Report, before: Report) -> list[list[str]]:
    """Each number of both that is another now, the largest relative change first; or headings alone."""
    changed = []
    for name, value in now.metrics.items():
        old = before.metrics.get(name)
        if old is not None and old != value and not name.startswith(APART):
            changed.append((abs(value - old) / max(abs(old), abs(value)), name, old, value))
    rows = [
        [name, f"{old:.6g}", f"{value:.6g}", f"{(value - old) / abs(old):+.1%}" if old else "new"]
        for _, name, old, value in sorted(changed, reverse=True)
    ]
    return [["metric", "before", "now", "change"], *rows]


def distribution_distance(counts: np.ndarray, others: np.ndarray) -> float:
    """Of two histograms over the same bins: the largest difference of their cumulative shares, 0 to 1
    (Kolmogorov and Smirnov's).
    """
    shares, other_shares = (np.cumsum(c) / max(1, c.sum()) for c in (counts, others))
    return float(np.abs(shares - other_shares).max())
