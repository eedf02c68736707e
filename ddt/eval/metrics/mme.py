"""MME perception and cognition, as the official calculation.py scores result files."""

from collections.abc import Mapping, Sequence
from typing import Any

PERCEPTION = (
    "existence", "count", "position", "color", "posters",
    "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def mme_parse(text: str) -> str:
    """ "yes", "no" or "other" (always wrong), from the first four characters, unstripped.

    So "know" and "snow" read as no, and an answer after two leading blanks as other: official behaviour.
    """
    start = text.lower()[:4]
    if "yes" in start:
        return "yes"
    return "no" if "no" in start else "other"


def mme(files: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Scores result lines "image<TAB>question<TAB>answer<TAB>prediction" of each category.

    Two consecutive lines belong to one image. A category scores 100 x accuracy + 100 x share of images with
    both right. Returns {"per_category": {name: score}, "perception": sum, "cognition": sum} over the
    categories given. A category with only "other" answers scores 0 (the official tool crashes there).

    Raises ValueError naming category and line if a line is malformed, their number is odd, or a category is
    unknown or empty.
    """
    unknown = [name for name in files if name not in PERCEPTION + COGNITION]
    if unknown:
        raise ValueError(
            f"mme: unknown category {unknown[0]!r}, allowed: {', '.join(PERCEPTION + COGNITION)}"
        )
    scores = {category: _category_score(category, lines) for category, lines in files.items()}
    return {
        "per_category": scores,
        "perception": sum(scores.get(name, 0.0) for name in PERCEPTION),
        "cognition": sum(scores.get(name, 0.0) for name in COGNITION),
    }


def _category_score(category: str, lines: Sequence[str]) -> float:
    if not lines:
        raise ValueError(f"mme: category {category!r} has no lines")
    if len(lines) % 2:
        raise ValueError(f"mme: {category} line {len(lines)} has no second question of its image")
    right = [_is_right(category, number, line) for number, line in enumerate(lines, start=1)]
    pairs = [right[start : start + 2] for start in range(0, len(right), 2)]
    accuracy = sum(right) / len(right)
    accuracy_plus = sum(sum(pair) == 2 for pair in pairs) / len(pairs)
    return 100 * accuracy + 100 * accuracy_plus


def _is_right(category: str, number: int, line: str) -> bool:
    columns = line.split("\t")
    if len(columns) != 4:
        raise ValueError(
            f"mme: {category} line {number} has {len(columns)} columns separated by tabs, needs 4"
        )
    label = columns[2].lower()
    if label not in ("yes", "no"):
        raise ValueError(f"mme: {category} line {number} has the answer {columns[2]!r}, allowed: Yes, No")
    return mme_parse(columns[3]) == label
