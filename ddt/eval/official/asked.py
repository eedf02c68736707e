"""Benchmarks whose outputs are texts: captions and answers.

While a model answers, each answer goes to a journal beside the results, so that an interrupted run goes on
where it stopped; the official results file is written once all are there.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ddt.data.decode import read_image
from ddt.eval.benchmark import batches
from ddt.eval.official.case import Case, Official
from ddt.eval.official.files import json_lines, one_line
from ddt.eval.official.problems import Problems

JOURNAL = "answers.jsonl"


class Asked(Official):
    """Each case has one text; `read_results` and `write_results` know the official file."""

    @abstractmethod
    def read_results(self, outputs: Path, problems: Problems) -> list[tuple[str, str, str]]:
        """(where, case id, text) of everything in the official results."""

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
            else:
                found[key] = text
                if one_line(text) != text:
                    problems.add("answer with control characters", f"{where}: {text!r}", blocks=False)
        for key, case in known.items():
            if key not in found:
                problems.add("missing prediction", f"{outputs} for {case.where}: {key!r}")
        return found

    def generate(self, model: Any, outputs: Path, batch_size: int) -> int:
        outputs.mkdir(parents=True, exist_ok=True)
        journal = outputs / JOURNAL
        texts = {}
        if journal.exists():
            texts = {item["id"]: item["text"] for _, item in json_lines(journal, Problems(), ("id", "text"))}
        missing = [case for case in self.cases if case.id not in texts]
        with journal.open("a", encoding="utf-8") as file:
            if missing and texts:
                file.write("\n")  # ends a line that a kill cut; blank lines are skipped
            for batch in tqdm(list(batches(missing, batch_size)), desc=self.name, unit="batch", disable=None):
                for case, text in zip(batch, self.answer(model, batch), strict=True):
                    texts[case.id] = one_line(text).strip()
                    file.write(json.dumps({"id": case.id, "text": texts[case.id]}) + "\n")
                file.flush()
        self.write_results(outputs, texts)
        return len(missing)
