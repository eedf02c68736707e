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
    def score(self, found: Mapping[str, Any], scorers: Scorers) -> dict[str, Score]:
        """Scores by name of the cases that have an output."""

    @abstractmethod
    def generate(self, model: Any, outputs: Path, batch_size: int) -> int:
        """Let the model make what is missing in the outputs; returns how many it made."""

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
