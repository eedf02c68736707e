"""The gate on the selected pairs, and the statistics of each shard that it looks at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ddt.manifest import Commit
from ddt.records import read_shard
from ddt.sections.curation import SelectParams
from ddt.store import Store
from pipelines.services.expectations import Expectation, GateResult, validate

SAMPLE_ROWS, SAMPLE_SHARDS, THRESHOLD_SHARDS = 2000, 16, 4
OUTSIDE = 0.01  # of the long captions of a shard: one of 200 M that is empty stops nothing


def pair_stats(pairs: Sequence[dict[str, Any]], longest: int) -> dict[str, Any]:
    """What the gate looks at in every shard of pairs; long captions have `longest` words at most."""
    if not pairs:
        return {"mean_score": 0.0}
    scores = [pair["score"] for pair in pairs]
    short, long = (np.array([len(pair[name].split()) for pair in pairs]) for name in ("short", "long"))
    return {
        "mean_score": float(np.mean(scores)),
        "min_score": min(scores),
        "max_score": max(scores),
        "distinct_ids": len({pair["sample_id"] for pair in pairs}),
        "min_short_words": int(short.min()),
        "long_captions_outside": float(((long < 1) | (long > longest)).mean()),
    }


def check_pairs(
    store: Store, made: Sequence[Commit], params: SelectParams, folder: Path, drift: float | None = None
) -> GateResult:
    """The gate on the curated data: the selection as a whole, every shard by its statistics, and rows: a
    seeded sample of them and those with the lowest score.

    drift: how far the scores are from those of the version before, 0 to 1; None where there is none.
    """
    total = sum(c.rows for c in made)
    mean = sum(c.rows * c.stats["mean_score"] for c in made) / max(1, total)
    selection = pd.DataFrame({"pairs": [total], "mean_score": [mean]})
    shards = pd.DataFrame([{"rows": c.rows, **c.stats} for c in made if c.rows])
    shards["repeated_ids"] = shards["rows"] - shards["distinct_ids"]

    def between(column: str, low: float | None, high: float | None = None) -> Expectation:
        limits = {k: v for k, v in (("min_value", low), ("max_value", high)) if v is not None}
        return Expectation("ExpectColumnValuesToBeBetween", {"column": column, **limits})

    selection_expectations = [
        between("pairs", params.keep, params.keep),
        between("mean_score", params.gate_min_mean_score),
    ]
    if drift is not None and params.gate_max_score_drift is not None:
        selection["score_drift"] = drift
        selection_expectations.append(between("score_drift", None, params.gate_max_score_drift))
    longest = params.gate_max_long_caption_words
    shard_expectations = [
        between("min_score", -1.0),
        between("max_score", None, 1.0),
        between("repeated_ids", 0, 0),
        between("min_short_words", params.min_caption_words),
        between("long_captions_outside", None, OUTSIDE),
    ]
    row_expectations = [
        Expectation("ExpectColumnValuesToBeUnique", {"column": "sample_id"}),
        Expectation("ExpectColumnValuesToNotBeNull", {"column": "short"}),
        Expectation("ExpectColumnValuesToNotBeNull", {"column": "long"}),
        between("score", -1.0, 1.0),
        between("short_words", params.min_caption_words),
        between("long_words", 1, longest),
    ]
    tables = {
        "selection": (selection, selection_expectations),
        "shards": (shards, shard_expectations),
        "rows": (_gate_rows(store, made, params.seed), row_expectations),
    }
    return validate("select", tables, folder)


def _gate_rows(store: Store, made: Sequence[Commit], seed: int) -> pd.DataFrame:
    """A seeded sample of rows, and of the shards that reach lowest the rows with the lowest score."""
    filled = [c for c in made if c.rows]
    order = np.random.default_rng(seed).permutation(len(filled))[:SAMPLE_SHARDS]
    rows = _pairs(store, [filled[i] for i in sorted(order)])
    if len(rows) > SAMPLE_ROWS:
        rows = rows.sample(SAMPLE_ROWS, random_state=seed)
    lowest = sorted(filled, key=lambda c: (c.stats["min_score"], c.unit))[:THRESHOLD_SHARDS]
    rows = pd.concat([rows, _pairs(store, lowest).nsmallest(SAMPLE_ROWS, "score")])
    rows = rows[~rows.index.duplicated()]
    rows["short_words"] = rows["short"].str.split().str.len()
    rows["long_words"] = rows["long"].str.split().str.len()
    return rows


def _pairs(store: Store, shards: Sequence[Commit]) -> pd.DataFrame:
    """All rows of some shards, named by shard and place."""
    tables = {c.unit: read_shard(store.fetch(c.key)).to_pandas() for c in shards}
    return pd.concat(tables)
