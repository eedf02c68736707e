"""What every published benchmark is: cases from its files, outputs in its layout, scores from outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ddt.eval.benchmark import Score
from ddt.eval.official.problems import Problems
from ddt.eval.scorers import Scorers

Made = bytes | str  # an output: a PNG, or a text


@dataclass(frozen=True)
class Case:
    """One thing to ask of a model. `where` is the file and line it was read from."""

    id: str
    text: str
    where: str
    group: str = ""
    image: str = ""  # below the images' folder: what the text is about, or what is to be edited
    target: str = ""  # below the same folder: ground truth of an edit
    output: str = ""  # below the outputs' folder, where the output is a picture
    seed: int = 0
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """A case as the scorer sees it: its value, whether that is right, and why, for people to look at."""

    case: Case
    value: float
    right: bool
    reason: str


@dataclass(frozen=True)
class Scored:
    """Scores by name, and the cases behind them."""

    scores: dict[str, Score]
    judged: list[Judged]


def halves(
    cases: Sequence[Case], values: Sequence[float], unit: str, higher_is_better: bool = True
) -> list[Judged]:
    """Cases of a measure without a right and a wrong: the better half, by the median, stands for right."""
    sign = 1 if higher_is_better else -1
    middle = sorted(sign * value for value in values)[len(values) // 2]
    return [
        Judged(case, value, sign * value >= middle, f"{unit} {value:.3f}")
        for case, value in zip(cases, map(float, values), strict=True)
    ]


def judged_as(cases: Sequence[Case], read: Sequence[str]) -> list[Judged]:
    """Cases whose answer was read as yes, no or anything else, against the `label` in their data."""
    judged = []
    for case, answer in zip(cases, read, strict=True):
        label = case.data["label"].lower()
        reason = "" if answer == label else f"read as {answer}, expected {label}"
        judged.append(Judged(case, float(answer == label), answer == label, reason))
    return judged


class Official(ABC):
    """A benchmark read from its official files, unchanged.

    `problems` holds what reading found. `published` is the number of cases of the full set (None where it
    depends on the files given): any other number is a problem, so that a file cut at a line's end is seen.
    """

    name: ClassVar[str]
    files_help: ClassVar[str]
    published: int | None = None

    def __init__(
        self, files: Sequence[Path], images: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        if not files:
            raise ValueError(f"{self.name}: no data files; expected {self.files_help}")
        self.files, self.images_folder = list(files), images
        self.settings = {**self.defaults(), **self._checked(settings or {})}
        self.problems = Problems()
        self.cases = self._unique(self.read())
        if self.published is not None and len(self.cases) != self.published:
            found = f"{', '.join(map(str, files))} ({len(self.cases)} cases)"
            self.problems.add(f"number of cases that is not the published {self.published}", found)

    @classmethod
    def defaults(cls) -> dict[str, str]:
        """What the paper leaves open, with the default taken."""
        return {}

    @abstractmethod
    def read(self) -> list[Case]:
        """All cases of the files; what can't be read goes to `problems`."""

    @abstractmethod
    def found(self, outputs: Path, problems: Problems) -> dict[str, Any]:
        """Output of each case by its id; what is missing, extra or unreadable goes to `problems`."""

    @abstractmethod
    def score(self, found: Mapping[str, Any], scorers: Scorers) -> Scored:
        """Scores of the cases that have an output."""

    def measure(self, case: Case, output: Any, scorers: Scorers) -> None:
        """Let the scorers' models look at one output; the scorers keep what they find for `score`.

        It can be called while other outputs are still being generated.
        """
        return None

    @abstractmethod
    def missing(self, outputs: Path) -> list[Case]:
        """Cases that have no output yet, in order."""

    def rounds(self) -> list[list[Case]]:
        """Cases in parts of which each needs the outputs of those before it."""
        return [self.cases]

    @abstractmethod
    def make(self, model: Any, cases: Sequence[Case], outputs: Path) -> list[Made]:
        """The model's outputs for some cases."""

    @abstractmethod
    def place(self, outputs: Path, made: Mapping[str, Made]) -> None:
        """Put outputs, by their case's id, where `missing` finds them."""

    def finish(self, outputs: Path) -> None:
        """What the official layout needs beside, once nothing is missing."""
        return None

    def image_path(self, name: str) -> Path:
        """An image below the images' folder; ValueError where no such folder was given."""
        if self.images_folder is None:
            raise ValueError(f"{self.name}: needs the folder of its images (--images)")
        return self.images_folder / name

    def with_output(self, found: Mapping[str, Any]) -> list[Case]:
        """Cases that have an output, in order; ValueError if there is none."""
        cases = [case for case in self.cases if case.id in found]
        if not cases:
            raise ValueError(f"{self.name}: no case has an output")
        return cases

    def _checked(self, settings: Mapping[str, str]) -> Mapping[str, str]:
        allowed = self.defaults()
        for key in settings:
            if key not in allowed:
                raise ValueError(
                    f"{self.name}: no setting {key!r}, allowed are {', '.join(allowed) or 'none'}"
                )
        return settings

    def _unique(self, cases: Sequence[Case]) -> list[Case]:
        known: dict[str, Case] = {}
        for case in cases:
            if case.id in known:
                self.problems.add(
                    "duplicate id", f"{case.where}: {case.id!r}, first at {known[case.id].where}"
                )
            else:
                known[case.id] = case
        return list(known.values())
