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
from ddt.eval.official.fields import ANYTHING, ID, TEXT, one_of
from ddt.eval.official.files import Entry, json_lines, lines_of, write_whole
from ddt.eval.official.problems import Problems
from ddt.eval.official.vqa import SHORT
from ddt.eval.scorers import Scorers
from ddt.eval.statistics import SHARE, bootstrap, mean_of

FILES = ("coco_pope_random", "coco_pope_popular", "coco_pope_adversarial")
QUESTIONS = 3000
FIELDS = {"question_id": ID, "image": TEXT, "text": TEXT, "label": one_of("yes", "no")}


class POPE(Asked):
    """Outputs: `<name of the questions' file>_answers.json`, JSON lines {question, answer}."""

    name = "pope"
    files_help = "coco_pope_random.json coco_pope_popular.json coco_pope_adversarial.json"
    published = len(FILES) * QUESTIONS

    def read(self) -> list[Case]:
        given = {path.stem for path in self.files}
        for name in FILES:
            if name not in given:
                self.problems.add("file missing", f"{name}.json")
        self.asked: dict[str, list[str]] = {}  # of each file's lines the question, "" where there is none
        cases = []
        for path in self.files:
            if path.stem not in FILES:
                raise ValueError(f"{path}: no file of POPE, expected one of {', '.join(FILES)} (.json)")
            part = [
                Case(f"{path.stem}/{item['question_id']}", item["text"], where, path.stem, item["image"],
                     data={"label": item["label"], "line": number})
                for number, where, item in json_lines(path, self.problems, FIELDS)
            ]  # fmt: skip
            self.asked[path.stem] = [""] * len(list(lines_of(path)))
            for case in part:
                self.asked[path.stem][case.data["line"]] = case.text
            if len(part) != QUESTIONS:
                self.problems.add(f"number of questions that is not {QUESTIONS}", f"{path} ({len(part)})")
            cases += part
        return cases

    @classmethod
    def defaults(cls) -> dict[str, str]:
        return {"prompt": SHORT}

    def read_results(self, outputs: Path, problems: Problems) -> list[Prediction]:
        rows = []
        for path in self.files:
            by_line = {case.data["line"]: case for case in self.cases if case.group == path.stem}
            answers = _answers(outputs, path)
            said = list(json_lines(answers, problems, {"answer": ANYTHING}))
            for (number, where, item), line in zip(
                said, _lines_answered(answers, said, self.asked[path.stem]), strict=True
            ):
                case = None if line is None else by_line.get(line)
                if case is None:
                    rows.append((where, f"{path.stem}: answer {number + 1}", item["answer"]))
                elif item.get("question", case.text) != case.text:
                    problems.add("answer to another question at this place", where)
                else:
                    rows.append((where, case.id, item["answer"]))
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


def _lines_answered(path: Path, said: Sequence[Entry], asked: Sequence[str]) -> list[int | None]:
    """Index in `asked` of the question that each answer of a file is to; None where it can't be told.

    The n-th line answers the n-th question. Where the file has another number of lines its questions tell,
    and ValueError is raised where it has none.
    """
    lines = len(list(lines_of(path)))
    if lines == len(asked):
        return [number for number, _, _ in said]
    if not all(isinstance(item.get("question"), str) for _, _, item in said):
        raise ValueError(
            f"{path}: {lines} lines, expected {len(asked)}: without 'question' in each of them nothing tells "
            "which answer is to which question"
        )
    questions = [item["question"] for _, _, item in said]
    if len(questions) <= len(asked):
        return _certain(questions, asked)
    answered_by = _certain(asked, questions)
    found = {line: index for index, line in enumerate(answered_by) if line is not None}
    return [found.get(line) for line in range(len(questions))]


def _certain(part: Sequence[str], whole: Sequence[str]) -> list[int | None]:
    """Where each text of `part` stands in `whole`, in the same order; None where more than one place fits.

    The texts come again and again, so the first place that fits and the last one can differ.
    """
    first = _first_places(part, whole)
    last = _first_places(part[::-1], whole[::-1])[::-1]
    return [
        early if early is not None and late is not None and early == len(whole) - 1 - late else None
        for early, late in zip(first, last, strict=True)
    ]


def _first_places(part: Sequence[str], whole: Sequence[str]) -> list[int | None]:
    places: list[int | None] = []
    start = 0
    for text in part:
        place = next((index for index in range(start, len(whole)) if whole[index] == text), None)
        start = start if place is None else place + 1
        places.append(place)
    return places


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
