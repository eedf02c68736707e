"""What a stage tells about itself: the numbers, pictures and notes behind cards, DVC metrics and MLflow."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCORES = "scores"  # in the manifest of an evaluation: its report's, on which `promote` decides


@dataclass
class Report:
    """Outcome of one stage.

    `metrics` are flat `name: number`; `curves` map a name to [[step, value], ...]; `pictures` map a title to
    a PNG path and `pages` a title to an HTML path, both relative to the workspace; `tables` map a title to
    rows, the first being the header. `scores` has the evaluation's metrics with interval and controls
    (`Score.to_dict`). `manifest` is the key of the stage's manifest in the store. `work_seconds` is the time
    in the stage's own work, `seconds` all of it.
    """

    stage: str
    fingerprint: str = ""
    digest: str = ""
    manifest: str = ""
    seconds: float = 0.0
    work_seconds: float = 0.0
    skipped: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    rejects: dict[str, int] = field(default_factory=dict)
    curves: dict[str, list[list[float]]] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)
    pages: dict[str, str] = field(default_factory=dict)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(self.to_json())
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Report:
        """A saved report; ValueError where the file holds anything else."""
        return cls.parse(path, path.read_text())

    @classmethod
    def parse(cls, place: Path | str, text: str) -> Report:
        """A report from its JSON; ValueError naming `place` where it is none."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{place}: no report of a stage ({error}); run the stage again") from None
