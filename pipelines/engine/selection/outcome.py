"""What is told of a selection beside its pairs: with both there, nothing has to be counted again."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from ddt.data.topk import TopK
from ddt.data.verdicts import VERDICTS, Tally
from ddt.manifest import Commit, commits, unit_id, write_unit
from pipelines.engine.runner import StageContext
from pipelines.engine.selection.plan import Plan

OUTCOME = "outcome"  # the step of the stage that it is recorded as


@dataclass(frozen=True)
class Outcome:
    """The cut at K, counts of all rows, and which rows to show as examples (`examples.examples`). `sources`:
    by the folder of their source shards, how many rows have each verdict before the cut.
    """

    selection: TopK
    tally: Tally
    examples: dict[str, list[dict[str, Any]]]
    sources: dict[str, dict[str, int]]

    def save(self, ctx: StageContext) -> None:
        """Recorded like a unit."""
        text = json.dumps(
            {
                "selection": asdict(self.selection),
                "tally": self.tally.to_array().tolist(),
                "examples": self.examples,
                "sources": self.sources,
            }
        )
        with tempfile.TemporaryDirectory(prefix="ddt-outcome-") as folder:
            path = Path(folder) / "outcome.json"
            path.write_text(text)
            unit = unit_id(OUTCOME, ctx.fingerprint)
            write_unit(ctx.store, f"{ctx.name}/{OUTCOME}", ctx.fingerprint, unit, path, 1)

    @classmethod
    def load(cls, ctx: StageContext) -> Self | None:
        """None where it has not been saved."""
        for made in commits(ctx.store, f"{ctx.name}/{OUTCOME}", ctx.fingerprint).values():
            found = json.loads(ctx.store.get_bytes(made.key))
            tally = Tally.from_array(np.array(found["tally"]))
            return cls(TopK(**found["selection"]), tally, found["examples"], found["sources"])
        return None


def by_source(
    plan: Plan, survivors: Sequence[Commit], folders: Mapping[str, str]
) -> dict[str, dict[str, int]]:
    """`sources` of an Outcome. folders: key of a record shard -> the folder of its source."""
    found: dict[str, Counter[str]] = {}
    for group, commit in zip(plan.groups, survivors, strict=True):
        for scores, counts in zip(group.scores, commit.stats["verdicts"], strict=True):
            folder = folders.get(scores.stats["records"], "unknown")
            found.setdefault(folder, Counter()).update(dict(zip(VERDICTS, counts, strict=True)))
    return {folder: {k: v for k, v in counts.items() if v} for folder, counts in sorted(found.items())}
