"""What a model is worth: evaluate, promote."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from ddt.config import ConfigError, Count, Range

Finite = Annotated[float, Range(-sys.float_info.max, sys.float_info.max)]
Margin = Annotated[float, Range(0, sys.float_info.max)]

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

    That is the lower bound, or, where lower is better, the upper one. It must be better by `min_above_floor`
    than the floor measured with the metric (VQA: the answers without the picture), reach `min_metric` or stay
    within `max_metric`, and be worse by at most `max_drop` than the same bound of the champion.
    """

    min_above_floor: dict[str, Margin]
    min_metric: dict[str, Finite]
    max_metric: dict[str, Finite]
    max_drop: dict[str, Margin]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            for metric in getattr(self, field.name):
                benchmark, slash, name = metric.partition("/")
                if benchmark not in get_args(BenchmarkName) or not (slash and name):
                    raise ConfigError(
                        f"promote.{field.name}.{metric}: expected a metric as vqa/accuracy, of one of "
                        f"{', '.join(get_args(BenchmarkName))}"
                    )
