"""GQA: exact answers to the balanced questions of testdev."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ddt.eval.benchmark import mean_score
from ddt.eval.metrics import gqa_accuracy
from ddt.eval.official.asked import Asked, Prediction
from ddt.eval.official.case import Case, Judged, Scored
from ddt.eval.official.fields import ANYTHING, BOOL, ID, TEXT, fault_of, object_of
from ddt.eval.official.files import json_of, records_of, write_whole
from ddt.eval.official.problems import Problems
from ddt.eval.official.vqa import BY_TYPE, SHORT, guesses
from ddt.eval.scorers import Scorers

RESULTS = "predictions.json"
ASKED = {"question": TEXT, "imageId": ID, "answer": TEXT, "isBalanced": BOOL}
TYPES = object_of({})  # what kind of question it is


class GQA(Asked):
    """Outputs: `predictions.json`, [{questionId, prediction}]; the script compares as they are.

    Generated answers are lower-cased and lose a last period, as LLaVA prepares them.
    """

    name = "gqa"
    files_help = "testdev_balanced_questions.json"
    published = 12_578

    @classmethod
    def defaults(cls) -> dict[str, str]:
        return {"prompt": SHORT}

    def read(self) -> list[Case]:
        path = self.files[0]
        questions = json_of(path)
        if not isinstance(questions, dict):
            raise ValueError(f"{path}: expected questions by their id, found {type(questions).__name__}")
        cases = []
        for key, item in questions.items():
            fault = fault_of(item, ASKED, {"types": TYPES})
            if fault:
                self.problems.add(f"question {fault}", f"{path}: {key}")
            elif item["isBalanced"]:
                image = f"{item['imageId']}.jpg"
                cases.append(Case(key, item["question"], f"{path}: {key}", image=image, data=item))
        return cases

    def read_results(self, outputs: Path, problems: Problems) -> list[Prediction]:
        path = outputs / RESULTS
        items = records_of(path, json_of(path), problems, {"questionId": ID, "prediction": ANYTHING})
        return [(where, str(item["questionId"]), item["prediction"]) for _, where, item in items]

    def write_results(self, outputs: Path, texts: Mapping[str, str]) -> None:
        rows = [
            {"questionId": case.id, "prediction": texts[case.id].rstrip(".").lower()} for case in self.cases
        ]
        write_whole(outputs / RESULTS, json.dumps(rows))

    def score(self, found: Mapping[str, str], scorers: Scorers) -> Scored:
        cases = self.with_output(found)
        answers = [case.data["answer"] for case in cases]
        values = np.array([float(found[case.id] == case.data["answer"]) for case in cases])
        always = guesses([[answer] for answer in answers], [""] * len(cases))
        by_type = guesses([[answer] for answer in answers], [_kind(case) for case in cases])
        floors = {
            name: np.array([float(guess == answer) for guess, answer in zip(guessed, answers, strict=True)])
            for name, guessed in ((f"always {always[0]!r}", always), (BY_TYPE, by_type))
        }
        score = mean_score(values, np.ones(len(cases)), floors)
        predictions = [{"questionId": case.id, "prediction": found[case.id]} for case in cases]
        official = gqa_accuracy({case.id: case.data for case in cases}, predictions) / 100
        assert abs(official - score.value) < 1e-9
        judged = [
            Judged(case, value, value == 1, "" if value else f"expected {case.data['answer']!r}")
            for case, value in zip(cases, values.tolist(), strict=True)
        ]
        return Scored({"gqa/accuracy": score}, judged)


def _kind(case: Case) -> str:
    """What a question asks for, as its annotation tells; both can be read from its words."""
    types = case.data.get("types", {})
    return f"{types.get('structural')} {types.get('semantic')}"
