"""One benchmark from its files to a result that says what it was measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddt.eval.benchmark import NOT_SEEN, with_floor
from ddt.eval.official.case import Judged, Official
from ddt.eval.official.files import digest_of
from ddt.eval.official.problems import Problems
from ddt.eval.report.results import spread
from ddt.eval.scorers import Scorers
from ddt.eval.statistics import RESAMPLES

COMPLETE_FILES = "generate from complete files"
PARTIAL = "--partial scores what is there and prints the coverage"

INTERVAL = f"95 % bootstrap over cases, {RESAMPLES} resamples of seed 0; rule of three where all are equal"


def evaluate(benchmark: Official, outputs: Path, scorers: Scorers, partial: bool = False) -> dict[str, Any]:
    """Scores of an outputs folder, with coverage, problems, settings, scorer models and data digests.

    Raises IncompleteError unless the set is complete, or `partial` is given and some case has an output.
    """
    if not outputs.is_dir():
        raise ValueError(f"{outputs}: no such folder of outputs")
    found_problems = Problems()
    found = benchmark.found(outputs, found_problems)
    problems = benchmark.problems.merged(found_problems)
    if not partial:
        problems.refuse(PARTIAL)
    if not found:
        problems.refuse("no case is left to score")
    scored = benchmark.score(found, scorers)
    guessed = benchmark.without_picture(outputs, found, problems)
    blind = benchmark.score(guessed, scorers).scores if guessed else {}
    scores = {
        name: with_floor(score, blind[name].value, NOT_SEEN) if name in blind else score
        for name, score in scored.scores.items()
    }
    cases = benchmark.published or len(benchmark.cases)
    return {
        "benchmark": benchmark.name,
        "scores": {name: score.to_dict() for name, score in scores.items()},
        "without_the_picture": {name: score.to_dict() for name, score in blind.items()},
        "coverage": {"scored": len(found), "cases": cases, "share": len(found) / cases},
        "problems": problems.to_dict(),
        "settings": dict(benchmark.settings),
        "ceiling": benchmark.ceiling_is,
        "interval": INTERVAL,
        "scorers": scorers.used,
        "data": {str(path): digest_of(path) for path in benchmark.files},
        "examples": _examples(benchmark, found, scored.judged),
    }


def _examples(
    benchmark: Official, found: Mapping[str, Any], judged: Sequence[Judged]
) -> dict[str, list[dict[str, Any]]]:
    """Some cases that are right and some that are wrong, for people, taking turns between the groups."""
    return {
        name: [_example(benchmark, found[each.case.id], each) for each in spread(chosen, by_group)]
        for name, chosen in (
            ("right", sorted((each for each in judged if each.right), key=lambda each: -each.value)),
            ("wrong", sorted((each for each in judged if not each.right), key=lambda each: each.value)),
        )
    }


def by_group(judged: Judged) -> str:
    """What examples take turns between."""
    return judged.case.group


def _example(benchmark: Official, output: Any, judged: Judged) -> dict[str, Any]:
    case = judged.case
    images = {} if isinstance(output, str) else {"image": str(output)}
    for key, name in (("source", case.image), ("target", case.target)):
        if name and benchmark.images_folder is not None:
            images[key] = str(benchmark.image_path(name))
    return {
        "case": case.id, "task": case.group, "prompt": case.text, "value": judged.value,
        "output": output if isinstance(output, str) else "", "reason": judged.reason, "images": images,
    }  # fmt: skip
