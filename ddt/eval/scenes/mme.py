"""Paired yes/no questions on scenes, scored as MME."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ddt.eval.benchmark import NOT_SEEN, UNSEEN_SHARE, Case, Row, Score, column, ordered
from ddt.eval.metrics import mme, mme_parse
from ddt.eval.scenes.questions import Asked
from ddt.eval.statistics import bootstrap
from ddt.scenes.questions import yes_no_pair
from ddt.scenes.sample import sample_scene
from ddt.scenes.world import EVALUATION_PARTS

BEST = 200.0  # of a category: every answer and every pair right
MME_CATEGORIES = ("existence", "count", "position", "color")


class MME(Asked):
    """Pairs of questions about one picture, one to be answered yes and one no."""

    name = "mme"
    title = "Paired yes/no questions as MME asks them"
    protocol = (
        "MME's score: for each category 100 x accuracy + 100 x pairs with both right (at most 200), over "
        "four of its fourteen categories; without its suffix 'Please answer yes or no.'. Floors: always yes "
        "(50 a category), and the model's answer about a grey picture."
    )

    def cases(self) -> list[Case]:
        per_category = -(-self.num_cases // (2 * len(MME_CATEGORIES)))
        cases: list[Case] = []
        for number, category in enumerate(MME_CATEGORIES):
            attempt = found = 0
            while found < per_category:
                rng = self.rng(number, attempt)
                attempt += 1
                unseen = rng.random() < UNSEEN_SHARE
                scene = sample_scene(rng, held_out=unseen, parts=EVALUATION_PARTS)
                pair = yes_no_pair(scene, rng, category)
                if pair is None:
                    continue
                found += 1
                for question in pair:
                    cases.append(self.question_case(len(cases), category, scene, question, unseen))
        return cases

    def score(self, expected: str, answer: str) -> float:
        return float(mme_parse(answer) == expected)

    def summarize(self, rows: Sequence[Row]) -> dict[str, Score]:
        rows = ordered(rows)
        members = {
            name: np.flatnonzero([row["task"] == name for row in rows])
            for name in MME_CATEGORIES
            if any(row["task"] == name for row in rows)
        }
        blind = column(rows, "blind")
        scores = {
            f"mme/{name}": _mme_score(rows, blind, {name: found}, self.seed)
            for name, found in members.items()
        }
        scores["mme/perception"] = _mme_score(rows, blind, members, self.seed)
        unseen = np.array([bool(row["unseen"]) for row in rows])
        for name, chosen in (("seen", ~unseen), ("unseen", unseen)):
            parts = {category: found[chosen[found]] for category, found in members.items()}
            if all(map(len, parts.values())):  # else the sum would be of fewer categories
                scores[f"mme/perception_{name}"] = _mme_score(rows, blind, parts, self.seed)
        return scores


def _mme_score(rows: Sequence[Row], blind: Sequence[str], members: dict[str, np.ndarray], seed: int) -> Score:
    """Sum of the categories' official scores; pairs are resampled as pairs."""
    answers = [row["output"] for row in rows]

    def perception(given: Sequence[str]) -> float:
        # A tab in an answer would be one column too many: the official tool stops there.
        texts = [answer.replace("\t", " ").replace("\n", " ") for answer in given]
        files = {
            name: [
                f"{rows[i]['case_id']}\t{rows[i]['prompt']}\t{rows[i]['expected']}\t{texts[i]}" for i in found
            ]
            for name, found in members.items()
        }
        return float(mme(files)["perception"])

    correct = np.array([row["correct"] for row in rows])
    pairs = [correct[found].reshape(-1, 2) for found in members.values()]
    per_pair = np.concatenate([100 * p.mean(axis=1) + 100 * (p.sum(axis=1) == 2) for p in pairs])
    strata = np.split(np.arange(len(per_pair)), np.cumsum([len(p) for p in pairs])[:-1])
    bounds = np.cumsum([len(stratum) for stratum in strata])[:-1]

    def resampled(indices_Rn: np.ndarray) -> np.ndarray:
        parts = np.split(per_pair[indices_Rn], bounds, axis=1)
        return np.sum([part.mean(axis=1) for part in parts], axis=0)

    low, high = bootstrap(resampled, strata, seed, (0.0, BEST * len(members)))
    floors = {
        "always yes": perception(["yes"] * len(rows)),
        NOT_SEEN: perception(blind),
    }
    best = max(floors, key=lambda name: floors[name])
    ceiling = perception([row["expected"] for row in rows])
    n = sum(len(found) for found in members.values())
    return Score(perception(answers), low, high, n, ceiling=ceiling, floor=floors[best], floor_is=best)
