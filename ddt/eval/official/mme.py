"""MME: fourteen categories of yes/no questions, two to a picture."""

from __future__ import annotations

from collections.abc import Mapping
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
    files_help = "existence.txt count.txt ... (a file for each category)"

    def read(self) -> list[Case]:
        cases = []
        for path in self.files:
            if path.stem not in LINES:
                raise ValueError(f"{path}: no category of MME, expected one of {', '.join(LINES)} (.txt)")
            part = list(lines_of(path))
            if len(part) != LINES[path.stem]:
                self.problems.add(f"number of lines that is not {LINES[path.stem]}", f"{path} ({len(part)})")
            for number, (where, line) in enumerate(part):
                columns = line.split("\t")
                if len(columns) != 3 or columns[2].strip().lower() not in ("yes", "no"):
                    self.problems.add("line that is not image, question, Yes or No", where)
                    continue
                image, question, label = columns
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
            path = outputs / f"{category}.txt"
            cases = [case for case in self.cases if case.group == category]
            for index, (where, line) in enumerate(lines_of(path)):
                columns = line.split("\t")
                if len(columns) != 4:
                    problems.add("line that is not image, question, answer, prediction", where)
                elif index >= len(cases):
                    rows.append((where, f"{category} line {index + 1}", columns[3]))
                elif columns[:2] != [cases[index].data["image"], cases[index].text]:
                    problems.add("answer to another question at this place", where)
                else:
                    rows.append((where, cases[index].id, columns[3]))
        return rows

    def write_results(self, outputs: Path, texts: Mapping[str, str]) -> None:
        for category in dict.fromkeys(case.group for case in self.cases):
            cases = [case for case in self.cases if case.group == category]
            lines = [_line(case, texts[case.id]) for case in cases]
            write_whole(outputs / f"{category}.txt", "\n".join(lines) + "\n")

    def score(self, found: Mapping[str, str], scorers: Scorers) -> Scored:
        pairs = self._pairs(self.with_output(found))
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

    def _pairs(self, cases: list[Case]) -> dict[str, list[tuple[Case, Case]]]:
        """Two consecutive lines of a category are one picture; half a pair (a partial set) is left out."""
        there = {case.id: case for case in cases}
        pairs: dict[str, list[tuple[Case, Case]]] = {}
        for category in dict.fromkeys(case.group for case in cases):
            for number in range(0, LINES[category], 2):
                one, other = there.get(f"{category}/{number}"), there.get(f"{category}/{number + 1}")
                if one and other:
                    pairs.setdefault(category, []).append((one, other))
        if not pairs:
            raise ValueError("mme: no picture has both its answers")
        return pairs


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
