"""A lineage with all that is known of it: MLflow adds who made each manifest, from which commit and by which
parameters; the registry the versions of the models and what was decided on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ddt.clean import one_line
from ddt.data.refs import STORE_PREFIX
from ddt.params import Params
from ddt.store import MARKER
from pipelines.commands.ends import TOKENIZER, End, decision_of
from pipelines.commands.lineage import Link, lineage
from pipelines.engine.runner import FAILED_GATE
from pipelines.services import registry
from pipelines.services.made_by import Run, Runs

MODEL = "finetune"


@dataclass(frozen=True)
class Trace:
    """An end's lineage in the order of the stages, with what MLflow and the registry know of it.

    `runs`: manifest's key -> the run that made it. `versions`: likewise the registry's versions of it, with
    their aliases. `missing`: what is named and not there, a line each.
    """

    end: End
    links: Sequence[Link]
    runs: dict[str, Run]
    versions: dict[str, list[tuple[registry.Version, list[str]]]]
    decision: dict[str, Any]
    missing: list[str]


def follow(end: End, params: Params) -> Trace:
    """The lineage of an end; nothing is raised for what is missing of it, nor for an MLflow that is away."""
    links, missing = lineage(end.store, end.keys), list(end.missing)
    runs: dict[str, Run] = {}
    versions: dict[str, list[tuple[registry.Version, list[str]]]] = {}
    decision = decision_of(end.version) if end.version else {}
    try:
        versions = _versions(links, params)
        if not decision:
            decision = _decision(links, versions)
            links = lineage(end.store, decision.get("made_from", {}).values(), links)
        runs = Runs(params.tracking).makers([link.key for link in reversed(links)])
    except ValueError as error:
        missing.append(f"what MLflow knows of it: {error}")
    else:
        nowhere = ", ".join(link.stage for link in links if link.key not in runs)
        if nowhere:
            missing.append(f"runs in MLflow that made {nowhere}: deleted, or logged elsewhere")
    for link in links:
        if link.fault:
            missing.append(f"{link.stage}: {link.fault}")
        elif link.unknown():
            names = ", ".join(link.unknown())
            missing.append(f"{link.stage}: of an earlier release, it does not say from which {names} it is")
    return Trace(end, links, runs, versions, decision, missing)


def _versions(links: Sequence[Link], params: Params) -> dict[str, list[tuple[registry.Version, list[str]]]]:
    """The registered versions of the models and tokenizers among the links."""
    where, found = params.tracking, {}
    names = {MODEL: where.model_name, TOKENIZER: where.tokenizer_name}
    for link in links:
        if link.stage in names and link.manifest:
            same = registry.versions_of(where, names[link.stage], link.digest)
            same = [v for v in same if v.tags.get("fingerprint") == link.manifest.fingerprint]
            found[link.key] = [(version, registry.aliases_of(where, version)) for version in same]
    return found


def _decision(
    links: Sequence[Link], versions: dict[str, list[tuple[registry.Version, list[str]]]]
) -> dict[str, Any]:
    """The last one on a model among the links, if it was made on this very manifest of it."""
    for link in reversed(links):
        for version, _ in reversed(versions.get(link.key, [])):
            decision = decision_of(version)
            if link.stage == MODEL and decision.get("made_from", {}).get(MODEL) == link.key:
                return decision
    return {}


def to_dict(trace: Trace) -> dict[str, Any]:
    """The whole as JSON has it."""
    end = trace.end
    return {
        "end": {"kind": end.kind, "name": end.name, "store": end.store.root_uri, "facts": end.facts},
        "sources": sources(trace),
        "stages": [_stage(trace, link) for link in trace.links],
        "decision": trace.decision or None,
        "missing": trace.missing,
    }


def sources(trace: Trace) -> list[dict[str, Any]]:
    """The source shards as `ingest` named them: from which key of the parameters, and their role."""
    ingested = [link.manifest for link in trace.links if link.stage == "ingest" and link.manifest]
    told = ("from", "role", "name")
    return [{n: c.stats.get(n) for n in told} | {"rows": c.rows} for m in ingested for c in m.commits]


def _stage(trace: Trace, link: Link) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "stage": link.stage,
        "digest": link.digest,
        "where": trace.end.store.uri(link.key),
        "missing": link.fault,
    }
    if link.manifest is not None:
        made = link.manifest
        facts |= {
            "fingerprint": made.fingerprint, "rows": made.rows, "bytes": made.bytes,
            "units": len(made.commits), "rejects": made.rejects, "made_from": made.made_from,
        }  # fmt: skip
        models = [c for c in made.commits if c.key.endswith(f"/{MARKER}")]
        facts["model"] = models[0].sha256 if models else None
    run = trace.runs.get(link.key)
    facts["mlflow"] = asdict(run) if run else None
    facts["versions"] = [
        {"name": version.name, "version": version.number, "aliases": aliases}
        for version, aliases in trace.versions.get(link.key, [])
    ]
    return facts


def notes(trace: Trace, link: Link) -> Iterator[str]:
    """What MLflow and the registry add to a stage, a line each."""
    run = trace.runs.get(link.key)
    if run is not None:
        commit = f", commit {run.commit[:12]}" if run.commit else ""
        flow = f", of run {run.parent}" if run.parent else ""
        yield f"run {run.id} of {run.started}{flow}{commit}"
        if run.params.get("init", "").startswith(STORE_PREFIX):
            yield f"goes on from {run.params['init']}"
    if link.manifest is not None and link.manifest.extra.get(FAILED_GATE):
        yield f"failed its gate: {'; '.join(link.manifest.extra[FAILED_GATE])}"
    for version, aliases in trace.versions.get(link.key, []):
        yield f"{version.name} version {version.number}" + (f" ({', '.join(aliases)})" if aliases else "")


def decision_text(decision: dict[str, Any]) -> str:
    """Which version, what was decided, when, by whom and why."""
    reasons = decision.get("reasons")
    why = "; ".join(map(str, reasons)) if isinstance(reasons, list) and reasons else "every check passed"
    said = [decision.get(name, "?") for name in ("model", "version", "verdict", "when", "who")]
    return one_line("{} version {} {} on {} by {}: {}".format(*said, why))
