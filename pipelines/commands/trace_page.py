"""A lineage drawn: one HTML page that needs no other file, no script and no network."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.commands.lineage import SHORT, Link, is_key
from pipelines.commands.traced import Trace, decision_text, notes, sources, to_dict

WIDTH, HEIGHT, GAP_X, GAP_Y = 250, 62, 30, 34  # of a box and between two, px
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c1e21 }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem }
svg { display: block; max-width: 100%; height: auto } svg text { font-size: 13px }
rect { fill: #f4f6f8; stroke: #9aa0a6 } rect.missing { fill: #fbeceb; stroke: #b3473e }
rect.end { fill: #eaf3ec; stroke: #4f8a5b } path { fill: none; stroke: #b5bac0 } .name { font-weight: 600 }
table { border-collapse: collapse; width: 100%; font-size: 14px } td, th { padding: .25rem .8rem .25rem 0 }
td, th { text-align: left; vertical-align: top; overflow-wrap: anywhere }
tr + tr td { border-top: 1px solid #e3e6e9 }
.missing li { color: #b3473e }
"""
Box = tuple[str, str, str, str]  # heading, two lines, class


def to_html(trace: Trace) -> str:
    """The whole page: the graph, a table of the stages, what is missing, and all of it as JSON."""
    title = html.escape(f"{trace.end.kind} {trace.end.name}")
    parts = [
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title>",
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>",
        _table((name, _text(value)) for name, value in trace.end.facts.items()),
        _graph(trace),
        _table((link.stage, *_cells(trace, link)) for link in trace.links),
    ]
    if trace.missing:
        items = "".join(f"<li>{html.escape(line)}</li>" for line in trace.missing)
        parts.append(f"<h2>Missing</h2><ul class='missing'>{items}</ul>")
    whole = html.escape(json.dumps(to_dict(trace), indent=1))
    parts.append(f"<details><summary>Everything, as JSON</summary><pre>{whole}</pre></details>")
    return "\n".join([*parts, "</body></html>\n"])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _cells(trace: Trace, link: Link) -> tuple[str, ...]:
    return link.digest, trace.end.store.uri(link.key), " · ".join(notes(trace, link))


def _table(rows: Any) -> str:
    made = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in made)}</table>" if made else ""


def _graph(trace: Trace) -> str:
    """Source shards above, each stage below those that it was made from, the decision last."""
    boxes, parents = _boxes(trace)
    places = _places(boxes, parents)
    edges = "".join(_edge(places[up], places[name]) for name in boxes for up in parents[name])
    drawn = "".join(_box(places[name], box) for name, box in boxes.items())
    width = max(x for x, _ in places.values()) + WIDTH + 1
    height = max(y for _, y in places.values()) + HEIGHT + 1
    return f"<svg viewBox='-1 -1 {width + 1} {height + 1}' width='{width}'>{edges}{drawn}</svg>"


def _boxes(trace: Trace) -> tuple[dict[str, Box], dict[str, list[str]]]:
    """What is drawn by name, and for each name those it was made from."""
    shards = f"{len(sources(trace)):,}" if sources(trace) else "not known"
    boxes: dict[str, Box] = {"sources": ("source shards", shards, "", "")}
    parents: dict[str, list[str]] = {"sources": []}
    there = {link.key for link in trace.links}
    for link in trace.links:
        made, kind = link.manifest, "end" if link.key in trace.end.keys else ""
        rows = f"{made.rows:,} rows" if made else "missing"
        boxes[link.key] = (link.stage, link.digest[:SHORT], rows, kind if made else "missing")
        parents[link.key] = [key for key in made.made_from.values() if key in there] if made else []
        if link.stage == "ingest":
            parents[link.key] = ["sources"]
    if trace.decision:
        made_from = trace.decision.get("made_from", {}).values()
        verdict = str(trace.decision.get("verdict", "?"))
        boxes["decision"] = ("decision", verdict, decision_text(trace.decision)[:34], "")
        parents["decision"] = [key for key in made_from if is_key(key) and key in there]
    return boxes, parents


def _places(boxes: Mapping[str, Box], parents: Mapping[str, Sequence[str]]) -> dict[str, tuple[int, int]]:
    """Left upper corners: as many rows down as there are steps to the source."""
    depth: dict[str, int] = {}
    for name in boxes:  # in the order of the stages, so parents come first
        depth[name] = 1 + max((depth[up] for up in parents[name] if up in depth), default=-1)
    beside = dict.fromkeys(depth.values(), 0)
    places = {}
    for name, row in depth.items():
        places[name] = (beside[row] * (WIDTH + GAP_X), row * (HEIGHT + GAP_Y))
        beside[row] += 1
    return places


def _edge(start: tuple[int, int], end: tuple[int, int]) -> str:
    x, y, to_x, to_y = start[0] + WIDTH // 2, start[1] + HEIGHT, end[0] + WIDTH // 2, end[1]
    middle = (y + to_y) // 2
    return f"<path d='M{x} {y} C{x} {middle} {to_x} {middle} {to_x} {to_y}'/>"


def _box(place: tuple[int, int], box: Box) -> str:
    heading, *rest, kind = box
    return "".join(_box_parts(place, [heading, *rest], kind))


def _box_parts(place: tuple[int, int], texts: Sequence[str], kind: str) -> Iterator[str]:
    x, y = place
    yield f"<rect x='{x}' y='{y}' width='{WIDTH}' height='{HEIGHT}' rx='5' class='{kind}'/>"
    for row, text in enumerate(texts):
        name = " class='name'" if row == 0 else ""
        yield f"<text x='{x + 10}' y='{y + 18 + 18 * row}'{name}>{html.escape(text)}</text>"
