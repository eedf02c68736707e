"""VQAv2, OKVQA and VizWiz: short answers against those of ten people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddt.eval.benchmark import Score, mean_score
from ddt.eval.metrics import vizwiz_accuracy, vqa_accuracy
from ddt.eval.official.asked import Asked, Prediction
from ddt.eval.official.case import Case, Judged, Scored
from ddt.eval.official.fields import ANYTHING, ID, TEXT, WHOLE, list_of, object_of
from ddt.eval.official.files import json_of, records_of, write_whole
from ddt.eval.official.problems import Problems
from ddt.eval.scorers import Scorers

SHORT = "{question}\nAnswer the question using a single word or phrase."
SHORT_OR_NOT = (
    "{question}\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n"
    "Answer the question using a single word or phrase."
)
RESULTS = "results.json"
TYPE = "question_type"
ANSWERS = list_of(object_of({"answer": TEXT}))  # of people, to one question
TYPES = {TYPE: TEXT, "answer_type": TEXT}
BY_TYPE = "most frequent answer to each type of question"


class VQA(Asked):
    """Questions and annotations of the VQA format; outputs: `results.json`, [{question_id, answer}]."""

    ceiling_is = "each question's most frequent answer: people differ"

    def read(self) -> list[Case]:
        questions, annotations = self._both()
        known: dict[int, tuple[str, dict]] = {}
        for _, where, item in records_of(
            self.files[-1], annotations["annotations"], self.problems,
            {"question_id": WHOLE, "answers": ANSWERS}, TYPES,
        ):  # fmt: skip
            if item["question_id"] in known:
                self.problems.add("duplicate id among the annotations", f"{where}: {item['question_id']}")
            known[item["question_id"]] = where, item
        subtype = questions.get("data_subtype", "val2014")
        cases = []
        asked = set()
        for _, where, item in records_of(
            self.files[0], questions["questions"], self.problems,
            {"question_id": WHOLE, "image_id": WHOLE, "question": TEXT},
        ):  # fmt: skip
            asked.add(item["question_id"])
            if item["question_id"] not in known:
                self.problems.add("question without annotation", f"{where}: {item['question_id']}")
                continue
            _, found = known[item["question_id"]]
            cases.append(
                Case(
                    str(item["question_id"]), item["question"], where,
                    group=found.get("answer_type", ""), data=found,
                    image=f"COCO_{subtype}_{item['image_id']:012d}.jpg",
                )
            )  # fmt: skip
        # The official script scores every annotation, and stops where the results lack one of them.
        for key, (where, _) in known.items():
            if key not in asked:
                self.problems.add("annotation without question", f"{where}: {key}")
        return cases

    def _both(self) -> tuple[dict[str, Any], dict[str, Any]]:
        if len(self.files) != 2:
            raise ValueError(f"{self.name}: {len(self.files)} data files, expected {self.files_help}")
        both = [json_of(path) for path in self.files]
        for path, content, key in zip(self.files, both, ("questions", "annotations"), strict=True):
            if not isinstance(content, dict) or key not in content:
                raise ValueError(f"{path}: has no {key!r}; expected {self.files_help}")
        return both[0], both[1]

    @classmethod
    def defaults(cls) -> dict[str, str]:
        return {"prompt": SHORT}

    def read_results(self, outputs: Path, problems: Problems) -> list[Prediction]:
        path = outputs / RESULTS
        items = records_of(path, json_of(path), problems, {"question_id": ID, "answer": ANYTHING})
        return [(where, str(item["question_id"]), item["answer"]) for _, where, item in items]

    def write_results(self, outputs: Path, texts: Mapping[str, str]) -> None:
        rows = [{"question_id": int(case.id), "answer": texts[case.id]} for case in self.cases]
        write_whole(outputs / RESULTS, json.dumps(rows))

    def accuracy(self, case: Case, prediction: str) -> float:
        """Percent."""
        return vqa_accuracy(case.data["answers"], prediction)

    def _shares(self, cases: Sequence[Case], predictions: Sequence[str]) -> np.ndarray:
        pairs = zip(cases, predictions, strict=True)
        return np.array([self.accuracy(case, prediction) for case, prediction in pairs]) / 100

    def score(self, found: Mapping[str, str], scorers: Scorers) -> Scored:
        cases = self.with_output(found)
        values = self._shares(cases, [found[case.id] for case in cases])
        # The best a single answer can do: people differ, so it is below 1.
        ceiling = self._shares(cases, [_commonest(case) for case in cases])
        people = [[answer["answer"] for answer in case.data["answers"]] for case in cases]
        kinds = {key: [str(case.data.get(key, "")) for case in cases] for key in ("answer_type", TYPE)}
        by_type = self._shares(cases, guesses(people, kinds[TYPE])) if any(kinds[TYPE]) else None
        scores: dict[str, Score] = {}
        for key, of_case in {"accuracy": [""] * len(cases), **kinds}.items():
            guessed = guesses(people, of_case)
            always, kinds_N = self._shares(cases, guessed), np.array(of_case)
            for kind in dict.fromkeys(of_case):
                if not kind and key != "accuracy":
                    continue
                chosen = np.flatnonzero(kinds_N == kind)
                floors = {f"always {guessed[chosen[0]]!r}": always[chosen]}
                floors |= {} if by_type is None else {BY_TYPE: by_type[chosen]}
                name = "/".join(filter(None, (self.name, key, kind)))
                scores[name] = mean_score(values[chosen], ceiling[chosen], floors)
        judged = [
            Judged(case, value, value == 1, "" if value == 1 else _given(case, value))
            for case, value in zip(cases, values.tolist(), strict=True)
        ]
        return Scored(scores, judged)


class VQAv2(VQA):
    name = "vqav2"
    files_help = "v2_OpenEnded_mscoco_val2014_questions.json v2_mscoco_val2014_annotations.json"
    published = 214_354


class OKVQA(VQA):
    name = "okvqa"
    files_help = "OpenEnded_mscoco_val2014_questions.json mscoco_val2014_annotations.json"
    published = 5046

    @classmethod
    def defaults(cls) -> dict[str, str]:
        return {"prompt": SHORT_OR_NOT}


class VizWiz(VQA):
    """One file, keyed by image; outputs: `results.json`, [{image, answer}].

    Its script normalises the prediction but not the references, and leaves out the annotator by place.
    """

    name = "vizwiz"
    files_help = "val.json of VizWiz-VQA"

    @classmethod
    def defaults(cls) -> dict[str, str]:
        return {"prompt": SHORT_OR_NOT}

    def read(self) -> list[Case]:
        path = self.files[0]
        fields = {"image": TEXT, "question": TEXT, "answers": ANSWERS}
        return [
            Case(
                item["image"], item["question"], where, item.get("answer_type", ""), item["image"], data=item
            )
            for _, where, item in records_of(path, json_of(path), self.problems, fields, TYPES)
        ]

    def read_results(self, outputs: Path, problems: Problems) -> list[Prediction]:
        path = outputs / RESULTS
        items = records_of(path, json_of(path), problems, {"image": TEXT, "answer": ANYTHING})
        return [(where, item["image"], item["answer"]) for _, where, item in items]

    def write_results(self, outputs: Path, texts: Mapping[str, str]) -> None:
        rows = [{"image": case.id, "answer": texts[case.id]} for case in self.cases]
        write_whole(outputs / RESULTS, json.dumps(rows))

    def accuracy(self, case: Case, prediction: str) -> float:
        return vizwiz_accuracy([answer["answer"] for answer in case.data["answers"]], prediction)


def _commonest(case: Case) -> str:
    return most_common(answer["answer"] for answer in case.data["answers"])


def _given(case: Case, value: float) -> str:
    """What people answered, the most frequent first."""
    counts = Counter(answer["answer"] for answer in case.data["answers"]).most_common(3)
    return f"{value:.2f}; people: " + ", ".join(f"{answer!r} {count}x" for answer, count in counts)


def most_common(answers: Any) -> str:
    """The most frequent text, the first of equal ones."""
    return Counter(answers).most_common(1)[0][0]


def guesses(answers: Sequence[Sequence[str]], kinds: Sequence[str]) -> list[str]:
    """For each case the most frequent of all answers to the cases of its kind."""
    counts: dict[str, Counter[str]] = {}
    for texts, kind in zip(answers, kinds, strict=True):
        counts.setdefault(kind, Counter()).update(texts)
    common = {kind: counter.most_common(1)[0][0] for kind, counter in counts.items()}
    return [common[kind] for kind in kinds]
