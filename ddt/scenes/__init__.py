"""The embedded world of scenes: pictures, texts and exact ground truth, with no download."""

from __future__ import annotations

from pathlib import Path

from ddt.scenes.render import render
from ddt.scenes.sample import sample_scene, scene_from_spec
from ddt.scenes.world import Object, Scene, scene_from_dict

WEIGHTS = ("clip", "captioner", "bpe")


def weights_dir(name: str) -> Path:
    """Folder with the embedded weights `name` (clip, captioner, bpe), as handed to `from_pretrained`.

    ValueError for another name. The folder exists once `python -m pipelines judges` has made it.
    """
    if name not in WEIGHTS:
        raise ValueError(f"scenes:{name}: no such weights, allowed are {', '.join(WEIGHTS)}")
    return Path(__file__).parent / "weights" / name


__all__ = [
    "Object", "Scene", "render", "sample_scene", "scene_from_dict", "scene_from_spec",
    "weights_dir",
]  # fmt: skip
