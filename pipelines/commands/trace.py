"""`ddt trace`: what a model, a dataset or a picture was made from, back to the source shards.

The lineage is the end's own: each manifest of the store names those that it was made from by their keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ddt.clean import one_line
from ddt.params import Params
from pipelines.commands.ends import find_end
from pipelines.commands.lineage import SHORT, Link
from pipelines.commands.trace_page import to_html
from pipelines.commands.traced import Trace, decision_text, follow, notes, sources, to_dict

SOURCES = 3  # that are named


def run(params: Params, end: str | None, as_json: bool, page: str | None) -> None:
    """Print the lineage of `end` (None: the champion), as JSON if asked, and draw it on a page."""
    if page is not None and not Path(page).parent.is_dir():
        raise ValueError(f"--html {page}: no such folder as {Path(page).parent}")
    trace = follow(find_end(end, params), params)
    if page is not None:
        Path(page).write_text(to_html(trace), encoding="utf-8")
    print(json.dumps(to_dict(trace), indent=1) if as_json else "\n".join(lines(trace)))


def lines(trace: Trace) -> Iterator[str]:
    """The whole as people read it."""
    end = trace.end
    yield one_line(f"{end.kind} {end.name}")
    for name, value in end.facts.items():
        yield f"  {name:16} {one_line(value if isinstance(value, str) else json.dumps(value))}"
    yield f"{'source shards':16} {_named(sources(trace))}"
    for link in trace.links:
        yield from _link_lines(trace, link)
    if trace.decision:
        yield f"{'decision':16} {decision_text(trace.decision)}"
    if trace.missing:
        yield "missing"
        yield from (f"  {one_line(line)}" for line in trace.missing)


def _link_lines(trace: Trace, link: Link) -> Iterator[str]:
    head = f"{link.stage:16} {link.digest[:SHORT]}"
    if link.manifest is None:
        yield f"{head}  missing"
        return
    yield f"{head}  {link.manifest.rows:>10,} rows  fingerprint {link.manifest.fingerprint[:SHORT]}"
    yield f"{'':16} {trace.end.store.uri(link.key)}"
    for line in notes(trace, link):
        yield f"{'':16} {one_line(line)}"


def _named(shards: Sequence[dict[str, Any]]) -> str:
    if not shards:
        return "not known"
    names = ", ".join(one_line(shard["name"]) for shard in shards[:SOURCES])
    more = f" and {len(shards) - SOURCES:,} more" if len(shards) > SOURCES else ""
    return f"{len(shards):,}: {names}{more}"
