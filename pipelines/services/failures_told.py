"""What MLflow tells of a stage that failed, in its run and in that of the pipeline above it.

The reason is a tag of both. The failed gate's page and the step's card are artifacts of the stage's run, to
which the description of both links; tags have their addresses, for whoever is not on MLflow's pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from ddt.sections.run import Tracking
from pipelines.services.passwords import shown

FAILURE, NOTE = "failure", "mlflow.note.content"  # tags: the reason, and what MLflow shows as the description
PAGES = "pages"  # folder of a run's artifacts
PAGE, CARD = "failure_page", "failure_card"  # tags with the addresses of these
FILES = {PAGE: f"{PAGES}/index.html", CARD: f"{PAGES}/card.html"}  # where they are in the stage's run
NAMES = {PAGE: "Data Docs of the gate", CARD: "card of the step"}
CardOf = Callable[[str], str | None]  # stage -> HTML of its step's card, if there is one


@dataclass(frozen=True)
class Failure:
    """A stage's run that failed, why, and the addresses of what shows it: by tag, PAGE and CARD."""

    stage: str
    run_id: str
    experiment: str
    reason: str
    links: dict[str, str]

    def places(self) -> Iterator[str]:
        """Where to look, a line each."""
        return (f"{self.stage}, {NAMES[tag]}: {address}" for tag, address in self.links.items())

    def markdown(self) -> str:
        """For MLflow's pages, which take links to themselves alone and to the web."""
        route = f"#/experiments/{self.experiment}/runs/{self.run_id}"
        links = [f"- [{NAMES[tag]}]({route}/artifacts/{FILES[tag]})" for tag in self.links]
        return "\n".join([f"[{self.stage}]({route}) failed: {self.reason}", "", *links]).strip()


def log_page(client: Any, run_id: str, page: Path) -> None:
    """A page among a run's artifacts; one that is an index, with all that it links to beside and below it."""
    if page.name == "index.html":
        client.log_artifacts(run_id, str(page.parent), PAGES)
    else:
        client.log_artifact(run_id, str(page), PAGES)


def tell_failure(client: Any, tracking: Tracking, run_id: str, reason: str, page: Path | None) -> None:
    """In a stage's run: the reason, and the page of the gate that failed."""
    client.set_tag(run_id, FAILURE, reason)
    if page is not None:
        log_page(client, run_id, page)
        _link(client, tracking, run_id, PAGE)
    client.set_tag(run_id, NOTE, failure_of(client.get_run(run_id)).markdown())


def tell_parent(
    client: Any, tracking: Tracking, parent: str, children: list[Any], card_of: CardOf
) -> list[Failure]:
    """In the pipeline's run: what failed of its stages' runs `children`, which get their cards first.

    Only a stage's newest run counts: an earlier one was tried again.
    """
    newest: dict[str, Any] = {}
    for child in sorted(children, key=lambda run: run.info.start_time):
        newest[child.data.tags.get("stage", "")] = child
    failed = [run for run in newest.values() if run.info.status == "FAILED"]
    failures = [_with_card(client, tracking, run, card_of) for run in reversed(failed)]
    forget_failure(client, parent)
    if failures:
        first = failures[0]
        client.set_tag(parent, FAILURE, f"{first.stage}: {first.reason}")
        client.set_tag(parent, NOTE, "\n\n".join(failure.markdown() for failure in failures))
        for tag, address in first.links.items():
            client.set_tag(parent, tag, address)
    return failures


def forget_failure(client: Any, run_id: str) -> None:
    """Take back from a pipeline's run what an attempt before this one told."""
    tags = client.get_run(run_id).data.tags
    if FAILURE in tags:
        for tag in (FAILURE, PAGE, CARD, NOTE):
            if tag in tags:
                client.delete_tag(run_id, tag)


def failure_of(run: Any) -> Failure:
    """What a stage's failed run tells."""
    tags = run.data.tags
    links = {tag: tags[tag] for tag in FILES if tag in tags}
    return Failure(
        tags.get("stage", ""), run.info.run_id, run.info.experiment_id, tags.get(FAILURE, "not told"), links
    )


def _with_card(client: Any, tracking: Tracking, run: Any, card_of: CardOf) -> Failure:
    html = card_of(run.data.tags.get("stage", ""))
    if html is None:
        return failure_of(run)
    client.log_text(run.info.run_id, html, FILES[CARD])
    _link(client, tracking, run.info.run_id, CARD)
    failure = failure_of(client.get_run(run.info.run_id))
    client.set_tag(run.info.run_id, NOTE, failure.markdown())
    return failure


def _link(client: Any, tracking: Tracking, run_id: str, tag: str) -> None:
    client.set_tag(run_id, tag, _address(tracking, client.get_run(run_id).info, FILES[tag]))


def _address(tracking: Tracking, info: Any, path: str) -> str:
    """Of an artifact: a server's page of it, or where it is stored."""
    if not tracking.uri.startswith(("http://", "https://")):
        return shown(f"{info.artifact_uri}/{path}")
    server = urlsplit(tracking.uri)
    place = server._replace(netloc=server.netloc.rpartition("@")[2], query="").geturl().rstrip("/")
    return f"{place}/#/experiments/{info.experiment_id}/runs/{info.run_id}/artifacts/{quote(path)}"
