"""What every benchmark is: cases, a run that gives rows, and a summary with its controls.

Cases and rows are flat dicts of plain values, so that any engine can ship, store and resume them:

case: case_id, task, unseen (shows a held-out combination), prompt, expected, seed (of sampling), data (JSON)
row:  the case's columns, and output (text), image, target, source (PNG or empty), correct (0..1, nan where
      nothing is right or wrong), reason (why not), values (JSON: what the summary needs)
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from ddt.eval.statistics import SHARE, bootstrap, mean_of

Case = dict[str, Any]
Row = dict[str, Any]
T = TypeVar("T")

NOT_SEEN = "question without the picture"  # the floor of questions, by a plain grey picture
UNSEEN_SHARE = 0.25  # of cases that show a (colour, shape) combination held out of all training data


@dataclass(frozen=True)
class Score:
    """One number with what it has to be read against.

    `low` and `high` are the bounds of its 95 % bootstrap interval over `n` cases, equal where it has none.
    `ceiling` is what ground truth scores through the same scorer, and `tokenized_ceiling`, of pictures that
    a model draws, what ground truth scores that the image tokenizer has encoded and decoded. `floor` is the
    best of the baselines named in `floor_is`. `baseline` is what another method has, named in `baseline_is`,
    that is no floor: it may be better by this measure, or as good.
    """

    value: float
    low: float
    high: float
    n: int
    ceiling: float | None = None
    floor: float | None = None
    floor_is: str = ""
    higher_is_better: bool = True
    tokenized_ceiling: float | None = None
    baseline: float | None = None
    baseline_is: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Benchmark(ABC):
    """A benchmark; its cases depend on nothing but what it was made with.

    `needs_scenes` says that it needs the exact ground truth of scenes, so it can't run on photographs.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    needs_scenes: ClassVar[bool] = True
    # A line for people: how it is scored and in what it differs from the published benchmark.
    protocol: ClassVar[str]

    def __init__(self, cases: int, seed: int, image_size: int, decode_steps: int | None = None) -> None:
        self.num_cases, self.seed = cases, seed
        self.image_size, self.decode_steps = image_size, decode_steps

    @abstractmethod
    def cases(self) -> list[Case]:
        """All cases, the same for the same settings."""

    @abstractmethod
    def run_batch(self, model: Any, cases: Sequence[Case]) -> list[Row]:
        """Outputs of the model for some cases, scored as far as one case goes."""

    @abstractmethod
    def summarize(self, rows: Sequence[Row]) -> dict[str, Score]:
        """Scores by name (`family/metric`) of all rows, in any order of rows."""

    def run(self, model: Any, cases: Sequence[Case], batch_size: int) -> list[Row]:
        """Rows of all cases, `batch_size` at a time. A row does not depend on its batch."""
        return [row for batch in batches(cases, batch_size) for row in self.run_batch(model, batch)]

    def rng(self, *key: int) -> np.random.Generator:
        """The random numbers of one case."""
        return np.random.default_rng([self.seed, *key])


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive parts of at most `size` items."""
    if size < 1:
        raise ValueError(f"batch_size: got {size}, must be at least 1")
    for start in range(0, len(items), size):
        yield items[start : start + size]


def make_case(
    benchmark: str,
    index: int,
    task: str,
    prompt: str,
    expected: str,
    data: Any,
    seed: int,
    unseen: bool = False,
) -> Case:
    """A case; its sampling seed follows from the benchmark's and its index."""
    sampling_seed = int(np.random.default_rng([seed, index, 1]).integers(2**31))
    return {
        "case_id": f"{benchmark}-{index:05d}", "task": task, "unseen": unseen, "prompt": prompt,
        "expected": expected, "seed": sampling_seed, "data": json.dumps(data),
    }  # fmt: skip


def make_row(
    case: Case,
    *,
    output: str = "",
    image: bytes = b"",
    target: bytes = b"",
    source: bytes = b"",
    correct: float = float("nan"),
    reason: str = "",
    values: Mapping[str, Any] | None = None,
) -> Row:
    """A row of a case."""
    return case | {
        "output": output, "image": image, "target": target, "source": source,
        "correct": float(correct), "reason": reason, "values": json.dumps(dict(values or {})),
    }  # fmt: skip


def ordered(rows: Sequence[Row]) -> list[Row]:
    """Rows by case; ValueError if there is none or a case occurs twice."""
    if not rows:
        raise ValueError("no rows to summarise")
    found = sorted(rows, key=lambda row: row["case_id"])
    for one, other in zip(found, found[1:], strict=False):
        if one["case_id"] == other["case_id"]:
            raise ValueError(f"case {one['case_id']} occurs twice among the rows")
    return found


def column(rows: Sequence[Row], name: str) -> list[Any]:
    """One entry of every row's `values`; ValueError where one has none, as rows of another version may."""
    try:
        return [json.loads(row["values"])[name] for row in rows]
    except KeyError:
        raise ValueError(f"rows have no {name!r}: made by another version; run `ddt evaluate`") from None


def mean_score(
    values: ArrayLike,
    ceiling: ArrayLike | None = None,
    floors: Mapping[str, ArrayLike] | None = None,
    higher_is_better: bool = True,
    seed: int = 0,
    span: tuple[float, float] | None = SHARE,
    tokenized: ArrayLike | None = None,
) -> Score:
    """Mean of per-case values with interval; the ceilings' means and the best of the baselines' means.

    `span`: the lowest and highest value a case can have, None where there are no such ends.
    """
    numbers = np.asarray(values, dtype=np.float64)
    low, high = bootstrap(mean_of(numbers), len(numbers), seed, span)
    named = {name: float(np.mean(np.asarray(floor, float))) for name, floor in (floors or {}).items()}
    best = (max if higher_is_better else min)(named, key=lambda name: named[name]) if named else ""
    return Score(
        float(numbers.mean()), low, high, len(numbers),
        ceiling=_mean(ceiling), floor=named.get(best), floor_is=best, higher_is_better=higher_is_better,
        tokenized_ceiling=_mean(tokenized),
    )  # fmt: skip


def _mean(values: ArrayLike | None) -> float | None:
    return None if values is None else float(np.mean(np.asarray(values, float)))


def with_floor(score: Score, floor: float, floor_is: str) -> Score:
    """The score with one more baseline beside it, which is its floor where it is the best of them."""
    better = max if score.higher_is_better else min
    if score.floor is not None and better(score.floor, floor) == score.floor:
        return score
    return replace(score, floor=floor, floor_is=floor_is)


def grouped_scores(
    groups: Mapping[str, np.ndarray],
    values: np.ndarray,
    ceiling: np.ndarray,
    floors: Mapping[str, np.ndarray],
    higher_is_better: bool = True,
    seed: int = 0,
    span: tuple[float, float] | None = SHARE,
    tokenized: np.ndarray | None = None,
) -> dict[str, Score]:
    """`mean_score` of the cases of each group (name -> bool per case); groups without cases are left out."""
    return {
        name: mean_score(
            values[chosen],
            ceiling[chosen],
            {k: v[chosen] for k, v in floors.items()},
            higher_is_better,
            seed,
            span,
            None if tokenized is None else tokenized[chosen],
        )
        for name, chosen in groups.items()
        if chosen.any()
    }


def seen_groups(rows: Sequence[Row], name: str) -> dict[str, np.ndarray]:
    """The groups `name`, `name`_seen and `name`_unseen of rows."""
    unseen = np.array([bool(row["unseen"]) for row in rows])
    return {name: np.ones(len(rows), bool), f"{name}_seen": ~unseen, f"{name}_unseen": unseen}


def task_groups(rows: Sequence[Row], prefix: str) -> dict[str, np.ndarray]:
    """One group for each task, in order of first appearance."""
    tasks = np.array([row["task"] for row in rows])
    return {prefix + task: tasks == task for task in dict.fromkeys(tasks.tolist())}
