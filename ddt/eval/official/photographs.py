"""Benchmarks of an image tokenizer on a folder of photographs."""

from __future__ import annotations

from typing import Any

import numpy as np

from ddt.data.decode import fitted, read_image
from ddt.eval.official.case import Case
from ddt.eval.official.drawn import SUFFIXES, Drawn


class Photographs(Drawn):
    """Data: a folder of pictures (any depth); outputs: the same names as `.png`.

    Pictures are cut to their centre square and resized to `side_px` (the paper's 256) before anything.
    """

    files_help = "a folder of pictures, such as ImageNet's validation images"
    uses_tokenizer = True

    @classmethod
    def defaults(cls) -> dict[str, str]:
        return {"side_px": "256"}

    def read(self) -> list[Case]:
        root = self.files[0]
        if not root.is_dir():
            raise ValueError(f"{root}: no such folder; expected {self.files_help}")
        self.side_px = self.count_of("side_px")
        cases: dict[str, Case] = {}
        for path in sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES):
            output = path.relative_to(root).with_suffix(".png").as_posix()
            if output in cases:
                self.problems.add("second picture of a name", f"{path}, first {cases[output].where}")
            else:
                cases[output] = Case(output, "", str(path), output=output)
        return list(cases.values())

    def original(self, case: Case) -> np.ndarray:
        """The picture that the tokenizer is given, uint8 [side, side, 3]."""
        return np.asarray(fitted(read_image(case.where), self.side_px))

    def check_side(self, tokenizer: Any) -> None:
        """ValueError for a tokenizer of pictures of another size."""
        if tokenizer.config.image_size != self.side_px:
            raise ValueError(
                f"{self.name}: the tokenizer is for {tokenizer.config.image_size} px, "
                f"asked are {self.side_px}: give --setting side_px={tokenizer.config.image_size}"
            )
