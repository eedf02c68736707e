"""Reconstruction of a folder of photographs: PSNR, SSIM, LPIPS, rFID, and the VAE's round trip as ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddt.data.decode import read_image
from ddt.eval.benchmark import Score, batches, mean_score
from ddt.eval.metrics import frechet_influence, psnr, ssim
from ddt.eval.metrics.fid import frechet_of_moments, moments
from ddt.eval.metrics.image import mse
from ddt.eval.official.case import Case, Scored, halves
from ddt.eval.official.photographs import Photographs
from ddt.eval.reconstruct import PSNR_OF_EQUAL, pooled_score
from ddt.eval.report.pictures import rgb_array
from ddt.eval.round_trip import round_trip
from ddt.eval.scorers import Scorers
from ddt.eval.statistics import bootstrap, mean_of, shuffled_partners

INCEPTION_BATCH = 32
# Lowest and highest value of each metric; LPIPS has no highest.
SPANS: dict[str, tuple[float, float] | None] = {
    "psnr": (0.0, PSNR_OF_EQUAL), "ssim": (-1.0, 1.0), "lpips": None,
}  # fmt: skip


class Reconstruction(Photographs):
    """Outputs: the pictures as the tokenizer gives them back."""

    ceiling_is = "the picture itself, or with --scorer vae= the VAE's round trip"
    name = "reconstruction"

    def draw(self, model: Any, cases: Sequence[Case], outputs: Path) -> list[Image.Image]:
        self.check_side(model)
        images = [Image.fromarray(self.original(case)) for case in cases]
        return round_trip(model, images, [case.seed for case in cases])[1]

    def measure(self, case: Case, output: Path, scorers: Scorers) -> None:
        self.measures(case, output, scorers)

    def measures(self, case: Case, output: Path, scorers: Scorers) -> dict[str, float]:
        """PSNR, SSIM, and where there are weights LPIPS, of one reconstruction."""
        return scorers.once((self.name, str(output)), lambda: self._compare(case, output, scorers))

    def _compare(self, case: Case, output: Path, scorers: Scorers) -> dict[str, float]:
        wanted, made = self.original(case), rgb_array(read_image(output))
        if made.shape != wanted.shape:
            raise ValueError(f"{output}: is {made.shape[1]} x {made.shape[0]} px, expected {wanted.shape[0]}")
        return _similarity(made, wanted, scorers) | {"mse": mse(made, wanted)}

    def score(self, found: Mapping[str, Path], scorers: Scorers) -> Scored:
        cases = self.with_output(found)
        values = [dict(self.measures(case, found[case.id], scorers)) for case in cases]
        errors = [each.pop("mse") for each in values]
        floor = self._shuffled(found, cases, scorers)
        ceiling = self._ceiling(cases, scorers)
        scores = {
            f"{self.name}/{name}": mean_score(
                [each[name] for each in values],
                ceiling[name],
                {"other reconstructions": [each[name] for each in floor]},
                higher_is_better=name != "lpips",
                span=SPANS[name],
            )
            for name in values[0]
        }
        floors = {"other reconstructions": [each["mse"] for each in floor]}
        scores[f"{self.name}/psnr_pooled"] = pooled_score(errors, floors=floors)
        if "inception" in scorers.models:
            scores[f"{self.name}/rfid"] = self._rfid(found, cases, scorers)
        return Scored(scores, halves(cases, [each["psnr"] for each in values], "PSNR"))

    def _shuffled(
        self, found: Mapping[str, Path], cases: Sequence[Case], scorers: Scorers
    ) -> list[dict[str, float]]:
        others = shuffled_partners(len(cases))
        return [
            self._compare(case, found[cases[other].id], scorers)
            for case, other in zip(cases, others, strict=True)
        ]

    def _ceiling(self, cases: Sequence[Case], scorers: Scorers) -> dict[str, list[float]]:
        """The VAE's own round trip, where one is given: a tokenizer of its latents can't be better."""
        vae = scorers.vae()
        if vae is None:
            return {"psnr": [PSNR_OF_EQUAL], "ssim": [1.0], "lpips": [0.0]}
        rows = []
        for case in cases:
            original = self.original(case)
            rows.append(_similarity(np.asarray(vae(Image.fromarray(original))), original, scorers))
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _rfid(self, found: Mapping[str, Path], cases: Sequence[Case], scorers: Scorers) -> Score:
        made = inception_features([found[case.id] for case in cases], scorers)[0]
        parts = [
            scorers.inception()([Image.fromarray(self.original(case)) for case in batch])[0]
            for batch in batches(cases, INCEPTION_BATCH)
        ]
        wanted = np.concatenate(parts)
        a, b = moments(made), moments(wanted)
        # A picture and its reconstruction are resampled together.
        influence = frechet_influence(made, a, b) + frechet_influence(wanted, b, a)
        return frechet_score(frechet_of_moments(a, b), influence)


def frechet_score(value: float, influence: np.ndarray) -> Score:
    """A Frechet distance with the bootstrap interval of its expansion to first order; the lower the better.

    `influence` [n] is that of `frechet_influence`. Of two sets that are one the distance can come out as a
    small negative number where there are fewer pictures than dimensions: that is 0.
    """
    value = max(value, 0.0)
    low, high = bootstrap(mean_of(value + influence), len(influence), span=None)
    return Score(value, max(low, 0.0), high, len(influence), ceiling=0.0, higher_is_better=False)


def inception_features(paths: Sequence[Path], scorers: Scorers) -> tuple[np.ndarray, np.ndarray]:
    """float32 features [n, 2048] and logits [n, 1008] of pictures at their own size."""
    parts = [
        scorers.inception()(read_image(path) for path in batch) for batch in batches(paths, INCEPTION_BATCH)
    ]
    features, logits = zip(*parts, strict=True)
    return np.concatenate(features), np.concatenate(logits)


def _similarity(image: np.ndarray, target: np.ndarray, scorers: Scorers) -> dict[str, float]:
    found = {"psnr": min(psnr(image, target), PSNR_OF_EQUAL), "ssim": ssim(image, target)}
    if "lpips" in scorers.models:
        found["lpips"] = scorers.lpips()(Image.fromarray(image), Image.fromarray(target))
    return found
