"""Benchmarks whose outputs are texts: captions and answers.

While a model answers, each answer goes to a journal beside the results, so that an interrupted run goes on
where it stopped; the official results file is written once all are there.
"""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddt.data.decode import read_image
from ddt.eval.official.case import Case, Made, Official
from ddt.eval.official.files import json_lines, one_line
from ddt.eval.official.problems import Problems

JOURNAL = "answers.jsonl"
Prediction = tuple[str, str, Any]  # where it stands, its case's id, and what should be a text


class Asked(Official):
    """Each case has one text; `read_results` and `write_results` know the official file."""

    @abstractmethod
    def read_results(self, outputs: Path, problems: Problems) -> list[Prediction]:
        """Everything in the official results."""

    @abstractmethod
    def write_results(self, outputs: Path, texts: Mapping[str, str]) -> None:
        """Write the official results of all cases."""

    def prompt(self, case: Case) -> str:
        """What the model is asked."""
        return case.text

    def answer(self, model: Any, cases: Sequence[Case]) -> list[str]:
        """The model's texts for some cases."""
        images = [read_image(self.image_path(case.image)) for case in cases]
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

    def missing(self, outputs: Path) -> list[Case]:
        texts = _journal(outputs)
        return [case for case in self.cases if case.id not in texts]

    def make(self, model: Any, cases: Sequence[Case], outputs: Path) -> list[Made]:
        return [one_line(text).strip() for text in self.answer(model, cases)]

    def place(self, outputs: Path, made: Mapping[str, Made]) -> None:
        outputs.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps({"id": key, "text": text}) + "\n" for key, text in made.items())
        with (outputs / JOURNAL).open("a+b") as file:
            file.seek(0, os.SEEK_END)
            if file.tell() and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
                file.write(b"\n")  # ends a line that a kill cut; it is no JSON, so its case is missing
            file.write(lines.encode())

    def finish(self, outputs: Path) -> None:
        self.write_results(outputs, _journal(outputs))


def _journal(outputs: Path) -> dict[str, str]:
    """Texts by case; a line that a kill cut counts for nothing."""
    path = outputs / JOURNAL
    if not path.exists():
        return {}
    return {item["id"]: item["text"] for _, item in json_lines(path, Problems(), ("id", "text"))}
