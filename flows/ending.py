"""What happens when a run has ended, by Metaflow's own hooks: here its flow calls them, Argo in pods.

A run that failed is closed in MLflow and gives its workspace back, and what failed is told with the places
that show it; `notify` of the parameters says who else is told of an end.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metaflow import FlowMutator, Run, exit_hook
from metaflow.cards import get_cards
from metaflow.plugins.cards.exception import CardNotPresentException
from metaflow.user_decorators.mutable_flow import MutableFlow

from ddt.clean import one_line
from ddt.config import build
from ddt.params import Params
from ddt.sections.run import Notify
from flows.remote import plain
from flows.support import lay_over
from pipelines.services import lock, tracking
from pipelines.services.notify import tell
from pipelines.services.passwords import shown

CARD_S = 20.0


class hooks_at_the_end(FlowMutator):
    """Attaches the hooks, but for Step Functions, for which Metaflow has none.

    The one for a success is a process, on Argo a pod: it is attached where somebody wants to be told.
    """

    def pre_mutate(self, mutable_flow: MutableFlow) -> None:
        if "step-functions" in sys.argv:
            return
        hooks = {"on_error": [f"{__name__}.close_failed"]}
        # A resumed run has the parameters of the one before, which are not known yet: the hook looks.
        if "resume" in sys.argv or "success" in _told(dict(mutable_flow.configs), sys.argv):
            hooks["on_success"] = [f"{__name__}.tell_success"]
        mutable_flow.add_decorator(exit_hook, deco_kwargs=hooks)


def _told(configs: Mapping[str, Any], words: list[str]) -> list[str]:
    """`notify.when` of a run by its command line, which is checked elsewhere."""
    options = dict(zip(words, words[1:], strict=False))
    overrides = options.get("--set", "").split()
    settings = lay_over(plain(configs["conf"]), options.get("--profile"), overrides, plain(configs["remote"]))
    return settings.get("notify", {}).get("when") or []


def close_failed(run: Run | None) -> None:
    """A run that did not reach its end: MLflow, the workspace's lock, and who is to be told."""
    if run is None:
        return
    params = _params(run)
    failed = {step.id: step.task for step in run if not step.task.successful}
    reasons = {name: "see its log" for name in failed}
    places = []
    start = run["start"].task
    if params and "mlflow_run" in start:
        lock.give_back(Path(params.paths.workspace), run.pathspec)
        card_of = lambda stage: _card(failed[stage]) if stage in failed else None  # noqa: E731
        for failure in tracking.end_parent(params.tracking, start["mlflow_run"].data, card_of):
            reasons[failure.stage] = failure.reason
            places += failure.places()
        places.append(f"MLflow: {shown(params.tracking.uri)}, run {start['mlflow_run'].data}")
    print("\n".join(places))  # the reasons stand above: each step has told its own
    told = [f"{name}: {reason}" for name, reason in reasons.items()]
    notify = params.notify if params else _notify(run)
    tell(notify, "failure", "\n".join([f"{run.pathspec} did not finish", *told, *places]))


def tell_success(run: Run | None) -> None:
    """A run that reached its end; one that found nothing to do is no news."""
    params = None if run is None else _params(run)
    if run is None or params is None or "summary" not in run["end"].task:
        return
    summary = run["end"].task["summary"].data
    verdict = summary["reports"]["promote"]["notes"]
    place = f"MLflow: {summary['tracking']}, run {summary['mlflow_run']}"
    first = f"{run.pathspec} finished in {summary['seconds']:.0f} s"
    tell(params.notify, "success", "\n".join([first, *map(one_line, verdict), place]))


def _params(run: Run) -> Params | None:
    """The run's settings, which its first step makes; None where it did not come so far."""
    start = run["start"].task
    return build(Params, start["settings"].data) if start and "settings" in start else None


def _notify(run: Run) -> Notify:
    """Who is told of a run that failed before it had read its parameters: as they were given.

    They may be what is wrong. Then it is what the parameter file and the remote file say.
    """
    given = run["_parameters"].task
    conf, remote, profile, overrides = (given[n].data for n in ("conf", "remote", "profile", "overrides"))
    try:
        settings = lay_over(conf, profile or None, overrides.split(), remote)
        return build(Notify, settings["notify"], "notify")
    except (ValueError, OSError):
        return build(Notify, lay_over(conf, None, [], remote)["notify"], "notify")


def _card(task: Any) -> str | None:
    """The HTML of a task's card, if it has one; a process of its own writes it, perhaps after the step."""
    limit = time.monotonic() + CARD_S
    while True:
        try:
            return next(iter(get_cards(task))).get()
        except CardNotPresentException:
            found = _beside_artifacts(task)
            if found is not None or time.monotonic() > limit:
                return found
            time.sleep(1)


def _beside_artifacts(task: Any) -> str | None:
    """A card where Metaflow writes it with METAFLOW_CARD_LOCALROOT set, and does not look for it."""
    flow, run, step, number = task.pathspec.split("/")
    root = Path(task.metadata_dict.get("ds-root") or "")
    for card in root.glob(f"{flow}/runs/{run}/steps/{step}/tasks/{number}/cards/*.html"):
        return card.read_text()
    return None
