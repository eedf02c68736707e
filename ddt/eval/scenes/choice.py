"""Multiple choice about scenes, answered as SEED-Bench's official evaluation does: by ranking the options."""

from __future__ import annotations

import json
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
    task_groups,
)
from ddt.eval.metrics import seed_rank
from ddt.eval.ranking import option_losses
from ddt.eval.report.pictures import BLANK_GREY, png_bytes
from ddt.scenes.photo import photograph
from ddt.scenes.questions import ANSWERS, open_question
from ddt.scenes.sample import sample_scene
from ddt.scenes.world import EVALUATION_PARTS, scene_from_dict

OPTIONS = 4
KINDS = tuple(kind for kind, answers in ANSWERS.items() if len(answers) >= OPTIONS)


class Choice(Benchmark):
    """An open question with four options; the one the model finds likeliest after the question is chosen."""

    name = "choice"
    title = "Multiple choice by answer ranking"
    protocol = (
        "SEED-Bench's official rule: the option with the lowest mean loss per token, given picture and "
        "question; accuracy over all questions. Floors: chance (0.25), and the ranking given a plain grey "
        "picture."
    )

    def cases(self) -> list[Case]:
        cases: list[Case] = []
        attempt = 0
        while len(cases) < self.num_cases:
            rng = self.rng(attempt)
            attempt += 1
            unseen = rng.random() < UNSEEN_SHARE
            kind = KINDS[len(cases) % len(KINDS)]
            scene = sample_scene(rng, held_out=unseen, parts=EVALUATION_PARTS)
            question = open_question(scene, rng, kind)
            if question is None:
                continue
            wrong = [answer for answer in ANSWERS[kind] if answer != question.answer]
            options = [question.answer, *(wrong[i] for i in rng.permutation(len(wrong))[: OPTIONS - 1])]
            options = [options[i] for i in rng.permutation(OPTIONS)]
            letter = "ABCD"[options.index(question.answer)]
            data = {"scene": scene.to_dict(), "options": options}
            cases.append(
                make_case(self.name, len(cases), kind, question.question, letter, data, self.seed, unseen)
            )
        return cases

    def run_batch(self, model: Any, cases: Sequence[Case]) -> list[Row]:
        data = [json.loads(case["data"]) for case in cases]
        pictures = [photograph(scene_from_dict(item["scene"]), self.image_size) for item in data]
        blank = np.full_like(pictures[0], BLANK_GREY)
        codes = model.encode([Image.fromarray(picture) for picture in [*pictures, blank]])
        rows = []
        for case, item, picture, codes_T in zip(cases, data, pictures, codes, strict=False):
            losses = option_losses(model, codes_T, case["prompt"], item["options"])
            blind = option_losses(model, codes[-1], case["prompt"], item["options"])
            chosen = seed_rank(losses)
            answer = item["options"]["ABCD".index(chosen)]
            correct = chosen == case["expected"]
            wanted = item["options"]["ABCD".index(case["expected"])]
            rows.append(
                make_row(
                    case,
                    output=answer,
                    source=png_bytes(picture),
                    correct=correct,
                    reason="" if correct else f"expected {wanted!r}, of {', '.join(item['options'])}",
                    values={"blind": float(seed_rank(blind) == case["expected"])},
                )
            )
        return rows

    def summarize(self, rows: Sequence[Row]) -> dict[str, Score]:
        rows = ordered(rows)
        floors = {
            "chance": np.full(len(rows), 1 / OPTIONS),
            "ranking without the picture": np.array(column(rows, "blind")),
        }
        correct, ceiling = np.array([row["correct"] for row in rows]), np.ones(len(rows))
        groups = seen_groups(rows, "choice/accuracy") | task_groups(rows, "choice/")
        return grouped_scores(groups, correct, ceiling, floors, seed=self.seed)
