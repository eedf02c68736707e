"""Captions of scenes: CIDEr against several references, and whether every phrase is exactly true."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ddt.eval.benchmark import (
    UNSEEN_SHARE,
    Benchmark,
    Case,
    Row,
    Score,
    column,
    grouped_scores,
    make_case,
    make_row,
    ordered,
    seen_groups,
)
from ddt.eval.metrics import cider
from ddt.eval.metrics.caption import HIGHEST
from ddt.eval.report.pictures import BLANK_GREY, png_bytes
from ddt.eval.statistics import SHARE, shuffled_partners
from ddt.scenes.photo import photograph
from ddt.scenes.sample import sample_scene
from ddt.scenes.text import short_caption
from ddt.scenes.words import NUMBER_WORDS, plural
from ddt.scenes.world import (
    BACKGROUNDS,
    COLORS,
    EVALUATION_PARTS,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Object,
    Scene,
    group_relations,
    scene_from_dict,
)

REFERENCES = 5  # as many as a Flickr30K image has


def _any(words: Sequence[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_NOUNS = {noun: shape for shape in SHAPES for noun in (shape, plural(shape))}
_PHRASE = re.compile(
    rf"(?P<count>an?|{_any(NUMBER_WORDS[2:])}) (?:(?P<size>{_any(SIZES)}) )?"
    rf"(?:(?P<texture>{_any(TEXTURES)}) )?(?:(?P<color>{_any(COLORS)}) )?(?P<noun>{_any(list(_NOUNS))})\b"
)
_RELATION = re.compile(rf" (?:to the )?(?P<relation>{_any(RELATIONS)}) ")
_BACKGROUND = re.compile(rf"on an? (?P<background>{_any(BACKGROUNDS)}) background")


def caption_fault(caption: str, scene: Scene) -> str:
    """Why a short caption is not exactly true of a scene, or "" if it is.

    True are a caption's counts, attributes, relation and background, and every object must be covered.
    """
    covered: set[Object] = set()
    groups: list[tuple[re.Match[str], list[Object]]] = []
    for phrase in _PHRASE.finditer(caption):
        members = [item for item in scene.objects if _fits(phrase, item)]
        wanted = 1 if phrase["count"] in ("a", "an") else NUMBER_WORDS.index(phrase["count"])
        if len(members) != wanted:
            return f"{phrase.group()!r}: the picture has {len(members)}"
        covered.update(members)
        groups.append((phrase, members))
    if not groups:
        return "names no object"
    for (left, group_a), (right, group_b) in zip(groups, groups[1:], strict=False):
        found = _RELATION.fullmatch(caption[left.end() : right.start()])
        if found and found["relation"] not in group_relations(group_a, group_b):
            return f"{left.group()!r} is not {found['relation']} {right.group()!r}"
    ground = _BACKGROUND.search(caption)
    if ground and ground["background"] != scene.background:
        return f"the background is {scene.background}"
    return (
        ""
        if len(covered) == len(scene.objects)
        else f"{len(scene.objects) - len(covered)} objects unmentioned"
    )


def _fits(phrase: re.Match[str], item: Object) -> bool:
    if _NOUNS[phrase["noun"]] != item.shape:
        return False
    return all(phrase[key] in (None, getattr(item, key)) for key in ("size", "texture", "color"))


class Captioning(Benchmark):
    """One short caption of each scene."""

    name = "caption"
    title = "Captioning"
    protocol = (
        "CIDEr (coco-caption, on its own scale; papers print 100 times it) against five references, idf "
        "from this set's references. Ceiling: a sixth reference. Floors: captions of other pictures, and "
        "the model's caption of a plain grey picture. `caption/true`: every phrase exactly true and every "
        "object covered."
    )

    def cases(self) -> list[Case]:
        cases = []
        for index in range(self.num_cases):
            rng = self.rng(index)
            unseen = rng.random() < UNSEEN_SHARE
            scene = sample_scene(rng, held_out=unseen, parts=EVALUATION_PARTS)
            references = [short_caption(scene, rng) for _ in range(REFERENCES + 1)]
            data = {"scene": scene.to_dict(), "references": references[:-1], "sixth": references[-1]}
            task = f"{len(scene.objects)} objects"
            cases.append(make_case(self.name, index, task, "", references[0], data, self.seed, unseen))
        return cases

    def run_batch(self, model: Any, cases: Sequence[Case]) -> list[Row]:
        scenes = [scene_from_dict(json.loads(case["data"])["scene"]) for case in cases]
        pictures = [photograph(scene, self.image_size) for scene in scenes]
        # One more, plain grey: what the model says of nothing. It is the same in every batch.
        blank = np.full_like(pictures[0], BLANK_GREY)
        images = [Image.fromarray(picture) for picture in [*pictures, blank]]
        *captions, blind = model.caption(images, seed=[*(case["seed"] for case in cases), self.seed])
        rows = []
        for case, scene, picture, caption in zip(cases, scenes, pictures, captions, strict=True):
            fault = caption_fault(caption, scene)
            rows.append(
                make_row(
                    case,
                    output=caption,
                    source=png_bytes(picture),
                    correct=not fault,
                    reason=fault,
                    values={"blind": blind},
                )  # fmt: skip
            )
        return rows

    def summarize(self, rows: Sequence[Row]) -> dict[str, Score]:
        rows = ordered(rows)
        data = [json.loads(row["data"]) for row in rows]
        scenes = [scene_from_dict(item["scene"]) for item in data]
        said, sixth = [row["output"] for row in rows], [item["sixth"] for item in data]
        partners = shuffled_partners(len(rows), self.seed)
        shuffled, blind = [said[other] for other in partners], column(rows, "blind")
        references = {index: item["references"] for index, item in enumerate(data)}

        def per_image(captions: Sequence[str]) -> np.ndarray:
            return np.array(list(cider(references, dict(enumerate(captions)))[1].values()))

        def truth(captions: Sequence[str]) -> np.ndarray:
            return np.array(
                [not caption_fault(c, scene) for c, scene in zip(captions, scenes, strict=True)], float
            )

        scores: dict[str, Score] = {}
        for name, measure, span in (
            ("caption/cider", per_image, (0.0, HIGHEST)), ("caption/true", truth, SHARE),
        ):  # fmt: skip
            floors = {
                "captions of other pictures": measure(shuffled),
                "caption of a grey picture": measure(blind),
            }
            groups = seen_groups(rows, name)
            scores |= grouped_scores(groups, measure(said), measure(sixth), floors, seed=self.seed, span=span)
        return scores
