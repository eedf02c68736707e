"""EVR and MA5K: pictures edited by request, compared with what a person made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ddt.data.decode import read_image
from ddt.eval.benchmark import Score, mean_score
from ddt.eval.metrics import image_l1
from ddt.eval.official.case import Case, Scored, halves
from ddt.eval.official.drawn import Edited
from ddt.eval.official.fields import ID, TEXT, list_of
from ddt.eval.official.files import json_of, records_of
from ddt.eval.scorers import Scorers

CLIP = "openai/clip-vit-base-patch32"
Pair = tuple[Path, Path, Path | None]  # output, target, source


def both(pair: Pair, measure: Callable[[Image.Image, Image.Image], float]) -> tuple[float, float]:
    """`measure` of output and target, and of source and target (nan where there is no source)."""
    output, target, source = pair
    wanted = read_image(target)
    return measure(read_image(output), wanted), (
        np.nan if source is None else measure(read_image(source), wanted)
    )


def l1(pair: Pair) -> tuple[float, float]:
    """Mean absolute difference, 0..1."""
    return both(pair, image_l1)


def cvs(pair: Pair, scorers: Scorers) -> tuple[float, float]:
    """Cosine of CLIP's embeddings, of output and target, and of source and target."""
    images = [read_image(path) for path in pair if path is not None]
    output, target, *source = scorers.clip(CLIP).embed_images(images).numpy()
    return float(output @ target), float(source[0] @ target) if source else np.nan


def lpips(pair: Pair, scorers: Scorers) -> tuple[float, float]:
    """LPIPS after resizing to the target."""
    distance = scorers.lpips()
    return both(pair, lambda a, b: distance(_fitted(a, b), b))


# Lowest and highest value of each metric; LPIPS has no highest.
SPANS: dict[str, tuple[float, float] | None] = {"l1": (0.0, 1.0), "cvs": (-1.0, 1.0), "lpips": None}


def edit_score(name: str, values: Sequence[tuple[float, float]]) -> Score:
    """The mean of the first numbers of metric `name`; the floor is that of the second ones, of the unedited
    sources.
    """
    higher_is_better = name == "cvs"
    values_N2 = np.array(values)
    known = ~np.isnan(values_N2[:, 1])
    floors = {"unedited source": values_N2[known, 1]} if known.any() else {}
    ceiling = np.full(len(values_N2), 1.0 if higher_is_better else 0.0)
    return mean_score(values_N2[:, 0], ceiling, floors, higher_is_better, span=SPANS[name])


class Requests(Edited):
    """A picture, a request and the picture a person made; outputs: `<id>.png`."""

    def measures(self, case: Case, output: Path, scorers: Scorers) -> dict[str, tuple[float, float]]:
        """Each metric's numbers of the output and of the unedited source."""
        pair = (output, self.image_path(case.target), self.image_path(case.image))
        return scorers.once((self.name, case.id, str(output)), lambda: self.compare(pair, scorers))

    def compare(self, pair: Pair, scorers: Scorers) -> dict[str, tuple[float, float]]:
        """The metrics of one edit."""
        raise NotImplementedError

    def measure(self, case: Case, output: Path, scorers: Scorers) -> None:
        if self.comparable(case):
            self.measures(case, output, scorers)

    def score(self, found: Mapping[str, Path], scorers: Scorers) -> Scored:
        cases = self.with_output(found)
        every = [self.measures(case, found[case.id], scorers) for case in cases]
        scores = {
            f"{self.name}/{name}": edit_score(name, [each[name] for each in every]) for name in every[0]
        }
        return Scored(scores, halves(cases, [each["l1"][0] for each in every], "L1", higher_is_better=False))


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
        fields = {"img0": TEXT, "img1": TEXT, "sents": list_of(TEXT), "uid": ID}
        for _, where, item in records_of(path, json_of(path), self.problems, fields):
            sentences = item["sents"] if self.settings["requests"] == "all" else item["sents"][:1]
            cases += [
                Case(f"{item['uid']}_{k}", text, where, image=item["img0"], target=item["img1"],
                     output=f"{item['uid']}_{k}.png")
                for k, text in enumerate(sentences)
            ]  # fmt: skip
        self.published = PAIRS_EVR * (REQUESTS_EVR if self.settings["requests"] == "all" else 1)
        return cases

    def compare(self, pair: Pair, scorers: Scorers) -> dict[str, tuple[float, float]]:
        return {"l1": l1(pair), "cvs": cvs(pair, scorers)}


PAIRS_EVR, REQUESTS_EVR = 495, 3


class MA5K(Requests):
    """Requests about photographs of MIT-Adobe FiveK."""

    name = "ma5k"
    files_help = "test_sess_1.json of T2ONet's data/FiveK/annotations"
    published = 4950

    def read(self) -> list[Case]:
        path = self.files[0]
        fields = {"input": TEXT, "output": TEXT, "request": TEXT}
        return [
            Case(f"{number:05d}", item["request"], where, image=item["input"], target=item["output"],
                 output=f"{number:05d}.png")
            for number, where, item in records_of(path, json_of(path), self.problems, fields)
        ]  # fmt: skip

    def compare(self, pair: Pair, scorers: Scorers) -> dict[str, tuple[float, float]]:
        found = {"l1": l1(pair)}
        return found | {"lpips": lpips(pair, scorers)} if "lpips" in scorers.models else found


def _fitted(image: Image.Image, target: Image.Image) -> Image.Image:
    return image if image.size == target.size else image.resize(target.size, Image.Resampling.BICUBIC)
