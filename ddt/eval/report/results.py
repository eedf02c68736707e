"""Results of a benchmark as a table and as contact sheets; the page is in `page.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from PIL import Image

from ddt.eval.benchmark import Benchmark, Row, Score, ordered
from ddt.eval.report.pictures import grid, rgb_array

EXAMPLES = 8  # of successes, and of failures

T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """One benchmark's outcome."""

    name: str
    title: str
    protocol: str
    scores: dict[str, Score]
    successes: list[Row] = field(default_factory=list)
    failures: list[Row] = field(default_factory=list)
    pictures: Mapping[str, Image.Image] = field(default_factory=dict)  # by title, in place of examples

    @classmethod
    def of(cls, benchmark: Benchmark, rows: Sequence[Row]) -> Result:
        """The benchmark's summary of the rows, and some rows to look at."""
        rows = ordered(rows)
        if np.isnan([row["correct"] for row in rows]).all():
            right, wrong = spread(rows, task_of), []
        else:
            right = spread([row for row in rows if row["correct"] == 1], task_of)
            wrong = spread([row for row in rows if row["correct"] < 1], task_of)
        scores = benchmark.summarize(rows)
        return cls(benchmark.name, benchmark.title, benchmark.protocol, scores, right, wrong)


def task_of(row: Row) -> str:
    """What examples take turns between."""
    return str(row["task"])


def spread(items: Iterable[T], task: Callable[[T], str], count: int = EXAMPLES) -> list[T]:
    """At most `count` items, the first of each task first, so that each is seen; task by task."""
    by_task: dict[str, list[T]] = {}
    for item in items:
        by_task.setdefault(task(item), []).append(item)
    turns = max((len(members) for members in by_task.values()), default=0)
    mixed = [members[turn] for turn in range(turns) for members in by_task.values() if turn < len(members)]
    return sorted(mixed[:count], key=lambda item: list(by_task).index(task(item)))


HEADER = ["score", "value", "95 % interval", "n", "floor", "ceiling", "through the tokenizer"]
BASELINE = "baseline"


def score_table(scores: Mapping[str, Score]) -> list[list[str]]:
    """The scores with their controls as text, the first row being the header.

    There is a column of baselines where some score has one.
    """
    compared = any(score.baseline is not None for score in scores.values())
    rows = [[*HEADER, BASELINE] if compared else HEADER]
    for name, score in scores.items():
        interval = f"{number(score.low)} to {number(score.high)}"
        floor = _named(score.floor, score.floor_is)
        ceilings = [number(score.ceiling), number(score.tokenized_ceiling)]
        baseline = [_named(score.baseline, score.baseline_is)] if compared else []
        rows.append([name, number(score.value), interval, str(score.n), floor, *ceilings, *baseline])
    return rows


def _named(value: float | None, what: str) -> str:
    return number(value) + (f" ({what})" if what else "")


def number(value: float | None) -> str:
    """Three decimals, one for large numbers, nothing for None."""
    if value is None:
        return ""
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}"


def row_pictures(row: Row) -> list[Image.Image]:
    """The row's pictures in reading order: source, output, target; those there are."""
    return [Image.fromarray(rgb_array(row[key])) for key in ("source", "image", "target") if row[key]]


def row_text(row: Row) -> str:
    """What was asked, what came out and what the scorer says, in one line."""
    parts = [row["prompt"], f"-> {row['output']}" if row["output"] else "", row["reason"]]
    return " | ".join(part for part in parts if part)


def example_sheet(result: Result) -> Image.Image | None:
    """A contact sheet of successes and failures for a card; None where no row has a picture."""
    pictures, titles = [], []
    for verdict, rows in (("right", result.successes), ("wrong", result.failures)):
        for row in rows:
            found = row_pictures(row)
            if found:
                pictures.append(side_by_side(found))
                judged = not np.isnan(row["correct"])
                titles.append(f"{verdict}: {row_text(row)}" if judged else row_text(row) or row["task"])
    return grid(pictures, titles, columns=4, cell_px=192) if pictures else None


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one height in a line, a little apart."""
    height = images[0].height
    gap = max(1, height // 16)
    sheet = Image.new("RGB", (sum(image.width + gap for image in images) - gap, height), "white")
    x = 0
    for image in images:
        sheet.paste(image, (x, 0))
        x += image.width + gap
    return sheet
