"""FID of a folder of generated pictures against reference pictures or their statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddt.eval.benchmark import Score
from ddt.eval.metrics import frechet_influence, inception_score
from ddt.eval.metrics.fid import Moments, frechet_of_moments, moments
from ddt.eval.official.case import Case, Made, Scored
from ddt.eval.official.drawn import SUFFIXES, Drawn, is_picture
from ddt.eval.official.problems import Problems
from ddt.eval.official.reconstruction import frechet_score, inception_features
from ddt.eval.scorers import Scorers


class ClassFID(Drawn):
    """Data: a folder of reference pictures, or an .npz with `mu` and `sigma`; outputs: `images` pictures.

    The pictures are made elsewhere, for 50,000 the same number of each class; this only scores them. The
    paper's column is against ImageNet's training images (taming-transformers' "FID vs train").
    """

    ceiling_is = "0 for the distance: the reference itself; the Inception Score has none"
    name = "class_fid"
    files_help = "a folder of reference pictures, or an .npz with their mu and sigma"

    @classmethod
    def defaults(cls) -> dict[str, str]:
        return {"images": "50000"}

    def read(self) -> list[Case]:
        self.published = self.count_of("images", least=2)
        if not self.files[0].exists():
            raise ValueError(f"{self.files[0]}: no such file or folder; expected {self.files_help}")
        return [Case(f"{k:05d}", "", f"image {k + 1}") for k in range(self.published)]

    def found(self, outputs: Path, problems: Problems) -> dict[str, Path]:
        paths = sorted(self.pictures(outputs))
        readable = {
            case.id: path for case, path in zip(self.cases, paths, strict=False) if is_picture(path, problems)
        }
        for path in paths[len(self.cases) :]:
            problems.add("extra image, not scored", str(path), blocks=False)
        if len(paths) < len(self.cases):
            problems.add("missing image", f"{outputs} has {len(paths)}, expected {len(self.cases)}")
        return readable

    def make(self, model: Any, cases: Sequence[Case], outputs: Path) -> list[Made]:
        raise ValueError(f"{self.name}: generates nothing; make the pictures first, then leave --model out")

    def score(self, found: Mapping[str, Path], scorers: Scorers) -> Scored:
        if len(found) < 2:
            raise ValueError(f"{self.name}: {len(found)} pictures, needs at least 2")
        features, logits = inception_features(list(found.values()), scorers)
        own, reference = moments(features), self._reference(scorers)
        # The reference stays as it is: it is the same for every model.
        influence = frechet_influence(features, own, reference)
        mean, deviation = inception_score(logits, splits=min(10, len(logits)))
        n = len(features)
        return Scored(
            {
                "class_fid/fid": frechet_score(frechet_of_moments(own, reference), influence),
                "class_fid/inception_score": Score(mean, mean - 1.96 * deviation, mean + 1.96 * deviation, n),
            },
            [],
        )

    def _reference(self, scorers: Scorers) -> Moments:
        path = self.files[0]
        if path.is_dir():
            pictures = sorted(each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES)
            if len(pictures) < 2:
                raise ValueError(f"{path}: {len(pictures)} reference pictures, needs at least 2")
            return moments(inception_features(pictures, scorers)[0])
        try:
            with np.load(path, allow_pickle=False) as stored:
                return np.asarray(stored["mu"], np.float64), np.asarray(stored["sigma"], np.float64)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{path}: expected an .npz with mu and sigma ({error})") from None
