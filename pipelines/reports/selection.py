"""The numbers and pictures of the stage `select`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


TITLES = {
    "kept": "Kept pairs",
    "dropped": "Dropped pairs",
    "threshold": "Pairs around the threshold, with what they are ranked by",
    "copies": "Copies, each after the better one that it was dropped for",
}


def selection_pictures(
    store: Store,
    tally: Tally,
    threshold: float | None,
    examples: Mapping[str, Sequence[Mapping[str, Any]]],
    folder: Path,
) -> dict[str, Path]:
    """By title: the native scores of kept and dropped pairs, and examples (`Outcome.examples`).

    threshold: the K-th native score; None where pairs are ranked by another.
    """
    pictures = {"CLIP score of the native caption, kept and dropped": folder / "scores.png"}
    counts = {"kept": tally.kept_scores, "dropped": tally.dropped_scores}
    score_counts(counts, SCORE_EDGES, threshold).save(folder / "scores.png")
    for name, shown in examples.items():
        if shown:
            path = pictures[TITLES[name]] = folder / f"{name}.png"
            record_grid(_rows(store, shown)).save(path)
    return pictures


def _rows(store: Store, shown: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The examples' image, caption and note, in their order; of a shard its rows are read together."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for key in {example["records"] for example in shown}:
        rows = sorted({example["row"] for example in shown if example["records"] == key})
        table = read_columns(store.open(key), ["image", "caption"], rows).to_pylist()
        found |= {(key, row): values for row, values in zip(rows, table, strict=True)}
    return [found[e["records"], e["row"]] | {"note": e["note"]} for e in shown]
