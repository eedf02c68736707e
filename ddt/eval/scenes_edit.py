"""Editing of scenes against the one picture that the instruction asks for."""

from __future__ import annotations

import json
from collections import Counter
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
    mean_score,
    ordered,
    seen_groups,
    task_groups,
)
from ddt.eval.metrics import image_l1, psnr
from ddt.eval.pictures import png_bytes, rgb_array
from ddt.eval.placement import Wanted, placed
from ddt.eval.statistics import shuffled_partners
from ddt.scenes.detect import read
from ddt.scenes.edits import EDIT_KINDS, sample_edit
from ddt.scenes.photo import photograph
from ddt.scenes.render import render
from ddt.scenes.world import EVALUATION_PARTS, Scene, scene_from_dict

MIN_SCORE = 0.3  # of a detection, as in GenEval
MAX_OFFSET = 0.125  # of an object's centre on each axis, in image sides: 4 px of 32
PSNR_OF_EQUAL = 60.0  # dB; equal pictures have infinite PSNR, which no mean survives


def edit_faults(image_HWC: np.ndarray, target: Scene) -> list[str]:
    """How what the detector reads in a picture differs from the target scene; [] if it does not."""
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
        places = [Wanted(item.color, item.shape, item.x, item.y) for item in target.objects]
        faults = [
            f"{item.color} {item.shape} is not at its place"
            for item, is_there in zip(
                places, placed(places, found, image_HWC.shape[0], MAX_OFFSET), strict=True
            )
            if not is_there
        ]
    return faults


def _decibel(a: np.ndarray, b: np.ndarray) -> float:
    return min(psnr(a, b), PSNR_OF_EQUAL)


class Editing(Benchmark):
    """Instructions of every kind in equal parts."""

    name = "edit"
    title = "Image editing"
    protocol = (
        "L1 as MagicBrush's evaluator (0..1; papers print 100 times it) and PSNR against the exact target; "
        "success where the detector reads the target scene: background, objects, colours, places. Floors: "
        "the unchanged source, and other cases' results."
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
        rows = []
        for case, item, source, image in zip(cases, data, sources, images, strict=True):
            rows.append(self._row(case, scene_from_dict(item["target"]), source, rgb_array(image)))
        return rows

    def _row(self, case: Case, target: Scene, source: np.ndarray, result: np.ndarray) -> Row:
        exact = render(target, self.image_size)
        faults = edit_faults(result, target)
        values = {
            "l1": image_l1(result, exact),
            "psnr": _decibel(result, exact),
            "ceiling": float(not edit_faults(exact, target)),
            "unchanged": float(not edit_faults(source, target)),
            "unchanged_l1": image_l1(source, exact),
            "unchanged_psnr": _decibel(source, exact),
        }
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
        values = {
            name: np.array(column(rows, name))
            for name in ("l1", "psnr", "ceiling", "unchanged", "unchanged_l1", "unchanged_psnr")
        }
        correct, ones = np.array([row["correct"] for row in rows]), np.ones(len(rows))

        def floors(own: str, other: str) -> dict[str, np.ndarray]:
            return {"source unchanged": values[own], "other results": shuffled[other]}

        groups = seen_groups(rows, "edit/success") | task_groups(rows, "edit/")
        scores = grouped_scores(
            groups, correct, values["ceiling"], floors("unchanged", "success"), seed=self.seed
        )
        scores["edit/l1"] = mean_score(values["l1"], 0 * ones, floors("unchanged_l1", "l1"), False, self.seed)
        scores["edit/psnr"] = mean_score(
            values["psnr"], PSNR_OF_EQUAL * ones, floors("unchanged_psnr", "psnr"), seed=self.seed,
            span=(0.0, PSNR_OF_EQUAL),
        )  # fmt: skip
        return scores

    def _shuffled(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        """Each case scored with another case's result."""
        partners = shuffled_partners(len(rows), self.seed)
        results = [rgb_array(rows[other]["image"]) for other in partners]
        exact = [rgb_array(row["target"]) for row in rows]
        targets = [scene_from_dict(json.loads(row["data"])["target"]) for row in rows]
        pairs = list(zip(results, exact, strict=True))
        return {
            "success": np.array(
                [not edit_faults(r, t) for r, t in zip(results, targets, strict=True)], float
            ),
            "l1": np.array([image_l1(a, b) for a, b in pairs]),
            "psnr": np.array([_decibel(a, b) for a, b in pairs]),
        }
