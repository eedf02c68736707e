"""MME: fourteen categories of yes/no questions, two to a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ddt.eval.benchmark import Score
from ddt.eval.metrics import mme, mme_parse
from ddt.eval.metrics.mme import COGNITION, PERCEPTION
from ddt.eval.official.asked import Asked, Prediction
from ddt.eval.official.case import Case, Scored, judged_as
from ddt.eval.official.files import lines_of, one_line, write_whole
from ddt.eval.official.problems import Problems
from ddt.eval.scorers import Scorers
from ddt.eval.statistics import bootstrap

# Lines of each category as published.
LINES = {
    "existence": 60, "count": 60, "position": 60, "color": 60, "posters": 294, "celebrity": 340,
    "scene": 400, "landmark": 400, "artwork": 400, "OCR": 40,
    "commonsense_reasoning": 140, "numerical_calculation": 40, "text_translation": 40, "code_reasoning": 40,
}  # fmt: skip
BEST = 200.0  # of a category: every answer and every pair right


class MME(Asked):
    """Data and outputs: `<category>.txt`; an output line is the data's line, a tab and the answer."""

    name = "mme"
    files_help = "existence.txt count.txt ... (a file for each of the fourteen categories)"
    published = sum(LINES.values())

    def read(self) -> list[Case]:
        given = {path.stem for path in self.files}
        for category in LINES:
            if category not in given:
                self.problems.add("category missing", f"{category}.txt")
        cases = []
        for path in self.files:
            if path.stem not in LINES:
                raise ValueError(f"{path}: no category of MME, expected one of {', '.join(LINES)} (.txt)")
            part = list(lines_of(path))
            if len(part) != LINES[path.stem]:
                self.problems.add(f"number of lines that is not {LINES[path.stem]}", f"{path} ({len(part)})")
            known: dict[tuple[str, str], str] = {}
            for number, (where, line) in enumerate(part):
                columns = line.split("\t")
                if len(columns) != 3 or columns[2].strip().lower() not in ("yes", "no"):
                    self.problems.add("line that is not image, question, Yes or No", where)
                    continue
                image, question, label = columns
                if (image, question) in known:
                    self.problems.add("duplicate question", f"{where}, first at {known[image, question]}")
                    continue
                known[image, question] = where
                cases.append(
                    Case(f"{path.stem}/{number}", question, where, path.stem, f"{path.stem}/{image}",
                         data={"image": image, "label": label.strip()})
                )  # fmt: skip
        return cases

    def image_path(self, name: str) -> Path:
        """Pictures lie in `<category>/` or `<category>/images/`, as published."""
        path = super().image_path(name)
        deeper = path.parent / "images" / path.name
        return deeper if deeper.is_file() else path

    def read_results(self, outputs: Path, problems: Problems) -> list[Prediction]:
        rows = []
        for category in dict.fromkeys(case.group for case in self.cases):
            ids = {(case.data["image"], case.text): case.id for case in self.cases if case.group == category}
            for where, line in lines_of(outputs / f"{category}.txt"):
                columns = line.split("\t")
                if len(columns) != 4:
                    problems.add("line that is not image, question, answer, prediction", where)
                else:
                    # By what it says, not by its place: lines before it can be missing, here or in the data.
                    image, question, _, text = columns
                    rows.append((where, ids.get((image, question), f"{category}: {image} {question}"), text))
        return rows

    def found(self, outputs: Path, problems: Problems) -> dict[str, str]:
        """The answers of pictures that have both; half a pair can't be scored."""
        found = super().found(outputs, problems)
        there = [case for case in self.cases if case.id in found]
        for pair in _pictures(there):
            for case in pair if len(pair) != 2 else ():
                problems.add("answer without the other of its picture, not scored", case.where, blocks=False)
                del found[case.id]
        return found

    def write_results(self, outputs: Path, texts: Mapping[str, str]) -> None:
        for category in dict.fromkeys(case.group for case in self.cases):
            cases = [case for case in self.cases if case.group == category]
            lines = [_line(case, texts[case.id]) for case in cases]
            write_whole(outputs / f"{category}.txt", "\n".join(lines) + "\n")

    def score(self, found: Mapping[str, str], scorers: Scorers) -> Scored:
        pairs: dict[str, list[list[Case]]] = {}
        for pair in _pictures(self.with_output(found)):
            pairs.setdefault(pair[0].group, []).append(pair)
        lines = {
            name: [_line(case, found[case.id]) for pair in part for case in pair]
            for name, part in pairs.items()
        }
        always_yes = {
            name: [_line(case, "Yes") for pair in part for case in pair] for name, part in pairs.items()
        }
        values, floors = mme(lines), mme(always_yes)
        right = {
            name: np.array(
                [[mme_parse(found[c.id]) == c.data["label"].lower() for c in pair] for pair in part]
            )
            for name, part in pairs.items()
        }
        groups = {name: [name] for name in pairs}
        groups |= {
            title: [name for name in names if name in pairs]
            for title, names in (("perception", PERCEPTION), ("cognition", COGNITION))
        }
        scores = {
            f"mme/{title}": _score(
                [right[name] for name in names],
                values[title] if title in values else values["per_category"][title],
                floors[title] if title in floors else floors["per_category"][title],
                BEST * len(names),
            )
            for title, names in groups.items()
            if names
        }
        asked = [case for part in pairs.values() for pair in part for case in pair]
        return Scored(scores, judged_as(asked, [mme_parse(found[case.id]) for case in asked]))


def _pictures(cases: Sequence[Case]) -> list[list[Case]]:
    """The questions about each picture of a category: as published two, in consecutive lines."""
    pictures: dict[str, list[Case]] = {}
    for case in cases:
        pictures.setdefault(case.image, []).append(case)
    return list(pictures.values())


def _score(right: list[np.ndarray], value: float, floor: float, ceiling: float) -> Score:
    """The sum over categories, pictures resampled within each."""
    together = np.concatenate(right)
    bounds = np.cumsum([len(part) for part in right])

    def total(indices_Rn: np.ndarray) -> np.ndarray:
        parts = np.split(together[indices_Rn], bounds[:-1], axis=1)
        return np.sum([100 * p.mean((1, 2)) + 100 * p.all(2).mean(1) for p in parts], axis=0)

    strata = np.split(np.arange(len(together)), bounds[:-1])
    low, high = bootstrap(total, strata, span=(0.0, ceiling))
    return Score(value, low, high, 2 * len(together), ceiling, floor, "always yes")


def _line(case: Case, text: str) -> str:
    return "\t".join((case.data["image"], case.text, case.data["label"], one_line(text)))
