"""The base of the benchmarks that ask about scenes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ddt.eval.benchmark import Benchmark, Case, Row, make_case, make_row
from ddt.eval.report.pictures import blank, png_bytes
from ddt.scenes.photo import photograph
from ddt.scenes.questions import Question
from ddt.scenes.world import Scene, scene_from_dict


class Asked(Benchmark):
    """Asks every question twice: about its picture, and about a plain grey one (the blind control)."""

    def run_batch(self, model: Any, cases: Sequence[Case]) -> list[Row]:
        pictures = [self._picture(case) for case in cases]
        images = [Image.fromarray(picture) for picture in pictures]
        asked, seeds = [case["prompt"] for case in cases], [case["seed"] for case in cases]
        answers = model.answer(images, asked, seed=seeds)
        blind = model.answer([blank(self.image_size)] * len(cases), asked, seed=seeds)
        return [
            self._row(case, picture, answer, guess)
            for case, picture, answer, guess in zip(cases, pictures, answers, blind, strict=True)
        ]

    def _picture(self, case: Case) -> np.ndarray:
        return photograph(scene_from_dict(json.loads(case["data"])["scene"]), self.image_size)

    def _row(self, case: Case, picture: np.ndarray, answer: str, blind: str) -> Row:
        correct = self.score(case["expected"], answer)
        reason = "" if correct == 1 else f"expected {case['expected']!r}, answered {answer!r}"
        return make_row(
            case,
            output=answer,
            source=png_bytes(picture),
            correct=correct,
            reason=reason,
            values={"blind": blind},
        )

    def score(self, expected: str, answer: str) -> float:
        """Whether an answer is right, 0..1."""
        raise NotImplementedError

    def question_case(self, index: int, task: str, scene: Scene, question: Question, unseen: bool) -> Case:
        """A case that asks `question` about `scene`."""
        data = {"scene": scene.to_dict(), "kind": question.kind}
        return make_case(self.name, index, task, question.question, question.answer, data, self.seed, unseen)
