"""Editing of scenes against the one picture that the instruction asks for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
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
    mean_score,
    ordered,
    seen_groups,
    task_groups,
)
from ddt.eval.metrics import image_l1, psnr
from ddt.eval.report.pictures import png_bytes, rgb_array
from ddt.eval.round_trip import tokenized
from ddt.eval.scenes.placement import Wanted, around, placed
from ddt.eval.statistics import shuffled_partners
from ddt.scenes.detect import read
from ddt.scenes.edits import EDIT_KINDS, sample_edit
from ddt.scenes.photo import photograph
from ddt.scenes.render import render
from ddt.scenes.world import EVALUATION_PARTS, Scene, place, place_box, scene_from_dict

MIN_SCORE = 0.3  # of a detection, as in GenEval
PSNR_OF_EQUAL = 60.0  # dB; equal pictures have infinite PSNR, which no mean survives


def edit_faults(image_HWC: np.ndarray, source: Scene, target: Scene) -> list[str]:
    """How what the detector reads in a picture differs from what was asked; [] if it does not.

    Asked is no more than the instruction says: what it adds or moves may be anywhere in the place named.
    """
    reading = read(image_HWC)
    found = [item for item in reading.detections if item.score > MIN_SCORE]
    faults = []
    if reading.background != target.background:
        faults.append(f"background {reading.background}, expected {target.background}")
    wanted = Counter(item.kind for item in target.objects)
    seen = Counter((item.color, item.shape) for item in found)
    faults += [f"missing {count} {' '.join(kind)}" for kind, count in (wanted - seen).items()]
    faults += [f"unexpected {count} {' '.join(kind)}" for kind, count in (seen - wanted).items()]
    if not faults:
        asked = wanted_objects(source, target)
        there = placed(asked, found, image_HWC.shape[0])
        faults = [
            " ".join(filter(None, (item.size, item.color, item.shape, "is not at its place")))
            for item, is_there in zip(asked, there, strict=True)
            if not is_there
        ]
    return faults


def wanted_objects(source: Scene, target: Scene) -> list[Wanted]:
    """The objects of `target`: those that have not moved where they were, others in the place they went to.

    An instruction names the size of what it adds, and of nothing else.
    """
    stayed = {(item.x, item.y) for item in source.objects}
    added = len(target.objects) > len(source.objects)
    wanted = []
    for item in target.objects:
        if (item.x, item.y) in stayed:
            wanted.append(Wanted(item.color, item.shape, around(item.x, item.y)))
        else:
            size = item.size if added else None
            wanted.append(Wanted(item.color, item.shape, place_box(place(item)), size))
    return wanted


def _scenes(data: Mapping[str, Any]) -> tuple[Scene, Scene]:
    """Source and target of a case's data."""
    return scene_from_dict(data["source"]), scene_from_dict(data["target"])


def _decibel(a: np.ndarray, b: np.ndarray) -> float:
    return min(psnr(a, b), PSNR_OF_EQUAL)


class Editing(Benchmark):
    """Instructions of every kind in equal parts."""

    name = "edit"
    title = "Image editing"
    protocol = (
        "L1 as MagicBrush's evaluator (0..1; papers print 100 times it) and PSNR against the exact target; "
        "success where the detector reads the target scene: background, objects, colours, places (for what "
        "was added or moved the ninth of the picture that was named). Floors: the unchanged source, other "
        "cases' results."
    )

    def cases(self) -> list[Case]:
        cases = []
        for index in range(self.num_cases):
            rng, kind = self.rng(index), EDIT_KINDS[index % len(EDIT_KINDS)]
            unseen = rng.random() < UNSEEN_SHARE
            edit = sample_edit(rng, kind=kind, held_out=unseen, parts=EVALUATION_PARTS)
            data = {"source": edit.source.to_dict(), "target": edit.target.to_dict()}
            cases.append(make_case(self.name, index, kind, edit.instruction, "", data, self.seed, unseen))
        return cases

    def run_batch(self, model: Any, cases: Sequence[Case]) -> list[Row]:
        data = [json.loads(case["data"]) for case in cases]
        sources = [photograph(scene_from_dict(item["source"]), self.image_size) for item in data]
        images = model.edit_image(
            [Image.fromarray(source) for source in sources],
            [case["prompt"] for case in cases],
            seed=[case["seed"] for case in cases],
            num_steps=self.decode_steps,
        )
        exact = [render(_scenes(item)[1], self.image_size) for item in data]
        again = tokenized(model, cases, exact, self.decode_steps)
        return list(map(self._row, cases, sources, map(rgb_array, images), exact, again))

    def _row(
        self, case: Case, source: np.ndarray, result: np.ndarray, exact: np.ndarray, again: np.ndarray
    ) -> Row:
        scenes = _scenes(json.loads(case["data"]))
        faults = edit_faults(result, *scenes)
        values = {"l1": image_l1(result, exact), "psnr": _decibel(result, exact)}
        values["ceiling"] = float(not edit_faults(exact, *scenes))
        for name, image in (("unchanged", source), ("tokenized", again)):
            values[name] = float(not edit_faults(image, *scenes))
            values[f"{name}_l1"], values[f"{name}_psnr"] = image_l1(image, exact), _decibel(image, exact)
        return make_row(
            case,
            image=png_bytes(result),
            target=png_bytes(exact),
            source=png_bytes(source),
            correct=not faults,
            reason="; ".join(faults),
            values=values,
        )

    def summarize(self, rows: Sequence[Row]) -> dict[str, Score]:
        rows = ordered(rows)
        shuffled = self._shuffled(rows)
        names = ("l1", "psnr", "ceiling", "unchanged", "unchanged_l1", "unchanged_psnr", "tokenized")
        values = {name: np.array(column(rows, name)) for name in (*names, "tokenized_l1", "tokenized_psnr")}
        correct, ones = np.array([row["correct"] for row in rows]), np.ones(len(rows))

        def floors(own: str, other: str) -> dict[str, np.ndarray]:
            return {"source unchanged": values[own], "other results": shuffled[other]}

        groups = seen_groups(rows, "edit/success") | task_groups(rows, "edit/")
        scores = grouped_scores(
            groups, correct, values["ceiling"], floors("unchanged", "success"), seed=self.seed,
            tokenized=values["tokenized"],
        )  # fmt: skip
        scores["edit/l1"] = mean_score(
            values["l1"], 0 * ones, floors("unchanged_l1", "l1"), False, self.seed,
            tokenized=values["tokenized_l1"],
        )  # fmt: skip
        scores["edit/psnr"] = mean_score(
            values["psnr"], PSNR_OF_EQUAL * ones, floors("unchanged_psnr", "psnr"), seed=self.seed,
            span=(0.0, PSNR_OF_EQUAL), tokenized=values["tokenized_psnr"],
        )  # fmt: skip
        return scores

    def _shuffled(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        """Each case scored with another case's result."""
        partners = shuffled_partners(len(rows), self.seed)
        results = [rgb_array(rows[other]["image"]) for other in partners]
        exact = [rgb_array(row["target"]) for row in rows]
        asked = [_scenes(json.loads(row["data"])) for row in rows]
        pairs = list(zip(results, exact, strict=True))
        return {
            "success": np.array(
                [not edit_faults(r, *scenes) for r, scenes in zip(results, asked, strict=True)], float
            ),
            "l1": np.array([image_l1(a, b) for a, b in pairs]),
            "psnr": np.array([_decibel(a, b) for a, b in pairs]),
        }
