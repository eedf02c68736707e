"""POPE: yes/no questions about objects, in three files of 3,000; answers as JSON lines in the same order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ddt.eval.benchmark import Score
from ddt.eval.metrics import pope, pope_parse
from ddt.eval.official.asked import Asked, Prediction
from ddt.eval.official.case import Case, Scored, judged_as
from ddt.eval.official.files import json_lines, write_whole
from ddt.eval.official.problems import Problems
from ddt.eval.official.vqa import SHORT
from ddt.eval.scorers import Scorers
from ddt.eval.statistics import SHARE, bootstrap, mean_of

QUESTIONS = 3000


class POPE(Asked):
    """Outputs: `<name of the questions' file>_answers.json`, JSON lines {question, answer}."""

    name = "pope"
    files_help = "coco_pope_random.json coco_pope_popular.json coco_pope_adversarial.json (any of them)"

    def read(self) -> list[Case]:
        cases = []
        for path in self.files:
            part = [
                Case(f"{path.stem}/{item['question_id']}", item["text"], where, path.stem, item["image"],
                     data={"label": item["label"]})
                for where, item in json_lines(path, self.problems, ("question_id", "image", "text", "label"))
            ]  # fmt: skip
            if len(part) != QUESTIONS:
                self.problems.add(f"number of questions that is not {QUESTIONS}", f"{path} ({len(part)})")
            cases += part
        return cases

    @classmethod
    def defaults(cls) -> dict[str, str]:
        return {"prompt": SHORT}

    def prompt(self, case: Case) -> str:
        return self.settings["prompt"].format(question=case.text)

    def read_results(self, outputs: Path, problems: Problems) -> list[Prediction]:
        rows = []
        for path in self.files:
            answers = list(json_lines(_answers(outputs, path), problems, ("answer",)))
            cases = [case for case in self.cases if case.group == path.stem]
            for index, (where, item) in enumerate(answers):
                if index >= len(cases):
                    rows.append((where, f"{path.stem}: answer {index + 1}", item["answer"]))
                elif item.get("question", cases[index].text) != cases[index].text:
                    problems.add("answer to another question at this place", where)
                else:
                    rows.append((where, cases[index].id, item["answer"]))
        return rows

    def write_results(self, outputs: Path, texts: Mapping[str, str]) -> None:
        for path in self.files:
            cases = [case for case in self.cases if case.group == path.stem]
            rows = [json.dumps({"question": case.text, "answer": texts[case.id]}) for case in cases]
            write_whole(_answers(outputs, path), "\n".join(rows) + "\n")

    def score(self, found: Mapping[str, str], scorers: Scorers) -> Scored:
        cases = self.with_output(found)
        scores: dict[str, Score] = {}
        for group in dict.fromkeys(case.group for case in cases):
            part = [case for case in cases if case.group == group]
            scores |= _scores(f"pope/{group}", part, found)
        f1 = [score for name, score in scores.items() if name.endswith("/f1")]
        together = _scores("pope", cases, found)
        scores["pope/f1_of_all"] = together["pope/f1"]
        mean = float(np.mean([score.value for score in f1]))
        low, high = (float(np.mean([getattr(score, end) for score in f1])) for end in ("low", "high"))
        # The customary single number; the mean of the files' bounds is a little wider than its interval.
        floor = float(np.mean([score.floor for score in f1]))
        scores["pope/f1"] = Score(mean, low, high, len(cases), 1.0, floor, "always yes")
        return Scored(scores, judged_as(cases, [pope_parse(found[case.id]) for case in cases]))


def _scores(prefix: str, cases: Sequence[Case], found: Mapping[str, str]) -> dict[str, Score]:
    labels = [case.data["label"] for case in cases]
    answers = [found[case.id] for case in cases]
    values, floor, ceiling = (pope(each, labels) for each in (answers, ["yes"] * len(cases), labels))
    said = np.array([pope_parse(answer) == "yes" for answer in answers])
    true = np.array([label == "yes" for label in labels])
    scores = {}
    for name, value in values.items():
        low, high = _interval(name, said, true)
        scores[f"{prefix}/{name}"] = Score(
            value, low, high, len(cases), ceiling[name], floor[name], "always yes"
        )
    return scores


def _interval(name: str, said: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Of a metric; `said` and `true` tell for each question whether the answer and the label are yes."""
    if name == "f1":

        def f1(indices_Rn: np.ndarray) -> np.ndarray:
            said_Rn, true_Rn = said[indices_Rn], true[indices_Rn]
            return 2 * (said_Rn & true_Rn).sum(1) / np.maximum(said_Rn.sum(1) + true_Rn.sum(1), 1)

        return bootstrap(f1, len(said))
    # The others are shares: of the questions, of the answers yes, of the labels yes.
    shares = {"accuracy": said == true, "precision": true[said], "recall": said[true], "yes_ratio": said}
    hits = shares[name]
    return bootstrap(mean_of(hits), len(hits)) if len(hits) else SHARE


def _answers(outputs: Path, questions: Path) -> Path:
    return outputs / f"{questions.stem}_answers.json"
