"""The report of an evaluation as files: JSON for machines, one HTML page for people, sheets for cards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ddt.eval.benchmark import Benchmark, Row, Score
from ddt.eval.page import to_html
from ddt.eval.results import Result, example_sheet, scores_to_json


def write_json(
    path: str | Path,
    scores: Mapping[str, Score],
    left_out: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Scores with their controls, what was left out and why, and the settings they depend on."""
    data = {
        "settings": dict(settings or {}),
        "does_not_apply": dict(left_out or {}),
        "scores": scores_to_json(scores),
    }
    Path(path).write_text(json.dumps(data, indent=1) + "\n")


def write_html(
    path: str | Path,
    benchmarks: Sequence[Benchmark],
    rows: Mapping[str, Sequence[Row]],
    scores: Mapping[str, Score],
    left_out: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """The page: tables of scores beside floor, ceiling and the paper's numbers, and pictured examples.

    `rows` holds each benchmark's rows by its name, `scores` those of all benchmarks by `family/metric`.
    """
    results = [
        Result.of(benchmark, rows[benchmark.name], own_scores(benchmark, scores)) for benchmark in benchmarks
    ]
    Path(path).write_text(to_html(results, settings or {}, left_out))


def example_grid(benchmark: Benchmark, rows: Sequence[Row]) -> Image.Image:
    """Contact sheet of a benchmark's successes and failures; ValueError where its rows have no pictures."""
    sheet = example_sheet(Result.of(benchmark, rows, {}))
    if sheet is None:
        raise ValueError(f"{benchmark.name}: its rows have no pictures")
    return sheet


def own_scores(benchmark: Benchmark, scores: Mapping[str, Score]) -> dict[str, Score]:
    """Those of `scores` that are the benchmark's."""
    return {name: score for name, score in scores.items() if name.startswith(benchmark.name + "/")}
