"""What the tokens are, of times or of places, on a folder of photographs: as the stage's `recursion`."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ddt.data.decode import read_png_text
from ddt.eval import recursion
from ddt.eval.benchmark import Row, make_row
from ddt.eval.official.case import Case, Made, Scored, halves
from ddt.eval.official.photographs import Photographs
from ddt.eval.official.problems import Problems
from ddt.eval.report.pictures import png_bytes, rgb_array
from ddt.eval.scorers import Scorers

VALUES = "values"  # the name of the text in the PNG that holds what was measured
FOLDER = "pictures"  # of the outputs; plots are written beside it


class Recursion(Photographs):
    """Outputs: under `pictures/` a PNG for each that shows what was drawn and holds what was measured.

    `pictures` of the folder are taken, evenly spread over its sorted names.
    """

    name = "recursion"
    ceiling_is = "what an ideal tokenizer of that kind has; none for the PSNR of prefixes"

    @classmethod
    def defaults(cls) -> dict[str, str]:
        return {**super().defaults(), "pictures": str(recursion.MOST_CASES)}

    def read(self) -> list[Case]:
        most = self.count_of("pictures", least=2)
        if most > recursion.MOST_CASES:
            raise ValueError(
                f"recursion: pictures '{most}', expected a number from 2 to {recursion.MOST_CASES}"
            )
        cases = super().read()
        taken = np.unique(np.linspace(0, len(cases) - 1, min(most, len(cases))).round().astype(int))
        return [Case(cases[i].id, "", cases[i].where, output=f"{FOLDER}/{cases[i].output}") for i in taken]

    def pictures(self, outputs: Path) -> Any:
        return super().pictures(outputs / FOLDER)

    @cached_property
    def benchmark(self) -> recursion.Recursion:
        """The stage's benchmark on these pictures; ValueError where there are fewer than two."""
        photos = [png_bytes(self.original(case)) for case in self.cases]
        return recursion.Recursion(len(photos), 0, self.side_px, photos=photos)

    def make(self, model: Any, cases: Sequence[Case], outputs: Path) -> list[Made]:
        self.check_side(model)
        asked = [self._asked[case.id] for case in cases]
        rows = self.benchmark.run_batch(SimpleNamespace(image_tokenizer=model), asked)
        return [_with_text(row["image"], row["values"]) for row in rows]

    def found(self, outputs: Path, problems: Problems) -> dict[str, Path]:
        found = super().found(outputs, problems)
        for case in self.cases:
            if case.id in found and read_values(found[case.id]) is None:
                problems.add("picture without what was measured", str(found.pop(case.id)))
        return found

    def rows(self, found: Mapping[str, Path]) -> list[Row]:
        """Rows of the stage's benchmark of the cases that have an output."""
        return [
            make_row(
                self._asked[case.id], image=found[case.id].read_bytes(), values=read_values(found[case.id])
            )
            for case in self.with_output(found)
        ]

    def score(self, found: Mapping[str, Path], scorers: Scorers) -> Scored:
        rows = self.rows(found)
        every = {row["case_id"]: json.loads(row["values"]) for row in rows}
        drawn = {
            case.id: every[asked]["prefix_psnr"][-1]
            for case in self.with_output(found)
            if "prefix_psnr" in every[asked := self._asked[case.id]["case_id"]]
        }
        cases = [case for case in self.cases if case.id in drawn]
        scores = self.benchmark.summarize(rows)
        return Scored(scores, halves(cases, list(drawn.values()), "PSNR of all tokens"))

    @cached_property
    def _asked(self) -> dict[str, dict[str, Any]]:
        """The stage's case of each case, by its id."""
        return {case.id: asked for case, asked in zip(self.cases, self.benchmark.cases(), strict=True)}


def _with_text(png: bytes, values: str) -> bytes:
    told = PngInfo()
    told.add_text(VALUES, values, zip=True)
    buffer = io.BytesIO()
    Image.fromarray(rgb_array(png)).save(buffer, "PNG", pnginfo=told)
    return buffer.getvalue()


def read_values(path: Path) -> dict[str, Any] | None:
    """What was measured, from the text in the PNG; None where it holds none."""
    try:
        values = json.loads(read_png_text(path, VALUES) or "")
    except ValueError:
        return None
    return values if isinstance(values, dict) and "codes" in values else None
