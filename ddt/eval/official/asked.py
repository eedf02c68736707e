"""Benchmarks whose outputs are texts: captions and answers.

While a model answers, each answer goes to a journal beside the results, so that an interrupted run goes on
where it stopped; the official results file is written once all are there. Each question is asked twice: about
its picture, and about a plain grey one. The second answers, in the same official form in a folder of their
own, are the floor: what a model gets right without looking.
"""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from ddt.eval.official.case import Answered, Case, Made, Official
from ddt.eval.official.fields import TEXT
from ddt.eval.official.files import json_lines, one_line
from ddt.eval.official.problems import Problems
from ddt.eval.report.pictures import blank

JOURNAL = "answers.jsonl"
BLIND = "without_picture"  # folder of the answers about a plain grey picture
QUESTION = "{question}"  # what the setting `prompt` must hold
EXAMPLE = "What is it?"
BLANK_SIDE_PX = 64  # a model resizes it to what it takes
Prediction = tuple[str, str, Any]  # where it stands, its case's id, and what should be a text


class Asked(Official):
    """Each case has one text; `read_results` and `write_results` know the official file.

    `blind`: whether everything is asked about a plain grey picture as well.
    """

    blind: ClassVar[bool] = True

    @abstractmethod
    def read_results(self, outputs: Path, problems: Problems) -> list[Prediction]:
        """Everything in the official results."""

    @abstractmethod
    def write_results(self, outputs: Path, texts: Mapping[str, str]) -> None:
        """Write the official results of all cases."""

    def prompt(self, case: Case) -> str:
        """What the model is asked: the question as the setting `prompt` puts it, where there is one."""
        return self.settings.get("prompt", QUESTION).format(question=case.text)

    def _checked(self, settings: Mapping[str, str]) -> Mapping[str, str]:
        prompt = super()._checked(settings).get("prompt", QUESTION)
        try:
            kept = EXAMPLE in prompt.format(question=EXAMPLE)
        except (LookupError, ValueError, TypeError, AttributeError):
            kept = False
        if not kept:
            raise ValueError(
                f"{self.name}: prompt {prompt!r}, expected a text with {QUESTION} and no other field"
            )
        return settings

    def answer(self, model: Any, cases: Sequence[Case], images: Sequence[Image.Image]) -> list[str]:
        """The model's texts for some cases, about these pictures."""
        return model.answer(images, [self.prompt(case) for case in cases])

    def found(self, outputs: Path, problems: Problems) -> dict[str, str]:
        known = {case.id: case for case in self.cases}
        found: dict[str, str] = {}
        for where, key, text in self.read_results(outputs, problems):
            if key not in known:
                problems.add("prediction for an unknown id, not scored", f"{where}: {key!r}", blocks=False)
            elif key in found:
                problems.add("second prediction for an id", f"{where}: {key!r}")
            elif not isinstance(text, str):
                problems.add("prediction that is no text", f"{where}: {text!r}")
            else:
                found[key] = text
                if one_line(text) != text:
                    problems.add("answer with control characters", f"{where}: {text!r}", blocks=False)
        for key, case in known.items():
            if key not in found:
                problems.add("missing prediction", f"{outputs} for {case.where}: {key!r}")
        return found

    def without_picture(
        self, outputs: Path, found: Mapping[str, Any], problems: Problems
    ) -> Mapping[str, Any]:
        folder = outputs / BLIND
        if not (self.blind and folder.is_dir()):
            return {}
        try:
            answers = {key: text for _, key, text in self.read_results(folder, Problems())}
        except ValueError as error:
            problems.add("answers without the picture that can't be read: no such floor", str(error), False)
            return {}
        absent = [key for key in found if not isinstance(answers.get(key), str)]
        for key in absent:
            problems.add("question not asked without its picture: no such floor", f"{folder}: {key!r}", False)
        return {} if absent else {key: answers[key] for key in found}

    def missing(self, outputs: Path) -> list[Case]:
        answers = _journal(outputs)
        return [case for case in self.cases if not self._complete(answers.get(case.id))]

    def _complete(self, answer: Answered | None) -> bool:
        return answer is not None and not (self.blind and answer.blind is None)

    def make(self, model: Any, cases: Sequence[Case], outputs: Path) -> list[Made]:
        images = [self.picture(case, model) for case in cases]
        texts = self.answer(model, cases, images)
        if not self.blind:
            return [Answered(_cleaned(text)) for text in texts]
        guesses = self.answer(model, cases, [blank(BLANK_SIDE_PX)] * len(cases))
        return [Answered(_cleaned(text), _cleaned(guess)) for text, guess in zip(texts, guesses, strict=True)]

    def place(self, outputs: Path, made: Mapping[str, Made]) -> None:
        outputs.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps({"id": key, **_plain(answer)}) + "\n" for key, answer in made.items())
        with (outputs / JOURNAL).open("a+b") as file:
            file.seek(0, os.SEEK_END)
            if file.tell() and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
                file.write(b"\n")  # ends a line that a kill cut; it is no JSON, so its case is missing
            file.write(lines.encode())

    def finish(self, outputs: Path) -> None:
        answers = _journal(outputs)
        self.write_results(outputs, {key: answer.text for key, answer in answers.items()})
        if self.blind:
            guesses = {key: answer.blind for key, answer in answers.items() if answer.blind is not None}
            self.write_results(outputs / BLIND, guesses)


def _cleaned(text: str) -> str:
    return one_line(text).strip()


def _plain(answer: Made) -> dict[str, str | None]:
    assert isinstance(answer, Answered)
    return asdict(answer)


def _journal(outputs: Path) -> dict[str, Answered]:
    """Answers by case; a line that a kill cut counts for nothing."""
    path = outputs / JOURNAL
    if not path.exists():
        return {}
    lines = json_lines(path, Problems(), {"id": TEXT, "text": TEXT})
    return {item["id"]: Answered(item["text"], item.get("blind")) for _, _, item in lines}
