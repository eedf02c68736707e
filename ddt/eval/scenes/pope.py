"""Yes/no hallucination on scenes, scored as POPE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from ddt.eval.benchmark import (
    NOT_SEEN,
    UNSEEN_SHARE,
    Case,
    Row,
    Score,
    column,
    grouped_scores,
    mean_score,
    ordered,
    seen_groups,
)
from ddt.eval.metrics import pope, pope_parse
from ddt.eval.scenes.questions import Asked
from ddt.eval.statistics import bootstrap
from ddt.scenes.questions import Question
from ddt.scenes.sample import SEEN_KINDS, pick, sample_scene
from ddt.scenes.words import article
from ddt.scenes.world import EVALUATION_PARTS, Scene


class POPE(Asked):
    """Is there such an object? Half yes, half no, the absent ones drawn in POPE's three ways."""

    name = "pope"
    title = "Object hallucination by yes/no questions"
    protocol = (
        "POPE's questions and scores. Absent objects are random, or the most frequent ones of the set "
        "(popular), or differ in one attribute from one that is there (adversarial; POPE takes the most "
        "co-occurring ones, and in scenes all co-occur alike). Floors: always yes, and the model's answer "
        "about a grey picture."
    )
    settings = ("random", "popular", "adversarial")

    def cases(self) -> list[Case]:
        scenes = -(-self.num_cases // (2 * len(self.settings)))
        cases: list[Case] = []
        for number, setting in enumerate(self.settings):
            drawn = []
            for index in range(scenes):
                rng = self.rng(number, index)
                unseen = rng.random() < UNSEEN_SHARE
                drawn.append((sample_scene(rng, held_out=unseen, parts=EVALUATION_PARTS), unseen, rng))
            ranked = [
                kind for kind, _ in Counter(o.kind for s, _, _ in drawn for o in s.objects).most_common()
            ]
            for scene, unseen, rng in drawn:
                present = pick(rng, scene.objects).kind
                for kind, answer in ((present, "yes"), (_absent(scene, setting, ranked, rng), "no")):
                    text = f"Is there {article(' '.join(kind))} in the image?"
                    question = Question(text, answer, "existence")
                    cases.append(self.question_case(len(cases), setting, scene, question, unseen))
        return cases

    def score(self, expected: str, answer: str) -> float:
        return float(pope_parse(answer) == expected)

    def summarize(self, rows: Sequence[Row]) -> dict[str, Score]:
        rows = ordered(rows)
        labels = [row["expected"] for row in rows]
        answers = [row["output"] for row in rows]
        blind = column(rows, "blind")
        tasks = np.array([row["task"] for row in rows])
        members = {name: np.flatnonzero(tasks == name) for name in self.settings if (tasks == name).any()}
        scores = {
            f"pope/f1_{name}": _f1_score(answers, labels, blind, [found], self.seed)
            for name, found in members.items()
        }
        scores["pope/f1"] = _f1_score(answers, labels, blind, list(members.values()), self.seed)
        correct = np.array([row["correct"] for row in rows])
        floors = {
            "always yes": np.array([float(label == "yes") for label in labels]),
            NOT_SEEN: np.array(list(map(self.score, labels, blind))),
        }
        groups = seen_groups(rows, "pope/accuracy")
        scores |= grouped_scores(
            groups, correct, np.array(list(map(self.score, labels, labels))), floors, seed=self.seed
        )
        said, true = [pope_parse(answer) == "yes" for answer in answers], [label == "yes" for label in labels]
        scores["pope/yes_ratio"] = mean_score(np.array(said), np.array(true))
        return scores


def _f1_score(
    answers: Sequence[str], labels: Sequence[str], blind: Sequence[str], members: list[np.ndarray], seed: int
) -> Score:
    """Mean over the settings of the official F1, resampled within each."""

    def f1(given: Sequence[str]) -> float:
        return float(np.mean([pope([given[i] for i in g], [labels[i] for i in g])["f1"] for g in members]))

    said = np.array([pope_parse(answer) == "yes" for answer in answers])
    wanted = np.array([label == "yes" for label in labels])
    bounds = np.cumsum([len(found) for found in members])[:-1]

    def resampled(indices_Rn: np.ndarray) -> np.ndarray:
        parts = np.split(indices_Rn, bounds, axis=1)
        right = [(said[part] & wanted[part]).sum(axis=1) for part in parts]
        both = [said[part].sum(axis=1) + wanted[part].sum(axis=1) for part in parts]
        # 2PR/(P+R) = 2 TP / (predicted + actual), 0 where that divides by zero
        return np.mean([2 * tp / np.maximum(total, 1) for tp, total in zip(right, both, strict=True)], axis=0)

    low, high = bootstrap(resampled, members, seed)
    floors = {"always yes": f1(["yes"] * len(labels)), NOT_SEEN: f1(blind)}
    best = max(floors, key=lambda name: floors[name])
    n = sum(len(found) for found in members)
    return Score(f1(answers), low, high, n, ceiling=f1(labels), floor=floors[best], floor_is=best)


def _absent(
    scene: Scene, setting: str, ranked: Iterable[tuple[str, str]], rng: np.random.Generator
) -> tuple[str, str]:
    present = {item.kind for item in scene.objects}
    free = [kind for kind in SEEN_KINDS if kind not in present]
    if setting == "popular":
        return next((kind for kind in ranked if kind in free), free[0])
    if setting == "adversarial":
        near = [k for k in free if any((k[0] == p[0]) != (k[1] == p[1]) for p in present)]
        return pick(rng, near or free)
    return pick(rng, free)
