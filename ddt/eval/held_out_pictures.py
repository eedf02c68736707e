"""Benchmarks of the tokenizer alone: their cases are held-out scenes, or photographs in their place."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

import numpy as np

from ddt.data.decode import decode_image
from ddt.eval.benchmark import UNSEEN_SHARE, Benchmark, Case, make_case
from ddt.eval.report.pictures import png_bytes, rgb_array
from ddt.scenes.photo import photograph
from ddt.scenes.sample import sample_scene
from ddt.scenes.world import EVALUATION_PARTS


class HeldOutPictures(Benchmark):
    """`photos` (encoded images) take the place of scenes."""

    def __init__(
        self,
        cases: int,
        seed: int,
        image_size: int,
        decode_steps: int | None = None,
        photos: Sequence[bytes] | None = None,
    ) -> None:
        super().__init__(cases, seed, image_size, decode_steps)
        self.photos = photos

    def cases(self) -> list[Case]:
        if self.photos is not None:
            squares = [decode_image(photo, self.image_size) for photo in self.photos[: self.num_cases]]
            encoded = [base64.b64encode(png_bytes(square)).decode() for square in squares]
            return [
                make_case(self.name, i, "photo", "", "", data, self.seed) for i, data in enumerate(encoded)
            ]
        cases = []
        for index in range(self.num_cases):
            unseen = self.rng(index).random() < UNSEEN_SHARE
            cases.append(make_case(self.name, index, "scene", "", "", index, self.seed, unseen))
        return cases

    def picture(self, case: Case) -> np.ndarray:
        """uint8 [H, W, 3] of a case."""
        if self.photos is not None:
            return rgb_array(base64.b64decode(json.loads(case["data"])))
        rng = self.rng(int(case["data"]))
        rng.random()  # the draw that decided `unseen`
        return photograph(sample_scene(rng, held_out=case["unseen"], parts=EVALUATION_PARTS), self.image_size)
