"""What official scorers made elsewhere: verdicts, scores and detections, checked when they are read.

Each function raises ValueError naming the file, and the line or item, where it holds anything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ddt.eval.official.fields import BOOL, NUMBER, TEXT, WHOLE, Kind
from ddt.eval.official.files import json_lines, json_of, records_of
from ddt.eval.official.problems import Problems

AGAIN = "run the official script again"
GENEVAL_ROW = ("class", "x1", "y1", "x2", "y2", "score", "colour")
UNIDET_ROW = ("label", "x1", "y1", "x2", "y2", "score")

Verdict = tuple[bool, str]  # whether it is right, and why not


def read_verdicts(path: Path, images: Sequence[Path]) -> list[Verdict]:
    """GenEval's (evaluate_images.py's results.jsonl) on some images, by the image's folder and name."""
    problems = Problems()
    stored: dict[tuple[str, ...], Verdict] = {}
    for _, where, item in json_lines(path, problems, {"filename": TEXT, "correct": BOOL}, {"reason": TEXT}):
        key = _tail(item["filename"])
        if key in stored:
            problems.add("second verdict on an image", f"{where}: {item['filename']}")
        stored[key] = item["correct"], item.get("reason", "")
    problems.refuse(AGAIN)
    missing = [image for image in images if _tail(str(image)) not in stored]
    if missing:
        raise ValueError(f"{path}: no verdict on {len(missing)} images, first {missing[0]}")
    return [stored[_tail(str(image))] for image in images]


def _tail(filename: str) -> tuple[str, ...]:
    return Path(filename).parts[-3:]


def read_scores(path: Path, ids: Sequence[int]) -> list[float]:
    """T2I-CompBench's (vqa_result.json: [{question_id, answer}], a number or its text) of some images."""
    problems = Problems()
    stored: dict[int, float] = {}
    fields = {"question_id": WHOLE, "answer": Kind("a finite number or its text", _is_finite)}
    for _, where, item in records_of(path, json_of(path), problems, fields):
        if item["question_id"] in stored:
            problems.add("second score of an image", f"{where}: {item['question_id']}")
        stored[item["question_id"]] = float(item["answer"])
    problems.refuse(AGAIN)
    missing = [key for key in ids if key not in stored]
    if missing:
        raise ValueError(f"{path}: no score of {len(missing)} images, first {missing[0]:06d}")
    return [stored[key] for key in ids]


def _is_finite(value: Any) -> bool:
    if not isinstance(value, str):
        return NUMBER.holds(value)
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def read_detections(path: Path, names: Iterable[str], row: Sequence[str]) -> dict[str, list[list[Any]]]:
    """Detections in the images of `names`; `row` tells what one holds, in order.

    All are finite numbers but `class`, `label` and `colour`, which are texts; a last `colour` may be absent.
    """
    stored = json_of(path)
    if not isinstance(stored, dict):
        raise ValueError(f"{path}: expected detections by image, found {type(stored).__name__}")
    wanted = list(dict.fromkeys(names))
    missing = [name for name in wanted if name not in stored]
    if missing:
        raise ValueError(f"{path}: no detections of {len(missing)} images, first {missing[0]}")
    for name in wanted:
        rows = stored[name]
        wrong = 1 if not isinstance(rows, list) else _first_wrong(rows, row)
        if wrong:
            raise ValueError(f"{path}: {name}, detection {wrong}: expected a list of [{', '.join(row)}]")
    return {name: stored[name] for name in wanted}


def _first_wrong(rows: Sequence[Any], row: Sequence[str]) -> int:
    """Number of the first that is not as `row` tells, from 1; 0 if all are."""
    return next((number for number, each in enumerate(rows, start=1) if not _is_row(each, row)), 0)


def _is_row(value: Any, row: Sequence[str]) -> bool:
    lengths = {len(row), len(row) - ("colour" in row)}
    return (
        isinstance(value, list)
        and len(value) in lengths
        and all(
            (TEXT if name in ("class", "label", "colour") else NUMBER).holds(each)
            for name, each in zip(row, value, strict=False)
        )
    )
