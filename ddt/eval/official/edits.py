"""EVR and MA5K: pictures edited by request, compared with what a person made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ddt.data.decode import read_image
from ddt.eval.benchmark import Score, mean_score
from ddt.eval.metrics import image_l1
from ddt.eval.official.case import Case
from ddt.eval.official.drawn import Edited
from ddt.eval.official.files import json_of, records_of
from ddt.eval.scorers import Scorers

CLIP = "openai/clip-vit-base-patch32"


def l1_scores(pairs: Sequence[tuple[Path, Path, Path | None]]) -> np.ndarray:
    """Mean absolute difference of output and target [n, 2]; the second column has the source as output."""
    rows = []
    for output, target, source in pairs:
        wanted = read_image(target)
        rows.append(
            [
                image_l1(read_image(output), wanted),
                np.nan if source is None else image_l1(read_image(source), wanted),
            ]
        )
    return np.array(rows)


def cvs_scores(pairs: Sequence[tuple[Path, Path, Path | None]], scorers: Scorers) -> np.ndarray:
    """Cosine of CLIP's embeddings of output and target [n, 2]; the second column as in `l1_scores`."""
    clip = scorers.clip(CLIP)

    def embedded(path: Path) -> np.ndarray:
        return clip.embed_images([read_image(path)])[0].numpy()

    rows = []
    for output, target, source in pairs:
        wanted = embedded(target)
        unedited = np.nan if source is None else embedded(source) @ wanted
        rows.append([embedded(output) @ wanted, unedited])
    return np.array(rows)


def edit_score(values_N2: np.ndarray, higher_is_better: bool) -> Score:
    """The mean, with the unedited source as the floor where there is one."""
    known = ~np.isnan(values_N2[:, 1])
    floors = {"unedited source": values_N2[known, 1]} if known.any() else {}
    ceiling = np.full(len(values_N2), 1.0 if higher_is_better else 0.0)
    return mean_score(values_N2[:, 0], ceiling, floors, higher_is_better)


class Requests(Edited):
    """A picture, a request and the picture a person made; outputs: `<id>.png`."""

    def pairs(self, found: Mapping[str, Path], cases: Sequence[Case]) -> list[tuple[Path, Path, Path | None]]:
        """(output, target, source) of each case."""
        return [(found[case.id], self.image_path(case.target), self.image_path(case.image)) for case in cases]


class EVR(Requests):
    """Editing by request; setting `requests`: all (three to a pair in valid and test) or first."""

    name = "evr"
    files_help = "test.json of VisualRelationships' dataset/adobe"

    @classmethod
    def defaults(cls) -> dict[str, str]:
        return {"requests": "all"}

    def read(self) -> list[Case]:
        if self.settings["requests"] not in ("all", "first"):
            raise ValueError(f"evr: requests {self.settings['requests']!r}, allowed are all, first")
        path = self.files[0]
        cases = []
        for where, item in records_of(path, json_of(path), self.problems, ("img0", "img1", "sents", "uid")):
            sentences = item["sents"] if self.settings["requests"] == "all" else item["sents"][:1]
            cases += [
                Case(f"{item['uid']}_{k}", text, where, image=item["img0"], target=item["img1"],
                     output=f"{item['uid']}_{k}.png")
                for k, text in enumerate(sentences)
            ]  # fmt: skip
        self.published = PAIRS_EVR * (REQUESTS_EVR if self.settings["requests"] == "all" else 1)
        return cases

    def score(self, found: Mapping[str, Path], scorers: Scorers) -> dict[str, Score]:
        pairs = self.pairs(found, self.with_output(found))
        return {
            "evr/l1": edit_score(l1_scores(pairs), higher_is_better=False),
            "evr/cvs": edit_score(cvs_scores(pairs, scorers), higher_is_better=True),
        }


PAIRS_EVR, REQUESTS_EVR = 495, 3


class MA5K(Requests):
    """Requests about photographs of MIT-Adobe FiveK."""

    name = "ma5k"
    files_help = "test_sess_1.json of T2ONet's data/FiveK/annotations"
    published = 4950

    def read(self) -> list[Case]:
        path = self.files[0]
        return [
            Case(f"{number:05d}", item["request"], where, image=item["input"], target=item["output"],
                 output=f"{number:05d}.png")
            for number, (where, item) in enumerate(
                records_of(path, json_of(path), self.problems, ("input", "output", "request"))
            )
        ]  # fmt: skip

    def score(self, found: Mapping[str, Path], scorers: Scorers) -> dict[str, Score]:
        pairs = self.pairs(found, self.with_output(found))
        scores = {"ma5k/l1": edit_score(l1_scores(pairs), higher_is_better=False)}
        if "lpips" in scorers.models:
            scores["ma5k/lpips"] = edit_score(lpips_scores(pairs, scorers), higher_is_better=False)
        return scores


def lpips_scores(pairs: Sequence[tuple[Path, Path, Path | None]], scorers: Scorers) -> np.ndarray:
    """LPIPS of output and target [n, 2]; the second column as in `l1_scores`."""
    lpips = scorers.lpips()
    rows = []
    for output, target, source in pairs:
        wanted = read_image(target)
        rows.append(
            [
                lpips(_fitted(read_image(output), wanted), wanted),
                np.nan if source is None else lpips(_fitted(read_image(source), wanted), wanted),
            ]
        )
    return np.array(rows)


def _fitted(image: Image.Image, target: Image.Image) -> Image.Image:
    return image if image.size == target.size else image.resize(target.size, Image.Resampling.BICUBIC)
