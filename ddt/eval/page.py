"""The report for people: one HTML page that needs no other file and no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ddt.eval.benchmark import Row, Score
from ddt.eval.results import HEADER, Result, row_text, score_table

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c1e21 }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #d5d8dc; padding-bottom: .2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px }
td, th { padding: .2rem .7rem .2rem 0; text-align: left; vertical-align: middle }
tr + tr td { border-top: 1px solid #eceef0 }
td:nth-child(2) { font-weight: 600 }
.paper { color: #6b7075 }
.protocol { color: #4a4e53; max-width: 60rem }
.examples { display: flex; flex-wrap: wrap; gap: .8rem }
figure { margin: 0; max-width: 20rem; padding: .5rem; border: 1px solid #dfe2e5; border-radius: 4px }
figure.wrong { border-color: #d08a84 } figure.right { border-color: #8abf95 }
figure img { width: 6rem; image-rendering: pixelated; margin-right: .25rem }
figcaption { font-size: 13px; overflow-wrap: anywhere }
"""
_LEGEND = (
    "Bar: from floor to ceiling; dot: the score; line: its 95 % bootstrap interval. The floor is the best of "
    "the baselines named beside it. Numbers of the paper are on other pictures and another scale: they say "
    "what the same task gives at full size, not what to compare with."
)
_PICTURES = {"source": "input", "image": "output", "target": "ground truth"}


def to_html(
    results: Sequence[Result], settings: Mapping[str, Any], left_out: Mapping[str, str] | None = None
) -> str:
    """The whole page. `settings`: seeds, sampling, digests; `left_out`: benchmarks with the reason."""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Evaluation</title>",
        f"<style>{_STYLE}</style></head><body><h1>Evaluation</h1>",
        f"<p class='protocol'>{html.escape(_LEGEND)}</p>",
        _settings(settings),
        *(_section(result) for result in results),
    ]
    if left_out:
        rows = "".join(f"<li>{html.escape(name)}: {html.escape(why)}</li>" for name, why in left_out.items())
        parts.append(f"<h2>Left out</h2><ul>{rows}</ul>")
    return "\n".join([*parts, "</body></html>\n"])


def _settings(settings: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(str(key))}</td><td>{html.escape(str(value))}</td></tr>"
        for key, value in settings.items()
    )
    return f"<details><summary>Settings</summary><table>{rows}</table></details>" if rows else ""


def _section(result: Result) -> str:
    scores = list(result.scores.values())
    header = "".join(f"<th>{html.escape(name)}</th>" for name in [*HEADER[:2], "", *HEADER[2:]])
    body = "".join(
        _table_row(cells, score) for cells, score in zip(score_table(result)[1:], scores, strict=True)
    )
    examples = [(row, "right") for row in result.successes] + [(row, "wrong") for row in result.failures]
    return (
        f"<h2>{html.escape(result.title)}</h2><p class='protocol'>{html.escape(result.protocol)}</p>"
        f"<table><tr>{header}</tr>{body}</table><h3>Examples</h3>"
        f"<div class='examples'>{''.join(_figure(row, verdict) for row, verdict in examples)}</div>"
    )


def _table_row(cells: list[str], score: Score) -> str:
    name, value, *others, paper = (html.escape(cell) for cell in cells)
    rest = "".join(f"<td>{cell}</td>" for cell in others)
    return (
        f"<tr><td>{name}</td><td>{value}</td><td>{_bar(score)}</td>{rest}<td class='paper'>{paper}</td></tr>"
    )


def _bar(score: Score, width: int = 150) -> str:
    """An inline SVG of floor, interval, score and ceiling; empty without both ends."""
    if score.floor is None or score.ceiling is None or score.floor == score.ceiling:
        return ""
    ends = (score.floor, score.ceiling, score.low, score.high)
    low, high = min(ends), max(ends)

    def x(value: float) -> float:
        return 6 + (value - low) / (high - low) * (width - 12)

    left, right = sorted((x(score.floor), x(score.ceiling)))
    return (
        f"<svg width='{width}' height='14' role='img' aria-label='floor, score and ceiling'>"
        f"<rect x='{left:.1f}' y='5' width='{right - left:.1f}' height='4' fill='#e3e6e9'/>"
        f"<line x1='{x(score.low):.1f}' x2='{x(score.high):.1f}' y1='7' y2='7' stroke='#3b6fb5'/>"
        f"<circle cx='{x(score.value):.1f}' cy='7' r='4' fill='#1f4e91'/></svg>"
    )


def _figure(row: Row, verdict: str) -> str:
    judged = "" if np.isnan(row["correct"]) else verdict
    images = "".join(
        f"<img alt='{what}' title='{what}' src='data:image/png;base64,{base64.b64encode(row[key]).decode()}'>"
        for key, what in _PICTURES.items()
        if row[key]
    )
    text = html.escape(row_text(row) or row["task"])
    return f"<figure class='{judged}'>{images}<figcaption>{text}</figcaption></figure>"
