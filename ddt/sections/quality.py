"""What a model is worth: evaluate, promote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ddt.config import Count, Range

# Known here, without what computes them, so that a wrong name is told before a run and not at its end.
BenchmarkName = Literal[
    "reconstruct",
    "recursion",
    "geneval",
    "t2i",
    "vqa",
    "pope",
    "mme",
    "choice",
    "caption",
    "edit",
    "perplexity",
]


@dataclass(frozen=True)
class EvaluateParams:
    """Benchmarks and the cases of each; `questions` of those that only ask, which takes less time."""

    benchmarks: tuple[BenchmarkName, ...]
    cases: Count
    questions: Count
    seed: int
    batch_size: Count
    decode_steps: Count


@dataclass(frozen=True)
class PromoteParams:
    """A candidate becomes champion if every check holds for the worse bound of the metric's 95 % interval.

    That is the lower bound, which must reach `min_metric`, or, where lower is better, the upper one, which
    `max_metric` limits. `max_drop`: by how much it may be worse than the same bound of the champion.
    """

    min_metric: dict[str, float]
    max_metric: dict[str, float]
    max_drop: dict[str, Annotated[float, Range(0)]]
