"""T2I-CompBench's attribute and spatial categories on scenes, the detector answering for BLIP and UniDet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ddt.eval.benchmark import (
    Benchmark,
    Case,
    Row,
    Score,
    column,
    grouped_scores,
    make_case,
    make_row,
    ordered,
    task_groups,
)
from ddt.eval.metrics import t2i_blip_vqa, t2i_spatial
from ddt.eval.report.pictures import png_bytes, rgb_array
from ddt.eval.round_trip import tokenized
from ddt.eval.statistics import shuffled_within
from ddt.scenes.detect import Detection, detect
from ddt.scenes.render import render
from ddt.scenes.sample import HELD_OUT_KINDS, SEEN_KINDS, pick, scene_from_spec
from ddt.scenes.words import article
from ddt.scenes.world import SHAPES, TEXTURES, Object

CATEGORIES = ("color", "shape", "texture", "spatial")
UNSEEN = "color_unseen"  # the one category whose prompts name a colour and a shape
# The official wording, and the relation of the world that makes it true.
LOCALITIES = {
    "on the left of": "left of",
    "on the right of": "right of",
    "on the top of": "above",
    "on the bottom of": "below",
}
MIN_SCORE = 0.3  # of a detection, as in GenEval
UNIDET_PX = 479  # the side at which the official detector sees an image


class T2I(Benchmark):
    """Two objects a prompt, `cases` in equal parts over the categories, and half a part of unseen colours."""

    name = "t2i"
    title = "Text to image: T2I-CompBench's categories on scenes"
    protocol = (
        "The product of the answers to each noun phrase (BLIP-VQA's aggregation, the detector answering 1 "
        "or 0) for colour, shape and texture; the 2D-spatial score for positions, in its wording. "
        "Non-spatial and complex prompts have no counterpart in this world. One image a prompt instead of "
        "ten. Combinations of colour and shape held out of training are told apart."
    )

    def cases(self) -> list[Case]:
        per_category = -(-self.num_cases // len(CATEGORIES))
        counts = dict.fromkeys(CATEGORIES, per_category) | {UNSEEN: -(-per_category // 2)}
        cases: list[Case] = []
        for number, (category, count) in enumerate(counts.items()):
            for index in range(count):
                groups, locality = _spec(category, index, self.rng(number, index))
                phrases = [article(_phrase(group)) for group in groups]
                prompt = f" {locality or 'and'} ".join(phrases)
                data = {"groups": groups, "locality": locality, "phrases": phrases}
                unseen = category == UNSEEN
                cases.append(make_case(self.name, len(cases), category, prompt, "", data, self.seed, unseen))
        return cases

    def target(self, case: Case) -> np.ndarray:
        """A picture that fulfils the prompt, uint8 HWC."""
        data = json.loads(case["data"])
        rng = np.random.default_rng(case["seed"])
        if not data["locality"]:
            return render(scene_from_spec(rng, data["groups"]), self.image_size)
        relation = LOCALITIES[data["locality"]]
        across = relation in ("left of", "right of")
        while True:
            # GenEval's relation may hold on a diagonal; this benchmark wants its axis to dominate.
            scene = scene_from_spec(rng, data["groups"], relation=(0, relation, 1))
            one, other = scene.objects
            dx, dy = abs(one.x - other.x), abs(one.y - other.y)
            if (dx if across else dy) > 1.1 * (dy if across else dx):
                return render(scene, self.image_size)

    def run_batch(self, model: Any, cases: Sequence[Case]) -> list[Row]:
        images = model.generate_image(
            [case["prompt"] for case in cases],
            seed=[case["seed"] for case in cases],
            num_steps=self.decode_steps,
        )
        targets = [self.target(case) for case in cases]
        again = tokenized(model, cases, targets, self.decode_steps)
        return list(map(self._row, cases, images, targets, again))

    def _row(self, case: Case, image: Image.Image, target: np.ndarray, again: np.ndarray) -> Row:
        result = rgb_array(image)
        score = self.score(case, result)
        found = ", ".join(f"{d.texture} {d.color} {d.shape}" for d in detect(result) if d.score > MIN_SCORE)
        return make_row(
            case,
            image=png_bytes(result),
            target=png_bytes(target),
            correct=score,
            reason="" if score > 0.9 else f"score {score:.2f}, found {found or 'nothing'}",
            values={"ceiling": self.score(case, target), "tokenized": self.score(case, again)},
        )

    def score(self, case: Case, image_HWC: np.ndarray) -> float:
        """The official score of one picture for the case's prompt, 0..1."""
        data, found = json.loads(case["data"]), detect(image_HWC)
        if data["locality"] is None:
            answers = [
                float(any(_matches(item, group) for item in found if item.score > MIN_SCORE))
                for group in data["groups"]
            ]
            return t2i_blip_vqa([data["phrases"]], [answers])[0]
        scale = UNIDET_PX / image_HWC.shape[0]
        boxes = [[item.shape, *(scale * value for value in item.box), item.score] for item in found]
        tokens = [(word, "NOUN" if word in SHAPES else "X") for word in case["prompt"].split()]
        return t2i_spatial(case["prompt"], tokens, boxes)

    def summarize(self, rows: Sequence[Row]) -> dict[str, Score]:
        rows = ordered(rows)
        # Among the prompts of a category, as the official files are one for each.
        partners = shuffled_within([row["task"] for row in rows], self.seed)
        shuffled = [
            self.score(row, rgb_array(rows[other]["image"]))
            for row, other in zip(rows, partners, strict=True)
        ]
        return grouped_scores(
            task_groups(rows, "t2i/"),
            np.array([row["correct"] for row in rows]),
            np.array(column(rows, "ceiling")),
            {"shuffled images": np.array(shuffled)},
            seed=self.seed,
            tokenized=np.array(column(rows, "tokenized")),
        )


def _spec(category: str, index: int, rng: np.random.Generator) -> tuple[list[dict[str, str]], str | None]:
    """Two groups with the attributes that the category names, of different shapes."""
    first = pick(rng, HELD_OUT_KINDS if category == UNSEEN else SEEN_KINDS)
    second = pick(rng, [kind for kind in SEEN_KINDS if kind[0] != first[0] and kind[1] != first[1]])
    if category == UNSEEN and index % 2:
        first, second = second, first
    groups = [{"shape": shape} for _, shape in (first, second)]
    if category in ("color", UNSEEN):
        groups = [group | {"color": kind[0]} for group, kind in zip(groups, (first, second), strict=True)]
    if category == "texture":
        textures = TEXTURES[1:] if rng.random() < 0.5 else TEXTURES[:0:-1]
        groups = [group | {"texture": each} for group, each in zip(groups, textures, strict=True)]
    return groups, list(LOCALITIES)[index % len(LOCALITIES)] if category == "spatial" else None


def _phrase(group: dict[str, str]) -> str:
    return " ".join(group[key] for key in ("texture", "color", "shape") if key in group)


def _matches(item: Detection | Object, group: dict[str, str]) -> bool:
    return all(getattr(item, key) == value for key, value in group.items())
