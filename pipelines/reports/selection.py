"""The numbers and pictures of the stage `select`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddt.data.topk import TopK
from ddt.data.verdicts import KEPT, SCORE_EDGES, VERDICTS, Tally
from ddt.records import read_columns
from ddt.store import Store
from pipelines.reports.curation import planted_selection
from pipelines.reports.pictures import record_grid, score_counts


def selection_metrics(selection: TopK, tally: Tally) -> dict[str, float]:
    """Counts by verdict, the cut, and what became of planted faults."""
    return {
        **{f"select/{name}": count for name, count in tally.by_verdict().items()},
        "select/threshold": selection.threshold,
        "select/ties_at_threshold": selection.num_ties,
        **planted_selection(tally),
    }


def source_table(sources: Mapping[str, Mapping[str, int]]) -> list[list[str]]:
    """A row for each source, a column for each verdict that any of its rows has (`Outcome.sources`)."""
    reasons = [name for name in VERDICTS if any(name in counts for counts in sources.values())]
    rows = [[folder, *(str(counts.get(name, 0)) for name in reasons)] for folder, counts in sources.items()]
    return [["source", *("left" if name == VERDICTS[KEPT] else name for name in reasons)], *rows]


def selection_pictures(
    store: Store, tally: Tally, examples: Mapping[str, Mapping[str, Any]], folder: Path
) -> dict[str, Path]:
    """By title: the scores of kept and dropped pairs, and examples of each (`Outcome.examples`)."""
    pictures = {"CLIP score of the native caption, kept and dropped": folder / "scores.png"}
    score_counts({"kept": tally.kept_scores, "dropped": tally.dropped_scores}, SCORE_EDGES).save(
        folder / "scores.png"
    )
    for name, shown in examples.items():
        if shown["rows"]:
            path = pictures[f"{name.title()} pairs"] = folder / f"{name}.png"
            record_grid(_rows(store, shown)).save(path)
    return pictures


def _rows(store: Store, shown: Mapping[str, Any]) -> list[dict[str, Any]]:
    table = read_columns(store.open(shown["records"]), ["image", "caption"], shown["rows"])
    return [row | {"note": note} for row, note in zip(table.to_pylist(), shown["notes"], strict=True)]
