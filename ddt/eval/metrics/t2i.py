"""T2I-CompBench: 2D-spatial (UniDet), BLIP-VQA and 3-in-1 scores from what their models found."""

from collections.abc import Mapping, Sequence

import numpy as np

NEAR = ("next to", "on side of", "near")
# Searched in this order; "on top of" is recognised but has no rule, so it scores 0 (official behaviour).
LOCALITIES = (
    "on side of", "next to", "near", "on the left of", "on the right of",
    "on the bottom of", "on the top of", "on top of",
)  # fmt: skip
# Sign of (second centre - first centre) and the axis (0 is x, 1 is y down) that each relation asks for.
DIRECTIONS = {
    "on the right of": (-1, 0),
    "on the left of": (1, 0),
    "on the bottom of": (-1, 1),
    "on the top of": (1, 1),
}
COMPLEX_PREPOSITIONS = (
    "on top of", "on bottom of", "on the left", "on the right", "next to", "on side of", "near",
)  # fmt: skip
PERSONS = ("girl", "boy", "man", "woman")
MIN_IOU = 0.1
NEAR_PX = 150
SKIPPED_CHUNKS = ("top", "the side", "the left", "the right")
MAX_CHUNKS = 8

Box = Mapping[str, float]


def t2i_position(locality: str | None, box1: Box, box2: Box) -> float:
    """Score 0..1 of a relation between boxes {x_min, y_min, x_max, y_max} in pixels of an image of about 479
    px.

    Near: 1 if the centres are less than 150 px apart on either axis, else 150 / the larger distance.
    Directions: the right side and a strictly dominant axis give 1, or 0.1 / IoU once the IoU reaches 0.1.
    Boxes without area count as not overlapping (the official code divides by zero there).
    """
    dx = (box2["x_min"] + box2["x_max"]) / 2 - (box1["x_min"] + box1["x_max"]) / 2
    dy = (box2["y_min"] + box2["y_max"]) / 2 - (box1["y_min"] + box1["y_max"]) / 2
    if locality in NEAR:
        close = abs(dx) < NEAR_PX or abs(dy) < NEAR_PX
        return 1.0 if close else NEAR_PX / max(abs(dx), abs(dy))
    if locality not in DIRECTIONS:
        return 0.0
    sign, axis = DIRECTIONS[locality]
    main, other = (dx, dy) if axis == 0 else (dy, dx)
    if main * sign <= 0 or abs(main) <= abs(other):
        return 0.0
    iou = _iou(box1, box2)
    return 1.0 if iou < MIN_IOU else MIN_IOU / iou


def _iou(box1: Box, box2: Box) -> float:
    width = max(0.0, min(box1["x_max"], box2["x_max"]) - max(box1["x_min"], box2["x_min"]))
    height = max(0.0, min(box1["y_max"], box2["y_max"]) - max(box1["y_min"], box2["y_min"]))
    area1 = (box1["x_max"] - box1["x_min"]) * (box1["y_max"] - box1["y_min"])
    area2 = (box2["x_max"] - box2["x_min"]) * (box2["y_max"] - box2["y_min"])
    union = area1 + area2 - width * height
    return width * height / union if union else 0.0


def t2i_spatial(
    prompt: str,
    tokens: Sequence[tuple[str, str]],
    detections: Sequence[Sequence],
    complex_prompt: bool = False,
) -> float:
    """2D-spatial score of one image: 0.25 of each object's detection score + 0.5 of the position, 0 below
    0.5.

    `prompt` is cut at the first underscore (the official file name rule), `tokens` are (text, part of speech)
    of it, `detections` [label, x1, y1, x2, y2, score] in the detector's order, of which the first with a
    label counts. The objects are the first and the last NOUN; with `complex_prompt` those around the
    preposition, and exactly two or none. Numbers pass through float32, as the detector's tensors do.
    """
    prompt = prompt.split("_", 1)[0]
    names = _complex_objects(tokens) if complex_prompt else _simple_objects(tokens)
    locality = next((word for word in LOCALITIES if word in prompt), None)
    first = [_first_detection(detections, name) for name in names]
    found = [detection for detection in first if detection is not None]
    score = sum(0.25 * float(np.float32(detection[5])) for detection in found)
    if len(found) < 2:
        # One object alone is worth at most 0.25, which is below the cut.
        return 0.0
    score += t2i_position(locality, _box(found[0]), _box(found[1])) / 2
    return score if score >= 0.5 else 0.0


def _simple_objects(tokens: Sequence[tuple[str, str]]) -> list[str]:
    nouns = [text for text, part in tokens if part == "NOUN"]
    return [nouns[0], nouns[-1]] if nouns else []


def _complex_objects(tokens: Sequence[tuple[str, str]]) -> list[str]:
    """The noun before and the noun after each preposition of the list; [] unless that makes exactly two."""
    texts = [text for text, _ in tokens]
    objects: list[str] = []
    for start in range(len(tokens)):
        length = next((n for n in (3, 2, 1) if " ".join(texts[start : start + n]) in COMPLEX_PREPOSITIONS), 0)
        if length:
            before = [text for text, part in tokens[:start] if part in ("NOUN", "PROPN")]
            objects += before[-1:] + _object_after(tokens[start + length :])
    return objects if len(objects) == 2 else []


def _object_after(tokens: Sequence[tuple[str, str]]) -> list[str]:
    nouns = [text for text, part in tokens if part == "NOUN"]
    if nouns:
        return nouns[:1]
    # Without a noun: the last word of the first proper name, if something follows it.
    ends = [
        text
        for (text, part), (_, following) in zip(tokens, tokens[1:], strict=False)
        if part == "PROPN" and following != "PROPN"
    ]
    return ends[:1]


def _first_detection(detections: Sequence[Sequence], name: str) -> Sequence | None:
    label = "person" if name in PERSONS else name
    return next((detection for detection in detections if detection[0] == label), None)


def _box(detection: Sequence) -> dict[str, float]:
    corners = (float(np.float32(value)) for value in detection[1:5])
    return dict(zip(("x_min", "y_min", "x_max", "y_max"), corners, strict=True))


def t2i_blip_vqa(noun_chunks: Sequence[Sequence[str]], p_yes: Sequence[Sequence[float | str]]) -> list[float]:
    """BLIP-VQA score of each image: product over its noun chunks of P(yes), with 4 decimals.

    The chunks "top", "the side", "the left" and "the right" are dropped, then at most 8 asked; `p_yes[i][j]`
    is the answer (already 4 decimals) for the j-th chunk left. The product is taken in float32.
    """
    if len(noun_chunks) != len(p_yes):
        raise ValueError(f"t2i_blip_vqa: {len(noun_chunks)} images with chunks, {len(p_yes)} with answers")
    scores = []
    for chunks, answers in zip(noun_chunks, p_yes, strict=True):
        asked = min(MAX_CHUNKS, sum(chunk not in SKIPPED_CHUNKS for chunk in chunks))
        if len(answers) < asked:
            raise ValueError(f"t2i_blip_vqa: {asked} noun chunks but {len(answers)} answers")
        product = np.float32(1)
        for answer in answers[:asked]:
            product *= np.float32(answer)
        scores.append(float(f"{product:.4f}"))
    return scores


def t2i_three_in_one(
    complex_val: Sequence[str],
    complex_val_spatial: Sequence[str],
    complex_val_action: Sequence[str],
    attribute: Sequence[float],
    spatial: Sequence[float],
    action: Sequence[float],
) -> list[float]:
    """3-in-1 score of each image, in prompt order with the same number of images for each prompt (officially
    10).

    A prompt in the spatial list takes the mean of spatial and attribute, one in the action list of action and
    attribute, any other the mean of all three. Prompts are compared up to the first period, lower-cased.
    """
    lengths = {len(attribute), len(spatial), len(action)}
    if not complex_val or len(lengths) != 1 or len(attribute) % len(complex_val):
        raise ValueError(f"t2i_three_in_one: {sorted(lengths)} scores for {len(complex_val)} prompts")
    per_prompt = len(attribute) // len(complex_val)
    spatial_keys = {_key(line) for line in complex_val_spatial}
    action_keys = {_key(line) for line in complex_val_action}
    scores: list[float] = []
    for index, line in enumerate(complex_val):
        for image in range(index * per_prompt, (index + 1) * per_prompt):
            if _key(line) in spatial_keys:
                scores.append((spatial[image] + attribute[image]) * 0.5)
            elif _key(line) in action_keys:
                scores.append((action[image] + attribute[image]) * 0.5)
            else:
                scores.append((attribute[image] + spatial[image] + action[image]) / 3)
    return scores


def _key(line: str) -> str:
    return line.strip("\n").split(".")[0].lower()
