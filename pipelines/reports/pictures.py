"""Pictures for cards and runs: contact sheets with captions, histograms, curves."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ddt.data.decode import decode_rgb
from ddt.eval.report.compare import Line
from ddt.eval.report.paper import Table
from ddt.eval.report.pictures import CELL_PX, grid

BINS = 60


def thumbnail(data: bytes) -> Image.Image:
    """An encoded picture, shrunk to what a contact sheet shows of it."""
    picture = decode_rgb(data, CELL_PX)
    picture.thumbnail((CELL_PX, CELL_PX), Image.Resampling.LANCZOS)
    return picture


def record_grid(rows: Sequence[Mapping[str, Any]]) -> Image.Image:
    """Contact sheet of records: `image` bytes over `caption`, with an optional `note` before it."""
    titles = [" | ".join(str(row[k]) for k in ("note", "caption") if row.get(k)) for row in rows]
    return grid([thumbnail(row["image"]) for row in rows], titles)


def captioned_grid(images: Sequence[bytes], captions: Sequence[str]) -> Image.Image:
    """Contact sheet of encoded images with their captions."""
    return grid([thumbnail(data) for data in images], list(captions), columns=4)


def figure_image(figure: Any) -> Image.Image:
    """A matplotlib figure as an image; the figure is closed."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    plt.close(figure)
    return decode_rgb(buffer.getvalue())


def axes(width: float = 7, height: float = 3, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """A figure without a display, and its axes (an array of them for several rows or columns).

    `width` is the whole figure's, `height` a row's, in inches.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, figsize=(width, height * rows), sharex=True)


def score_histogram(scores: Mapping[str, np.ndarray]) -> Image.Image:
    """Overlaid histograms of named sets of CLIP scores."""
    figure, ax = axes()
    values = [v for v in scores.values() if len(v)]
    low, high = min(v.min() for v in values), max(v.max() for v in values)
    edges = np.linspace(low, high + 1e-6, BINS + 1)
    for name, v in scores.items():
        ax.hist(v, bins=edges, alpha=0.55, label=f"{name} ({len(v)})")
    ax.set_xlabel("cosine of image and caption")
    ax.set_ylabel("pairs")
    ax.legend()
    return figure_image(figure)


def score_counts(
    counts: Mapping[str, np.ndarray], edges: np.ndarray, threshold: float | None = None
) -> Image.Image:
    """The same of scores that were counted where they are, by bins between `edges`; a line at `threshold`."""
    figure, ax = axes()
    used = np.flatnonzero(sum(counts.values()))
    for name, values in counts.items():
        ax.stairs(values, edges, fill=True, alpha=0.55, label=f"{name} ({values.sum()})")
    if threshold is not None:
        ax.axvline(threshold, color="black", linewidth=1, label=f"the K-th score, {threshold:.4f}")
    ax.set_xlim(edges[used[0]], edges[used[-1] + 1])
    ax.set_xlabel("cosine of image and caption")
    ax.set_ylabel("pairs")
    ax.legend()
    return figure_image(figure)


def curve_plot(curves: Mapping[str, Sequence[Sequence[float]]], ylabel: str) -> Image.Image:
    """Named curves of [step, value]."""
    figure, ax = axes()
    for name, points in curves.items():
        steps, values = zip(*points, strict=True)
        ax.plot(steps, values, label=name)
    ax.set_xlabel("step")
    ax.set_ylabel(ylabel)
    ax.grid(alpha=0.3)
    ax.legend()
    return figure_image(figure)


def usage_plot(counts: np.ndarray) -> Image.Image:
    """How often each code is used, most used first."""
    figure, ax = axes()
    ax.bar(np.arange(len(counts)), np.sort(counts)[::-1] / max(1, counts.sum()), width=1.0)
    ax.set_xlabel("code, most used first")
    ax.set_ylabel("share")
    ax.set_title(f"{int((counts > 0).sum())} of {len(counts)} codes used")
    return figure_image(figure)


def position_plot(bars: Mapping[str, Sequence[float]]) -> Image.Image:
    """Named values of each token V_1..V_T, one row of bars a name."""
    figure, found = axes(height=2.2, rows=len(bars))
    rows = np.atleast_1d(found)
    for ax, (name, values) in zip(rows, bars.items(), strict=True):
        ax.bar(np.arange(1, len(values) + 1), values, width=0.9)
        ax.set_ylabel(name)
    rows[-1].set_xlabel("token")
    return figure_image(figure)


def paper_plot(tables: Sequence[tuple[Table, Sequence[Line]]]) -> Image.Image:
    """The paper's tables as one axis for each column: other methods, the paper's model, this model."""
    lines = [line for _, lines in tables for line in lines]
    figure, axis = axes(9, 0.27 * len(lines) + 1)
    marks: dict[str, Any] = {}
    for y, line in enumerate(reversed(lines)):
        measured = {"this model, official files": list(line.official)}
        measured["this model, own data (another scale)"] = [line.own] if line.own else []
        values = [line.paper, *line.others.values()]
        values += [end for each in sum(measured.values(), []) for end in (each.score.low, each.score.high)]
        low, span = min(values), max(values) - min(values) or 1.0
        others = [(value - low) / span for value in line.others.values()]
        marks["other methods of the paper"] = axis.scatter(others, [y] * len(others), c="#b9bec4", marker="|")
        paper = (line.paper - low) / span
        marks["DDT-LLaMA in the paper"] = axis.scatter([paper], [y], facecolors="none", edgecolors="black")
        for (name, found), color, marker in zip(measured.items(), ("#1f4e91", "#c2701c"), "oD", strict=True):
            for each in found:
                ends = [(end - low) / span for end in (each.score.low, each.score.high)]
                axis.plot(ends, [y, y], color=color, linewidth=1)
                x = (each.score.value - low) / span
                marks[name] = axis.scatter([x], [y], c=color, marker=marker, s=22)
    titles = [f"{line.column.title} {'↓' if line.column.lower_is_better else '↑'}" for line in lines]
    axis.set_yticks(range(len(lines)), titles[::-1], fontsize=8)
    axis.set_xticks([0, 1], ["lowest number", "highest"], fontsize=8)
    axis.legend(
        marks.values(), marks.keys(), fontsize=7, loc="lower center", ncols=2, bbox_to_anchor=(0.5, 1)
    )
    return figure_image(figure)
