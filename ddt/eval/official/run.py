"""One benchmark from its files to a result that says what it was measured on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddt.eval.official.case import Official
from ddt.eval.official.files import digest_of
from ddt.eval.official.problems import Problems
from ddt.eval.scorers import Scorers

PARTIAL = "--partial scores what is there and prints the coverage"


def generate(benchmark: Official, model: Any, outputs: Path, batch_size: int) -> int:
    """Let `model` make what is missing in `outputs`, in the official layout; returns how many it made.

    Raises IncompleteError where the data files themselves are not complete.
    """
    benchmark.problems.refuse("generate from complete files")
    return benchmark.generate(model, outputs, batch_size)


def evaluate(benchmark: Official, outputs: Path, scorers: Scorers, partial: bool = False) -> dict[str, Any]:
    """Scores of an outputs folder, with coverage, problems, settings, scorer models and data digests.

    Raises IncompleteError unless the set is complete or `partial` is given.
    """
    if not outputs.is_dir():
        raise ValueError(f"{outputs}: no such folder of outputs")
    found_problems = Problems()
    found = benchmark.found(outputs, found_problems)
    problems = benchmark.problems.merged(found_problems)
    if not partial:
        problems.refuse(PARTIAL)
    scores = benchmark.score(found, scorers)
    cases = benchmark.published or len(benchmark.cases)
    return {
        "benchmark": benchmark.name,
        "scores": {name: score.to_dict() for name, score in scores.items()},
        "coverage": {"scored": len(found), "cases": cases, "share": len(found) / cases},
        "problems": problems.to_dict(),
        "settings": dict(benchmark.settings),
        "scorers": scorers.used,
        "data": {str(path): digest_of(path) for path in benchmark.files},
    }
