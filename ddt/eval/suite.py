"""The benchmarks of a run, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ddt.eval.benchmark import Benchmark
from ddt.eval.held_out_pictures import HeldOutPictures
from ddt.eval.reconstruct import Reconstruct
from ddt.eval.recursion import Recursion
from ddt.eval.scenes.caption import Captioning
from ddt.eval.scenes.choice import Choice
from ddt.eval.scenes.edit import Editing
from ddt.eval.scenes.geneval import GenEval
from ddt.eval.scenes.mme import MME
from ddt.eval.scenes.pope import POPE
from ddt.eval.scenes.questions import Asked
from ddt.eval.scenes.t2i import T2I
from ddt.eval.scenes.vqa import VQA
from ddt.eval.text_perplexity import Perplexity

BENCHMARKS: dict[str, type[Benchmark]] = {
    cls.name: cls
    for cls in (Reconstruct, Recursion, GenEval, T2I, VQA, POPE, MME, Choice, Captioning, Editing, Perplexity)
}
NEEDS_SCENES = "does not apply: it needs the exact ground truth of scenes, and these are photographs"


class SuiteConfig(Protocol):
    """What a suite is made from; the `evaluate` section of params.yaml has these keys."""

    @property
    def benchmarks(self) -> tuple[str, ...]: ...
    @property
    def cases(self) -> int: ...
    @property
    def questions(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def decode_steps(self) -> int: ...


@dataclass(frozen=True)
class Photographs:
    """Held-out records of a run on real data: encoded images and their captions, in a fixed order."""

    images: Sequence[bytes]
    captions: Sequence[str]


def suite(config: SuiteConfig, image_size: int, photographs: Photographs | None = None) -> list[Benchmark]:
    """The benchmarks named by `config`, in its order; those that need scenes are left out for photographs.

    `does_not_apply` names what was left out. ValueError for a name that is no benchmark, or one named twice.
    """
    chosen: list[Benchmark] = []
    for name in _applicable(config, photographs):
        count = config.questions if issubclass(BENCHMARKS[name], Asked) else config.cases
        settings = (count, config.seed, image_size, config.decode_steps)
        benchmark = BENCHMARKS[name]
        if photographs is None or not issubclass(benchmark, HeldOutPictures | Perplexity):
            chosen.append(benchmark(*settings))
        elif issubclass(benchmark, HeldOutPictures):
            chosen.append(benchmark(*settings, photos=photographs.images))
        else:
            chosen.append(benchmark(*settings, captions=photographs.captions))
    return chosen


def does_not_apply(config: SuiteConfig, photographs: Photographs | None) -> dict[str, str]:
    """Benchmarks that `suite` leaves out, each with the reason."""
    left_out = set(config.benchmarks) - set(_applicable(config, photographs))
    return {name: NEEDS_SCENES for name in config.benchmarks if name in left_out}


def _applicable(config: SuiteConfig, photographs: Photographs | None) -> list[str]:
    names = list(config.benchmarks)
    for name in names:
        if name not in BENCHMARKS:
            raise ValueError(f"evaluate.benchmarks: unknown {name!r}, allowed are {', '.join(BENCHMARKS)}")
        if names.count(name) > 1:
            raise ValueError(f"evaluate.benchmarks: {name!r} is named twice")
    return [name for name in names if photographs is None or not BENCHMARKS[name].needs_scenes]
