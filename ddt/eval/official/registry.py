"""The published benchmarks by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ddt.eval.official.captions import Flickr30K, NoCaps
from ddt.eval.official.case import Official
from ddt.eval.official.class_fid import ClassFID
from ddt.eval.official.drawbench import DrawBench
from ddt.eval.official.edits import EVR, MA5K
from ddt.eval.official.geneval import GenEval
from ddt.eval.official.gqa import GQA
from ddt.eval.official.magicbrush import MagicBrush
from ddt.eval.official.mme import MME
from ddt.eval.official.pope import POPE
from ddt.eval.official.reconstruction import Reconstruction
from ddt.eval.official.recursion import Recursion
from ddt.eval.official.seed import SEEDBench
from ddt.eval.official.t2i import Color, Complex, NonSpatial, Shape, Spatial, Texture
from ddt.eval.official.vqa import OKVQA, VizWiz, VQAv2

OFFICIAL: dict[str, type[Official]] = {
    cls.name: cls
    for cls in (
        GenEval, Color, Shape, Texture, Spatial, NonSpatial, Complex, DrawBench, EVR, MA5K, MagicBrush,
        NoCaps, Flickr30K, VQAv2, GQA, OKVQA, VizWiz, MME, SEEDBench, POPE, Reconstruction, Recursion,
        ClassFID,
    )
}  # fmt: skip


def open_benchmark(
    name: str,
    files: Sequence[Path],
    images: Path | None = None,
    settings: Mapping[str, str] | None = None,
) -> Official:
    """The benchmark read from its files; ValueError for an unknown name."""
    if name not in OFFICIAL:
        raise ValueError(f"benchmark {name!r}: unknown, allowed are {', '.join(OFFICIAL)}")
    return OFFICIAL[name](files, images, settings)
