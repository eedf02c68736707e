"""How well the judges judge, on fresh scenes as they come in a crawl, seen and held out apart.

"Seen" and "held out" are the combinations that the judged models train on or not; the judges know both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ddt.data.captioner import Captioner
from ddt.data.clip_score import ClipScorer
from ddt.scenes.crawl import different_scene
from ddt.scenes.judges.mutate import mutate
from ddt.scenes.judges.reading import described, holds, objects_of, read
from ddt.scenes.photo import photograph
from ddt.scenes.sample import sample_scene
from ddt.scenes.text import long_caption, short_caption
from ddt.scenes.world import Scene

SEED = 20_000_000  # far from the training's
SIDES_PX = (32, 64)
CLEAN_LOST = 0.02  # share of clean pairs that the threshold may drop


@dataclass(frozen=True)
class Case:
    """A scene, its picture, and captions: true, of a different scene, of a near miss (None if true)."""

    scene: Scene
    image: Image.Image
    true: dict[str, str]
    wrong: dict[str, str]
    near: dict[str, str | None]


def draw_cases(rows: int, *, held_out: bool, seed: int = SEED) -> list[Case]:
    """`rows` cases as the crawl has them: JPEG of quality 100, half of them of 32 px and half of 64."""
    cases = []
    for index in range(rows):
        rng = np.random.default_rng([seed, int(held_out), index])
        scene = sample_scene(rng, held_out=held_out)
        near = mutate(rng, scene)
        texts = [_captions(member, index) for member in (scene, different_scene(scene, rng), near)]
        cases.append(
            Case(
                scene=scene,
                image=Image.fromarray(photograph(scene, SIDES_PX[index % 2])),
                true=texts[0],
                wrong=texts[1],
                near={key: None if holds(read(text), scene) else text for key, text in texts[2].items()},
            )
        )
    return cases


def _captions(scene: Scene, wording: int) -> dict[str, str]:
    return {
        "short": short_caption(scene, np.random.default_rng(wording)),
        "long": long_caption(scene, np.random.default_rng(wording)),
    }


def measure_clip(folder: Path, rows: int) -> dict[str, float]:
    """Shares of wrong and nearly right captions below the threshold that 2 % of clean pairs fall under.

    The threshold is that of the short captions of seen combinations, as native captions of a crawl are.
    """
    scorer = ClipScorer(str(folder))
    measured: dict[str, float] = {}
    for group, held_out in (("seen", False), ("held_out", True)):
        cases = draw_cases(rows, held_out=held_out)
        images = [case.image for case in cases]
        for form in ("short", "long"):
            true = scorer.score(images, [case.true[form] for case in cases])
            wrong = scorer.score(images, [case.wrong[form] for case in cases])
            missed = [(case.image, text) for case in cases if (text := case.near[form]) is not None]
            near = scorer.score([image for image, _ in missed], [text for _, text in missed])
            if not measured:
                measured["threshold"] = float(np.quantile(true, CLEAN_LOST))
            key = f"{group}/{form}"
            measured[f"{key}/clean_lost"] = float((true < measured["threshold"]).mean())
            measured[f"{key}/wrong_dropped"] = float((wrong < measured["threshold"]).mean())
            measured[f"{key}/near_miss_dropped"] = float((near < measured["threshold"]).mean())
            measured[f"{key}/near_miss_auc"] = _auc(true, near)
            measured[f"{key}/mean_true"] = float(true.mean())
            measured[f"{key}/mean_wrong"] = float(wrong.mean())
    return {key: round(value, 4) for key, value in measured.items()}


def _auc(high: np.ndarray, low: np.ndarray) -> float:
    """Chance that a random one of `high` is above a random one of `low`."""
    return float(np.searchsorted(np.sort(low), high).mean() / max(1, len(low)))


def measure_captioner(folder: Path, rows: int) -> dict[str, float]:
    """Shares of objects with all five attributes right, of invented objects, of perfect captions."""
    captioner = Captioner(str(folder))
    measured: dict[str, float] = {}
    for group, held_out in (("seen", False), ("held_out", True)):
        cases = draw_cases(rows, held_out=held_out)
        captions = captioner.caption([case.image for case in cases])
        found = [described(caption) for caption in captions]
        there = [objects_of(case.scene) for case in cases]
        right = sum(sum((a & b).values()) for a, b in zip(found, there, strict=True))
        measured[f"{group}/objects_right"] = right / sum(sum(counts.values()) for counts in there)
        measured[f"{group}/objects_invented"] = 1 - right / max(
            1, sum(sum(counts.values()) for counts in found)
        )
        perfect = [holds(read(caption), case.scene) for caption, case in zip(captions, cases, strict=True)]
        measured[f"{group}/captions_right"] = float(np.mean(perfect))
    return {key: round(value, 4) for key, value in measured.items()}
