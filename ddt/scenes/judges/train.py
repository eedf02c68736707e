"""Makes the judges: trains them in order, measures each on fresh scenes, writes the model cards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ddt.scenes import weights_dir

if TYPE_CHECKING:
    from transformers import CLIPVisionModel

ORDER = ("bpe", "clip", "captioner")
CARD = "measured.json"
STEPS = {"tower": 1500, "clip": 1500, "captioner": 1500}  # 1,500 of the tower: 312 s of one core
Measured = dict[str, float]

_ABOUT = {
    "bpe": "Byte-level BPE with Llama-3's special tokens, shared by the language model, CLIP and captioner.",
    "clip": "A small CLIPModel for images of 32 px (larger ones are resized). It has seen the "
    "combinations that are held out of the judged models: a judge must know them.",
    "captioner": "A small LlavaForConditionalGeneration that writes long captions of scenes. "
    "It has seen the combinations that are held out of the judged models: a judge must know them.",
}


@dataclass(frozen=True)
class Plan:
    """How the judges are made; the vision tower is schooled once, when the first of them asks for it."""

    steps: Mapping[str, int]
    seed: int
    progress: bool
    rows: int

    @cached_property
    def tower(self) -> CLIPVisionModel:
        from ddt.scenes.judges.tower import school

        return school(steps=self.steps["tower"], seed=self.seed, progress=self.progress)


def make(
    out_dir: str | Path,
    which: Sequence[str] = ORDER,
    steps: Mapping[str, int] | None = None,
    seed: int = 0,
    progress: bool = True,
    rows: int = 1000,
) -> dict[str, Measured]:
    """Train the judges `which` into `out_dir`/{bpe,clip,captioner}; returns what was measured of each.

    steps: optimizer steps of "tower" (the vision tower that CLIP and captioner start from), "clip" and
    "captioner", where they should differ from `STEPS`. rows: fresh scenes, seen and held-out each, that they
    are measured on. Without "bpe" in `which`, the embedded tokenizer is used. ValueError for unknown names.
    """
    _check("judge", which, ORDER)
    _check("steps", steps or {}, STEPS)
    plan = Plan({**STEPS, **(steps or {})}, seed, progress, rows)
    root = Path(out_dir)
    measured: dict[str, Measured] = {}
    for name in (name for name in ORDER if name in which):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        measured[name] = _MAKERS[name](root, plan)
        (folder / CARD).write_text(json.dumps(measured[name], indent=1, sort_keys=True) + "\n")
        (folder / "README.md").write_text(model_card(name, measured[name]))
    return measured


def _check(what: str, names: Iterable[str], allowed: Iterable[str]) -> None:
    for name in names:
        if name not in allowed:
            raise ValueError(f"{what} {name!r}: unknown, allowed are {', '.join(allowed)}")


def model_card(name: str, measured: Measured) -> str:
    """The README of a judge's folder: what it is, what it learnt from, what was measured."""
    rows = "".join(f"| {key} | {value:g} |\n" for key, value in sorted(measured.items()))
    return (
        f"# scenes:{name}\n\n{_ABOUT[name]}\n\nMade from nothing by `python -m pipelines judges`, on scenes "
        "drawn by `ddt.scenes` and no other data. Use it for that world only.\n\n"
        "Measured on fresh scenes by `ddt/scenes/judges/measure.py`:\n\n"
        f"| figure | value |\n|---|---|\n{rows}"
    )


def _bpe_dir(root: Path) -> Path:
    """The tokenizer just made, else the embedded one."""
    return root / "bpe" if (root / "bpe" / CARD).exists() else weights_dir("bpe")


def _make_bpe(root: Path, plan: Plan) -> Measured:
    from ddt.scenes.judges import bpe

    return bpe.train_bpe(root / "bpe", seed=plan.seed)


def _make_clip(root: Path, plan: Plan) -> Measured:
    from ddt.scenes.judges import clip, measure

    clip.train_clip(
        root / "clip",
        _bpe_dir(root),
        plan.tower,
        steps=plan.steps["clip"],
        seed=plan.seed,
        progress=plan.progress,
    )
    return measure.measure_clip(root / "clip", plan.rows)


def _make_captioner(root: Path, plan: Plan) -> Measured:
    from ddt.scenes.judges import captioner, measure

    captioner.train_captioner(
        root / "captioner",
        _bpe_dir(root),
        plan.tower,
        steps=plan.steps["captioner"],
        seed=plan.seed,
        progress=plan.progress,
    )
    return measure.measure_captioner(root / "captioner", plan.rows)


_MAKERS: dict[str, Callable[[Path, Plan], Measured]] = {
    "bpe": _make_bpe,
    "clip": _make_clip,
    "captioner": _make_captioner,
}
