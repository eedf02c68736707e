"""GenEval's six tasks on scenes: prompts and metadata of the official form, the official verdict, and the
analytic detector in place of Mask2Former and CLIP."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ddt.eval.benchmark import Benchmark, Case, Row, Score, column, make_case, make_row, mean_score, ordered
from ddt.eval.metrics import geneval_evaluate, geneval_summary
from ddt.eval.report.pictures import png_bytes, rgb_array
from ddt.eval.round_trip import tokenized
from ddt.eval.statistics import bootstrap, shuffled_partners
from ddt.scenes.detect import detect
from ddt.scenes.render import render
from ddt.scenes.sample import HELD_OUT_KINDS, SEEN_KINDS, pick, scene_from_spec
from ddt.scenes.words import article, counted
from ddt.scenes.world import RELATIONS, SHAPES

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
UNSEEN_TASKS = ("colors_unseen", "color_attr_unseen")
COUNTS = (2, 3, 4)
Spec = tuple[str, list[dict[str, Any]]]  # what the prompt asks for, and the include entries


def detections(image_HWC: np.ndarray) -> list[list[Any]]:
    """The detector's finds in GenEval's form: [class, x1, y1, x2, y2, score, colour]."""
    return [[found.shape, *found.box, found.score, found.color] for found in detect(image_HWC)]


class GenEval(Benchmark):
    """`cases` prompts in equal parts over the six tasks, and beside them half a part for each unseen task."""

    name = "geneval"
    title = "Text to image: GenEval's tasks on scenes"
    protocol = (
        "Prompts, metadata and verdict of GenEval; one image a prompt instead of four; the analytic "
        "detector of the scenes' world instead of Mask2Former and CLIP. Combinations held out of training "
        "are told apart and not in the overall score."
    )

    def cases(self) -> list[Case]:
        per_task = -(-self.num_cases // len(TASKS))
        counts = dict.fromkeys(TASKS, per_task) | dict.fromkeys(UNSEEN_TASKS, -(-per_task // 2))
        cases: list[Case] = []
        for number, (task, count) in enumerate(counts.items()):
            for index in range(count):
                asked, include = _spec(task, index, self.rng(number, index))
                cases.append(self._case(len(cases), task, asked, include))
        return cases

    def _case(self, index: int, task: str, asked: str, include: list[dict[str, Any]]) -> Case:
        unseen = task in UNSEEN_TASKS
        metadata = {"tag": task.removesuffix("_unseen"), "include": include, "prompt": f"a photo of {asked}"}
        if task == "counting":
            metadata["exclude"] = [{"class": item["class"], "count": item["count"] + 1} for item in include]
        expected = json.dumps(include)
        return make_case(
            self.name, index, task, str(metadata["prompt"]), expected, metadata, self.seed, unseen
        )

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
        metadata = json.loads(case["data"])
        found = detections(rgb_array(image))
        correct, reason = geneval_evaluate(metadata, found)
        ceilings = [float(geneval_evaluate(metadata, detections(each))[0]) for each in (target, again)]
        return make_row(
            case, image=png_bytes(image), target=png_bytes(target), correct=correct, reason=reason,
            values={"detections": found, "ceiling": ceilings[0], "tokenized": ceilings[1]},
        )  # fmt: skip

    def target(self, case: Case) -> np.ndarray:
        """A picture that fulfils the prompt, uint8 HWC."""
        include = json.loads(case["data"])["include"]
        groups = [
            {"shape": item["class"], "count": item["count"], "color": item.get("color")} for item in include
        ]
        placed = next(((i, item["position"]) for i, item in enumerate(include) if "position" in item), None)
        relation = (placed[0], placed[1][0], placed[1][1]) if placed else None
        scene = scene_from_spec(np.random.default_rng(case["seed"]), groups, relation=relation)
        return render(scene, self.image_size)

    def summarize(self, rows: Sequence[Row]) -> dict[str, Score]:
        rows = ordered(rows)
        partners = shuffled_partners(len(rows), self.seed)
        finds, correct = column(rows, "detections"), np.array([row["correct"] for row in rows])
        ceiling, reached = np.array(column(rows, "ceiling")), np.array(column(rows, "tokenized"))
        shuffled = np.array(
            [
                float(geneval_evaluate(json.loads(row["data"]), finds[other])[0])
                for row, other in zip(rows, partners, strict=True)
            ]
        )
        members = {
            task: np.flatnonzero([row["task"] == task for row in rows]) for task in TASKS + UNSEEN_TASKS
        }
        members = {task: found for task, found in members.items() if len(found)}
        scores = {
            f"geneval/{task}": mean_score(
                correct[found],
                ceiling[found],
                {"shuffled images": shuffled[found]},
                seed=self.seed,
                tokenized=reached[found],
            )  # fmt: skip
            for task, found in members.items()
        }
        official = {task: found for task, found in members.items() if task in TASKS}
        if official:
            scores["geneval/overall"] = self._overall(official, correct, ceiling, reached, shuffled)
        return scores

    def _overall(
        self,
        members: dict[str, np.ndarray],
        correct: np.ndarray,
        ceiling: np.ndarray,
        reached: np.ndarray,
        shuffled: np.ndarray,
    ) -> Score:
        def overall(values: np.ndarray) -> float:
            return geneval_summary(
                [{"tag": task, "correct": values[i]} for task, found in members.items() for i in found]
            )["overall"]

        bounds = np.cumsum([len(found) for found in members.values()])[:-1]

        def resampled(indices_Rn: np.ndarray) -> np.ndarray:
            return np.mean(
                [part.mean(axis=1) for part in np.split(correct[indices_Rn], bounds, axis=1)], axis=0
            )

        low, high = bootstrap(resampled, list(members.values()), self.seed)
        n = sum(len(found) for found in members.values())
        return Score(
            overall(correct), low, high, n, overall(ceiling), overall(shuffled), "shuffled images",
            tokenized_ceiling=overall(reached),
        )  # fmt: skip


def _spec(task: str, index: int, rng: np.random.Generator) -> Spec:
    """What one prompt asks for. Tasks without colours name shapes only, as the official prompts do."""
    if task == "single_object":
        shape = SHAPES[index % len(SHAPES)]
        return article(shape), [_entry(shape)]
    if task == "counting":
        shape, count = SHAPES[index % len(SHAPES)], COUNTS[int(rng.integers(len(COUNTS)))]
        return counted(shape, count), [_entry(shape, count=count)]
    if task.startswith("colors"):
        kinds = HELD_OUT_KINDS if task.endswith("_unseen") else SEEN_KINDS
        # Every kind once before any comes again; 13 is prime to both numbers of kinds (5 and 43).
        color, shape = kinds[index * 13 % len(kinds)]
        return article(f"{color} {shape}"), [_entry(shape, color=color)]
    if task.startswith("color_attr"):
        return _two_colored(rng, unseen=task.endswith("_unseen"))
    first, second = (SHAPES[i] for i in rng.permutation(len(SHAPES))[:2])
    if task == "two_object":
        return f"{article(first)} and {article(second)}", [_entry(first), _entry(second)]
    relation = RELATIONS[index % len(RELATIONS)]
    # The target comes first among the entries, the object that is placed second: as in the official file.
    asked = f"{article(first)} {relation} {article(second)}"
    return asked, [_entry(second), _entry(first, position=[relation, 0])]


def _entry(shape: str, count: int = 1, **wanted: Any) -> dict[str, Any]:
    return {"class": shape, "count": count, **wanted}


def _two_colored(rng: np.random.Generator, unseen: bool) -> Spec:
    first = pick(rng, HELD_OUT_KINDS if unseen else SEEN_KINDS)
    others = [kind for kind in SEEN_KINDS if kind[0] != first[0] and kind[1] != first[1]]
    kinds = [first, pick(rng, others)]
    if rng.random() < 0.5:
        kinds.reverse()
    asked = " and ".join(article(" ".join(kind)) for kind in kinds)
    return asked, [_entry(shape, color=color) for color, shape in kinds]
