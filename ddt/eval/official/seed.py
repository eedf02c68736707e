"""SEED-Bench: multiple choice, by the letter a model writes or by ranking the options' losses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddt.eval.benchmark import Score, mean_score
from ddt.eval.metrics import seed_letter, seed_rank
from ddt.eval.metrics.seed import LETTERS
from ddt.eval.official.asked import Asked, Prediction
from ddt.eval.official.case import Case, Judged, Scored
from ddt.eval.official.fields import ID, NUMBER, TEXT, Kind, one_of
from ddt.eval.official.files import json_lines, json_of, records_of, write_whole
from ddt.eval.official.problems import Problems
from ddt.eval.official.vqa import guesses
from ddt.eval.ranking import option_losses
from ddt.eval.scorers import Scorers

OPTIONS = tuple(f"choice_{letter.lower()}" for letter in LETTERS)
OPTION = Kind("a text or number", lambda value: TEXT.holds(value) or NUMBER.holds(value))
FIELDS = {
    "question_id": ID, "question": TEXT, "answer": one_of(*LETTERS), "data_type": one_of("image", "video"),
    "data_id": ID, **dict.fromkeys(OPTIONS, OPTION),
}  # fmt: skip
DIMENSION = {"question_type_id": ID}
RESULTS = "results.jsonl"
LETTER_PROMPT = (
    "{question}\nA. {choice_a}\nB. {choice_b}\nC. {choice_c}\nD. {choice_d}\n"
    "Answer with the option's letter from the given choices directly."
)


class SEEDBench(Asked):
    """Outputs: `results.jsonl`, {question_id, prediction} with the letter, or {question_id, losses}.

    Setting `answers`: "ranking" (official: the option of the lowest loss) or "letter" (LLaVA's way). A
    video's frame is `<data_id>.png` below the images' folder: the middle one, as LLaVA takes it.
    """

    name = "seed"
    files_help = "SEED-Bench.json"

    @classmethod
    def defaults(cls) -> dict[str, str]:
        return {"answers": "ranking"}

    def read(self) -> list[Case]:
        if self.settings["answers"] not in ("ranking", "letter"):
            raise ValueError(f"seed: answers {self.settings['answers']!r}, allowed are ranking, letter")
        path = self.files[0]
        content = json_of(path)
        if not isinstance(content, dict) or "questions" not in content:
            raise ValueError(f"{path}: has no 'questions'; expected {self.files_help}")
        return [
            Case(
                str(item["question_id"]),
                item["question"],
                where,
                data=item,
                group=item["data_type"],
                image=str(item["data_id"]) if item["data_type"] == "image" else f"{item['data_id']}.png",
            )
            for _, where, item in records_of(path, content["questions"], self.problems, FIELDS, DIMENSION)
        ]

    def prompt(self, case: Case) -> str:
        return LETTER_PROMPT.format(**case.data)

    def answer(self, model: Any, cases: Sequence[Case], images: Sequence[Image.Image]) -> list[str]:
        if self.settings["answers"] == "letter":
            return super().answer(model, cases, images)
        codes = model.encode(images)
        return [
            seed_rank(option_losses(model, codes_T, case.text, [str(case.data[name]) for name in OPTIONS]))
            for codes_T, case in zip(codes, cases, strict=True)
        ]

    def read_results(self, outputs: Path, problems: Problems) -> list[Prediction]:
        rows = []
        for _, where, item in json_lines(outputs / RESULTS, problems, {"question_id": ID}):
            if _are_losses(item.get("losses")):
                rows.append((where, str(item["question_id"]), seed_rank(item["losses"])))
            elif "prediction" in item:
                rows.append((where, str(item["question_id"]), item["prediction"]))
            else:
                problems.add("line without a prediction or four losses", where)
        return rows

    def write_results(self, outputs: Path, texts: Mapping[str, str]) -> None:
        rows = [
            json.dumps({"question_id": case.id, "prediction": texts[case.id], "answer": case.data["answer"]})
            for case in self.cases
        ]
        write_whole(outputs / RESULTS, "\n".join(rows) + "\n")

    def score(self, found: Mapping[str, str], scorers: Scorers) -> Scored:
        cases = self.with_output(found)
        right = np.array([float(seed_letter(found[case.id]) == case.data["answer"]) for case in cases])
        answers = [case.data["answer"] for case in cases]
        scores: dict[str, Score] = {}
        for key, prefix in (
            ("", "seed/all"),
            ("data_type", "seed/"),
            ("question_type_id", "seed/dimension_"),
        ):
            kinds = [str(case.data.get(key, "")) if key else "" for case in cases]
            always = guesses([[answer] for answer in answers], kinds)
            floor = np.array([float(a == b) for a, b in zip(always, answers, strict=True)])
            for kind in dict.fromkeys(kinds):
                if not kind and key:
                    continue
                chosen = np.flatnonzero(np.array(kinds) == kind)
                floors = {f"always {always[chosen[0]]}": floor[chosen]}
                scores[prefix + kind] = mean_score(right[chosen], np.ones(len(chosen)), floors)
        judged = [
            Judged(case, value, value == 1, "" if value else f"expected {case.data['answer']}")
            for case, value in zip(cases, right.tolist(), strict=True)
        ]
        return Scored(scores, judged)


def _are_losses(value: Any) -> bool:
    """One number for each option; nan is one, which ranks last."""
    return (
        isinstance(value, list)
        and len(value) == len(OPTIONS)
        and all(isinstance(each, int | float) and not isinstance(each, bool) for each in value)
    )
