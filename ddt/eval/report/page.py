"""The report for people: one HTML page that needs no other file and no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ddt.eval.benchmark import Row, Score
from ddt.eval.report.compare import Line, differs, official_text, own_text
from ddt.eval.report.paper import OURS, Table
from ddt.eval.report.pictures import png_bytes
from ddt.eval.report.plots import bar, legend, strip
from ddt.eval.report.results import Result, row_text, score_table

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c1e21 }
body { margin: 2rem auto; max-width: 84rem; padding: 0 1rem }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #d5d8dc; padding-bottom: .2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px }
td, th { padding: .2rem .7rem .2rem 0; text-align: left; vertical-align: middle }
tr + tr td { border-top: 1px solid #eceef0 }
th { font-weight: 600; font-size: 13px; color: #4a4e53 }
.scores td:nth-child(2), .beside td:nth-child(5) { font-weight: 600 }
.own { color: #9a5511 } .none { color: #9aa0a6; font-weight: 400 }
.differs { color: #6b7075; font-size: 12.5px; max-width: 24rem; overflow-wrap: anywhere }
.protocol { color: #4a4e53; max-width: 60rem }
.key span { margin-right: 1.4rem; white-space: nowrap } .key svg { vertical-align: -2px }
.examples { display: flex; flex-wrap: wrap; gap: .8rem }
figure { margin: 0; max-width: 20rem; padding: .5rem; border: 1px solid #dfe2e5; border-radius: 4px }
figure.wrong { border-color: #d08a84 } figure.right { border-color: #8abf95 }
figure img { width: 6rem; image-rendering: pixelated; margin-right: .25rem }
img.drawing { display: block; max-width: 100% }
figcaption { font-size: 13px; overflow-wrap: anywhere }
"""
_LEGEND = (
    "Bar: from floor to ceiling; dot: the score; line: its 95 % bootstrap interval. The ceiling is what "
    "ground truth scores through the same scorer, the floor the best of the baselines named beside it. Where "
    "pictures are drawn, the tick is what ground truth scores through the tokenizer: encoded, decoded as the "
    "model's own pictures are, then scored. A model that draws by this tokenizer is to be read against that."
)
_BESIDE = (
    "A number of this model can be set against the paper's only where it was measured on the benchmark's "
    "official files. The same task on this run's own data is on another scale: it says whether the model can "
    "do the task at all. The last column tells every difference known, of scorer, setting or data."
)
_PICTURES = {"source": "input", "image": "output", "target": "ground truth"}


def to_html(
    tables: Sequence[tuple[Table, Sequence[Line]]],
    results: Sequence[Result],
    settings: Mapping[str, Any],
    left_out: Mapping[str, str] | None = None,
) -> str:
    """The whole page.

    `tables`: what the paper's hold and this model has; `results`: each benchmark's scores and pictures;
    `settings`: seeds, sampling, digests; `left_out`: benchmarks with the reason.
    """
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Evaluation</title>",
        f"<style>{_STYLE}</style></head><body><h1>Evaluation</h1>",
        _settings(settings),
        "<h2>Beside the paper</h2>",
        f"<p class='protocol'>{html.escape(_BESIDE)}</p>{_key()}",
        *(_beside(table, lines) for table, lines in tables),
        f"<h2>Each benchmark</h2><p class='protocol'>{html.escape(_LEGEND)}</p>",
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
    return f"<details open><summary>Measured on</summary><table>{rows}</table></details>" if rows else ""


def _key() -> str:
    marks = "".join(f"<span>{svg} {html.escape(text)}</span>" for text, svg in legend().items())
    return f"<p class='key'>{marks}</p>"


def _beside(table: Table, lines: Sequence[Line]) -> str:
    names = (
        "", "", "DDT-LLaMA, paper", "best other in the paper", "this model, official files",
        "this model, own data (another scale)", "differs",
    )  # fmt: skip
    header = "".join(f"<th>{name}</th>" for name in names)
    return (
        f"<h3>Table {table.number}: {html.escape(table.title)}</h3>"
        f"<table class='beside'><tr>{header}</tr>{''.join(map(_beside_row, lines))}</table>{_whole(table)}"
    )


def _beside_row(line: Line) -> str:
    arrow = "↓" if line.column.lower_is_better else "↑"
    official, own = official_text(line), own_text(line)
    return (
        f"<tr><td>{html.escape(line.column.title)} {arrow}</td><td>{strip(line)}</td>"
        f"<td>{line.number(line.paper)}</td><td>{html.escape(line.best_other)}</td>"
        f"<td{'' if line.official else _NONE}>{html.escape(official)}</td>"
        f"<td{_OWN if line.own else _NONE}>{html.escape(own)}</td>"
        f"<td class='differs'>{html.escape(differs(line))}</td></tr>"
    )


_NONE, _OWN = " class='none'", " class='own'"


def _whole(table: Table) -> str:
    """The table as the paper prints it."""
    header = "".join(f"<th>{html.escape(column.title)}</th>" for column in table.columns)
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td>"
        + "".join(f"<td>{'-' if value is None else f'{value:g}'}</td>" for value in values)
        + "</tr>"
        for name, values in table.rows.items()
    )
    summary = f"The paper's whole table ({len(table.rows)} methods, {OURS} last)"
    return f"<details><summary>{summary}</summary><table><tr><th></th>{header}</tr>{rows}</table></details>"


def _section(result: Result) -> str:
    names, *lines = score_table(result.scores)
    header = "".join(f"<th>{html.escape(name)}</th>" for name in [*names[:2], "", *names[2:]])
    body = "".join(
        _table_row(cells, score) for cells, score in zip(lines, result.scores.values(), strict=True)
    )
    return (
        f"<h3>{html.escape(result.title)}</h3><p class='protocol'>{html.escape(result.protocol)}</p>"
        f"<table class='scores'><tr>{header}</tr>{body}</table>"
        f"{_pictures(result.pictures) if result.pictures else _examples(result)}"
    )


def _pictures(pictures: Mapping[str, Image.Image]) -> str:
    return "".join(
        f"<h4>{html.escape(title)}</h4><img class='drawing' alt='{html.escape(title, quote=True)}' "
        f"src='{_data_uri(png_bytes(image))}'>"
        for title, image in pictures.items()
    )


def _examples(result: Result) -> str:
    examples = [(row, "right") for row in result.successes] + [(row, "wrong") for row in result.failures]
    figures = "".join(_figure(row, verdict) for row, verdict in examples)
    return f"<h4>Examples</h4><div class='examples'>{figures}</div>"


def _table_row(cells: list[str], score: Score) -> str:
    name, value, *others = (html.escape(cell) for cell in cells)
    rest = "".join(f"<td>{cell}</td>" for cell in others)
    return f"<tr><td>{name}</td><td>{value}</td><td>{bar(score)}</td>{rest}</tr>"


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _figure(row: Row, verdict: str) -> str:
    judged = "" if np.isnan(row["correct"]) else verdict
    images = "".join(
        f"<img alt='{what}' title='{what}' src='{_data_uri(row[key])}'>"
        for key, what in _PICTURES.items()
        if row[key]
    )
    text = html.escape(row_text(row) or row["task"])
    return f"<figure class='{judged}'>{images}<figcaption>{text}</figcaption></figure>"
