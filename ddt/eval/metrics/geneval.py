"""GenEval: verdict on one image from its detections, and the summary over tasks, as officially done."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

THRESHOLD = 0.3
COUNTING_THRESHOLD = 0.9
MAX_OBJECTS = 16
POSITION_THRESHOLD = 0.1
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")

# One kept object: its box and score as float32 [5], and the colour that the classifier gives it.
Found = tuple[np.ndarray, str]


def geneval_relations(box_a: Sequence[float] | np.ndarray, box_b: Sequence[float] | np.ndarray) -> set[str]:
    """Relations of A to B: a subset of "left of", "right of", "above", "below" (two on a diagonal).

    Boxes are (x1, y1, x2, y2, ...), x to the right and y down. The centre offset is shortened by a tenth of
    the summed sizes and divided by the norm of the original offset; a relation holds above 0.5.
    """
    boxes = np.array([box_a[:4], box_b[:4]], dtype=np.float32).reshape(2, 2, 2)
    center_a, center_b = boxes.mean(axis=-2)
    size_a, size_b = np.abs(np.diff(boxes, axis=-2))[..., 0, :]
    offset = center_a - center_b
    shortened = np.maximum(np.abs(offset) - POSITION_THRESHOLD * (size_a + size_b), 0) * np.sign(offset)
    if np.all(np.abs(shortened) < 1e-3):
        return set()
    dx, dy = shortened / np.linalg.norm(offset)
    holds = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {relation for relation, true in holds.items() if true}


def geneval_evaluate(
    metadata: Mapping[str, Any], detections: Sequence[Sequence[Any]], max_overlap: float = 1.0
) -> tuple[bool, str]:
    """Whether one image fulfils `metadata` (a line of evaluation_metadata.jsonl), and the reasons if not.

    A detection is [class, x1, y1, x2, y2, score, colour the classifier would give the crop]. Kept are, for
    each class, scores above 0.3 (0.9 for the tag "counting"; strict, in float32), at most 16; overlapping
    boxes are suppressed only if `max_overlap` < 1. Colour and position look at the first `count` objects
    only. In the reason, several relations found are joined in alphabetical order (officially in the order of
    a set).
    """
    objects = _kept_objects(detections, metadata["tag"], max_overlap)
    reasons: list[str] = []
    matched_groups: list[list[Found] | None] = []
    for wanted in metadata.get("include", ()):
        found = objects.get(wanted["class"], [])[: wanted["count"]]
        failures = _failures(wanted, found, matched_groups)
        reasons += failures
        matched_groups.append(None if failures else found)
    for unwanted in metadata.get("exclude", ()):
        number = len(objects.get(unwanted["class"], []))
        if number >= unwanted["count"]:
            reasons.append(f"expected {unwanted['class']}<{unwanted['count']}, found {number}")
    return not reasons, "\n".join(reasons)


def _kept_objects(
    detections: Sequence[Sequence[Any]], tag: str, max_overlap: float
) -> dict[str, list[Found]]:
    by_class: dict[str, list[Sequence[Any]]] = {}
    for detection in detections:
        by_class.setdefault(detection[0], []).append(detection)
    threshold = COUNTING_THRESHOLD if tag == "counting" else THRESHOLD
    return {name: _filtered(rows, threshold, max_overlap) for name, rows in by_class.items()}


def _filtered(rows: Sequence[Sequence[Any]], threshold: float, max_overlap: float) -> list[Found]:
    boxes = np.array([row[1:6] for row in rows], dtype=np.float32)
    # Reversed ascending order, as officially: of equal scores the later detection comes first.
    order = np.argsort(boxes[:, 4], kind="stable")[::-1]
    order = order[boxes[order, 4] > np.float32(threshold)][:MAX_OBJECTS]
    kept: list[int] = []
    for index in order.tolist():
        if max_overlap == 1 or all(_iou(boxes[other], boxes[index]) < max_overlap for other in kept):
            kept.append(index)
    return [(boxes[index], rows[index][6] if len(rows[index]) > 6 else "") for index in kept]


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union with the +1 pixel rule (COCO-style inclusive corners)."""
    inner = _area(np.concatenate([np.maximum(a[:2], b[:2]), np.minimum(a[2:4], b[2:4])]))
    union = _area(a) + _area(b) - inner
    return inner / union if union else 0.0


def _area(box: np.ndarray) -> float:
    return max(box[2] - box[0] + 1, 0) * max(box[3] - box[1] + 1, 0)


def _failures(
    wanted: Mapping[str, Any], found: list[Found], matched_groups: list[list[Found] | None]
) -> list[str]:
    """Reasons why one include entry is not fulfilled; empty if it is. Position is checked only if colour
    holds.
    """
    name, count = wanted["class"], wanted["count"]
    if len(found) < count:
        return [f"expected {name}>={count}, found {len(found)}"]
    if "color" in wanted:
        colors = [color for _, color in found]
        right = colors.count(wanted["color"])
        if right < count:
            listed = ", ".join(f"{colors.count(color)} {color}" for color in COLORS if color in colors)
            return [
                f"expected {wanted['color']} {name}>={count}, found {right} {wanted['color']}; and {listed}"
            ]
    if "position" in wanted:
        relation, target = wanted["position"]
        return _position_failures(name, relation, found, matched_groups[target])
    return []


def _position_failures(name: str, relation: str, found: list[Found], target: list[Found] | None) -> list[str]:
    if target is None:
        return [f"no target for {name} to be {relation}"]
    for box, _ in found:
        for target_box, _ in target:
            relations = geneval_relations(box, target_box)
            if relation not in relations:
                return [f"expected {name} {relation} target, found {' and '.join(sorted(relations))} target"]
    return []


def geneval_summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Share of correct images of each tag, and "overall" = unweighted mean of the tags (not of images)."""
    if not rows:
        raise ValueError("geneval_summary: no rows")
    by_tag: dict[str, list[bool]] = {}
    for row in rows:
        by_tag.setdefault(row["tag"], []).append(bool(row["correct"]))
    scores = {tag: sum(correct) / len(correct) for tag, correct in by_tag.items()}
    return {**scores, "overall": sum(scores.values()) / len(scores)}
