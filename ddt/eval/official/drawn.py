"""Benchmarks whose outputs are pictures: text to image, and editing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ddt.data.decode import read_image
from ddt.eval.official.case import Case, Made, Official
from ddt.eval.official.files import write_whole
from ddt.eval.official.problems import Problems
from ddt.eval.report.pictures import png_bytes

SUFFIXES = (".png", ".jpg", ".jpeg")


class Drawn(Official):
    """Each case's picture is the file `case.output` below the outputs' folder."""

    def found(self, outputs: Path, problems: Problems) -> dict[str, Path]:
        expected = {outputs / case.output: case for case in self.cases}
        there = set(self.pictures(outputs))
        for path in sorted(there - expected.keys()):
            problems.add("extra image, not scored", str(path), blocks=False)
        found = {}
        for path, case in expected.items():
            if path not in there:
                problems.add("missing image", f"{path} for {case.where}")
                continue
            if is_picture(path, problems):
                found[case.id] = path
        return found

    def pictures(self, outputs: Path) -> Iterable[Path]:
        """All files that the official script would take for pictures."""
        return (path for path in outputs.rglob("*") if path.suffix.lower() in SUFFIXES)

    def missing(self, outputs: Path) -> list[Case]:
        return [case for case in self.cases if not is_picture(outputs / case.output, Problems())]

    def make(self, model: Any, cases: Sequence[Case], outputs: Path) -> list[Made]:
        return [png_bytes(image) for image in self.draw(model, cases, outputs)]

    def place(self, outputs: Path, made: Mapping[str, Made]) -> None:
        names = {case.id: case.output for case in self.cases}
        for key, png in made.items():
            assert isinstance(png, bytes)
            write_whole(outputs / names[key], png)

    def draw(self, model: Any, cases: Sequence[Case], outputs: Path) -> list[Image.Image]:
        """The model's pictures for some cases; `outputs` has those of the rounds before."""
        return model.generate_image([case.text for case in cases], seed=[case.seed for case in cases])


class Edited(Drawn):
    """Pictures made by editing `case.image` as `case.text` says, to be compared with `case.target`.

    A case without a readable target, or without the source that is its floor, can't be scored.
    """

    ceiling_is = (
        "the ground-truth edit as it is, through the same scorer; what the image tokenizer loses of a "
        "picture is measured by the benchmark `reconstruction`"
    )

    def found(self, outputs: Path, problems: Problems) -> dict[str, Path]:
        found = super().found(outputs, problems)
        told: dict[Path, str] = {}  # what is wrong with a picture, "" where nothing is
        for case in self.cases:
            for path in self.compared(case) if case.id in found else ():
                if path not in told:
                    told[path] = fault(path)
                if told[path]:
                    problems.add(
                        "picture of the data missing or unreadable", f"{told[path]}, for {case.where}"
                    )
                    found.pop(case.id, None)
        return found

    def compared(self, case: Case) -> list[Path]:
        """Pictures of the data that a case's score needs."""
        return [self.image_path(case.target), self.image_path(case.image)]

    def comparable(self, case: Case) -> bool:
        """Whether they are there; `found` tells of those that are not."""
        return all(path.is_file() for path in self.compared(case))

    def draw(self, model: Any, cases: Sequence[Case], outputs: Path) -> list[Image.Image]:
        sources = [self.picture(case, model) for case in cases]
        return model.edit_image(sources, [case.text for case in cases], seed=[case.seed for case in cases])


def is_picture(path: Path, problems: Problems) -> bool:
    """Whether the file is readable to its end; a problem where it is not."""
    told = fault(path)
    if told:
        problems.add("unreadable image", told)
    return not told


def fault(path: Path) -> str:
    """Why a file can't be read to its end as a picture; "" where it can."""
    try:
        read_image(path)
    except ValueError as error:
        return str(error)
    return ""
