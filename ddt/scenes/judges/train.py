"""Makes the judges: trains them in order, measures each on fresh scenes, writes the model cards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ddt.scenes import weights_dir

ORDER = ("bpe", "captioner", "clip")  # each may start from those before it
CARD = "measured.json"
STEPS = {"tower": 1500, "clip": 1500, "captioner": 1500}  # tower 312 s, CLIP some 500 s of a core
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
    """How the judges are made."""

    steps: Mapping[str, int]
    seed: int
    progress: bool
    rows: int


def make(
    out_dir: str | Path,
    which: Sequence[str] = ORDER,
    steps: Mapping[str, int] | None = None,
    seed: int = 0,
    progress: bool = True,
    rows: int = 1000,
) -> dict[str, Measured]:
    """Train the judges `which` into `out_dir`/{bpe,clip,captioner}; returns what was measured of each.

    steps: optimizer steps of "tower" (the captioner's vision tower, which CLIP starts from), "clip" and
    "captioner", where they should differ from `STEPS`. rows: fresh scenes, seen and held-out each, that they
    are measured on. Without "bpe" or "captioner" in `which`, the embedded tokenizer and tower are used.
    ValueError for unknown names.
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


def _made(root: Path, name: str) -> Path:
    """The judge just made, else the embedded one."""
    return root / name if (root / name / CARD).exists() else weights_dir(name)


def _make_bpe(root: Path, plan: Plan) -> Measured:
    from ddt.scenes.judges import bpe

    return bpe.train_bpe(root / "bpe", seed=plan.seed)


def _make_captioner(root: Path, plan: Plan) -> Measured:
    from ddt.scenes.judges import captioner, measure
    from ddt.scenes.judges.tower import school

    captioner.train_captioner(
        root / "captioner",
        _made(root, "bpe"),
        school(steps=plan.steps["tower"], seed=plan.seed, progress=plan.progress),
        steps=plan.steps["captioner"],
        seed=plan.seed,
        progress=plan.progress,
    )
    return measure.measure_captioner(root / "captioner", plan.rows)


def _make_clip(root: Path, plan: Plan) -> Measured:
    from ddt.scenes.judges import captioner, clip, measure

    clip.train_clip(
        root / "clip",
        _made(root, "bpe"),
        captioner.vision_tower(_made(root, "captioner")),
        steps=plan.steps["clip"],
        seed=plan.seed,
        progress=plan.progress,
    )
    return measure.measure_clip(root / "clip", plan.rows)


_MAKERS: dict[str, Callable[[Path, Plan], Measured]] = {
    "bpe": _make_bpe,
    "captioner": _make_captioner,
    "clip": _make_clip,
}
