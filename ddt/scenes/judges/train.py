"""Makes the judges: trains them in order, measures each on fresh scenes, writes the model cards."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ddt.scenes import WEIGHTS, weights_dir

ORDER = ("bpe", "clip", "captioner")  # each needs those before it
CARD = "measured.json"
Measured = dict[str, float]


def make(
    out_dir: str | Path,
    which: Sequence[str] = ORDER,
    steps: Mapping[str, int] | None = None,
    seed: int = 0,
    progress: bool = True,
    rows: int = 1000,
) -> dict[str, Measured]:
    """Train the judges `which` into `out_dir`/{bpe,clip,captioner}; returns what was measured of each.

    steps: optimizer steps of "clip" and "captioner" where they should differ from the defaults (about ten
    minutes each on two cores). rows: fresh scenes, seen and held-out each, that they are measured on. A
    judge that is needed but not asked for is taken from `out_dir`, else from the embedded weights.
    ValueError for unknown names.
    """
    for name in (*which, *(steps or {})):
        if name not in ORDER:
            raise ValueError(f"judge {name!r}: unknown, allowed are {', '.join(ORDER)}")
    root = Path(out_dir)
    measured: dict[str, Measured] = {}
    for name in (name for name in ORDER if name in which):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        measured[name] = _MAKERS[name](root, (steps or {}).get(name), seed, progress, rows)
        (folder / CARD).write_text(json.dumps(measured[name], indent=1, sort_keys=True) + "\n")
    return measured


def _needed(root: Path, name: str) -> Path:
    """The folder of a judge that another one starts from."""
    assert name in WEIGHTS
    return root / name if (root / name / CARD).exists() else weights_dir(name)


def _make_bpe(root: Path, steps: int | None, seed: int, progress: bool, rows: int) -> Measured:
    from ddt.scenes.judges import bpe

    return bpe.train_bpe(root / "bpe", seed=seed)


def _make_clip(root: Path, steps: int | None, seed: int, progress: bool, rows: int) -> Measured:
    from ddt.scenes.judges import clip, measure

    clip.train_clip(
        root / "clip", _needed(root, "bpe"), steps=steps or clip.STEPS, seed=seed, progress=progress
    )
    return measure.measure_clip(root / "clip", rows)


def _make_captioner(root: Path, steps: int | None, seed: int, progress: bool, rows: int) -> Measured:
    from ddt.scenes.judges import captioner, measure

    captioner.train_captioner(
        root / "captioner",
        _needed(root, "bpe"),
        _needed(root, "clip"),
        steps=steps or captioner.STEPS,
        seed=seed,
        progress=progress,
    )
    return measure.measure_captioner(root / "captioner", rows)


_MAKERS: dict[str, Callable[[Path, int | None, int, bool, int], Measured]] = {
    "bpe": _make_bpe,
    "clip": _make_clip,
    "captioner": _make_captioner,
}
