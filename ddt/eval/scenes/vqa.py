"""Questions of every kind about scenes, scored as VQAv2."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ddt.eval.benchmark import (
    NOT_SEEN,
    UNSEEN_SHARE,
    Case,
    Row,
    Score,
    column,
    grouped_scores,
    ordered,
    seen_groups,
    task_groups,
)
from ddt.eval.metrics import vqa_accuracy
from ddt.eval.scenes.questions import Asked
from ddt.scenes.questions import QUESTION_KINDS, Question, open_question, yes_no_pair
from ddt.scenes.sample import sample_scene
from ddt.scenes.world import EVALUATION_PARTS, Scene

ANNOTATORS = 10
PRIOR_SCENES = 400  # about 3,000 questions for the most frequent answer of each form
YES_NO_ONLY = ("existence", "comparison")  # in scenes these kinds have no open form


class VQA(Asked):
    """Open and yes/no questions of every kind, in equal parts."""

    name = "vqa"
    title = "Visual question answering by kind of question"
    protocol = (
        "VQAv2's accuracy with ten equal reference answers, greedy answers without a prompt suffix. Floors: "
        "the most frequent answer to that form of question, and the model's answer about a plain grey "
        "picture."
    )

    def cases(self) -> list[Case]:
        cases: list[Case] = []
        attempt = 0
        while len(cases) < self.num_cases:
            rng = self.rng(attempt)
            attempt += 1
            unseen = rng.random() < UNSEEN_SHARE
            kind = QUESTION_KINDS[len(cases) % len(QUESTION_KINDS)]
            scene = sample_scene(rng, held_out=unseen, parts=EVALUATION_PARTS)
            wants_open = len(cases) // len(QUESTION_KINDS) % 2 == 0
            question = _question(scene, rng, kind, wants_open)
            if question is not None:
                cases.append(self.question_case(len(cases), kind, scene, question, unseen))
        return cases

    def score(self, expected: str, answer: str) -> float:
        references = [{"answer": expected, "answer_id": index} for index in range(ANNOTATORS)]
        return vqa_accuracy(references, answer) / 100

    def summarize(self, rows: Sequence[Row]) -> dict[str, Score]:
        rows = ordered(rows)
        frequent = frequent_answers(self.seed + 1)
        guesses = [frequent.get(_form(json.loads(row["data"])["kind"], row["prompt"]), "yes") for row in rows]
        blind = [self.score(r["expected"], b) for r, b in zip(rows, column(rows, "blind"), strict=True)]
        floors = {
            "most frequent answer": np.array(
                [self.score(row["expected"], guess) for row, guess in zip(rows, guesses, strict=True)]
            ),
            NOT_SEEN: np.array(blind),
        }
        ceiling = np.array([self.score(row["expected"], row["expected"]) for row in rows])
        correct = np.array([row["correct"] for row in rows])
        groups = seen_groups(rows, "vqa/accuracy") | task_groups(rows, "vqa/")
        return grouped_scores(groups, correct, ceiling, floors, seed=self.seed)


def _question(scene: Scene, rng: np.random.Generator, kind: str, wants_open: bool) -> Question | None:
    if wants_open and kind not in YES_NO_ONLY:
        return open_question(scene, rng, kind)
    pair = yes_no_pair(scene, rng, kind)
    return None if pair is None else pair[int(rng.random() * 2)]


def _form(kind: str, question: str) -> tuple[str, str]:
    """What a guesser without the picture can tell apart: the kind and the opening word of the question."""
    return kind, question.split(" ", 1)[0]


@lru_cache(maxsize=4)
def frequent_answers(seed: int) -> dict[tuple[str, str], str]:
    """The most frequent answer to each form of question, counted on other scenes than the benchmark's."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for index in range(PRIOR_SCENES):
        rng = np.random.default_rng([seed, index, 2])
        scene = sample_scene(rng)
        for kind in QUESTION_KINDS:
            for question in (open_question(scene, rng, kind), *(yes_no_pair(scene, rng, kind) or ())):
                if question is not None:
                    form = _form(kind, question.question)
                    counts.setdefault(form, Counter())[question.answer] += 1
    return {form: answers.most_common(1)[0][0] for form, answers in counts.items()}
