"""A tracking server asked by its REST API, without MLflow, whose import alone takes seconds.

What is read are runs and versions, as MLflow's client makes them of the same answers, which a test compares.
Nothing is written. Of the ways to log in it knows a password and a token, in the address or the environment:
a server that wants another is left to MLflow's client.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from ddt.sections.run import Tracking
from pipelines.services.passwords import VARIABLE, whole
from pipelines.services.rows import AT_ONCE, NOT_THERE, RunRow, VersionRow, by_start, with_tags
from pipelines.services.tracking import require_place, unusable

API = "/api/2.0/mlflow/"
PATIENCE_S = 120  # as MLflow's client has
BUSY = Retry(5, backoff_factor=1, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=None)


@cache
def open_server(tracking: Tracking) -> Server | None:
    """The server at `tracking.uri`; None where it has to be asked in a way that MLflow's client alone knows.

    Raises ValueError naming `tracking.uri` where nothing answers.
    """
    require_place(tracking.uri)
    if os.environ.get("MLFLOW_WORKSPACE"):
        return None
    try:
        server = Server(tracking)
        server.experiment()
    except ValueError:
        return None
    return server


class Server:
    """One tracking server; ValueError naming `tracking.uri` where it does not answer as one."""

    def __init__(self, tracking: Tracking) -> None:
        self.tracking, self.place = tracking, whole(tracking.uri).rstrip("/") + API
        self.session = requests.Session()
        self.session.mount(self.place, HTTPAdapter(max_retries=BUSY))
        user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get(VARIABLE)
        token = os.environ.get("MLFLOW_TRACKING_TOKEN")
        if user and password:
            self.session.auth = (user, password)
        elif token:
            self.session.headers["Authorization"] = f"Bearer {token}"

    def experiment(self) -> str | None:
        """The id of `tracking.experiment`."""
        found = self._get("experiments/get-by-name", experiment_name=self.tracking.experiment)
        return str(found["experiment"]["experiment_id"]) if found else None

    def run(self, run_id: str) -> RunRow | None:
        """The run of that id, deleted or not, of whatever experiment."""
        found = self._get("runs/get", run_id=run_id)
        return _run(found["run"]) if found else None

    def search(self, tags: Mapping[str, str], newest: bool, most: int | None = None) -> list[RunRow]:
        """The experiment's runs with these tags by the time of their start; a value's % is any ending."""
        experiment, rows, page = self.experiment(), list[RunRow](), dict[str, Any]()
        while experiment is not None:
            wanted = {"experiment_ids": [experiment], "filter": with_tags(tags), "order_by": by_start(newest)}
            said = self._ask("POST", "runs/search", json=wanted | {"max_results": most or AT_ONCE} | page)
            rows += map(_run, said.get("runs", ()))
            page = {"page_token": said.get("next_page_token")}
            if most is not None or not page["page_token"]:
                break
        return rows

    def version(self, name: str, which: str) -> VersionRow | None:
        """The version behind a number or an alias."""
        if which.isdigit():
            found = self._get("model-versions/get", name=name, version=which)
        else:
            found = self._get("registered-models/alias", name=name, alias=which)
        return _version(found["model_version"]) if found else None

    def versions(self, name: str, digest: str) -> list[VersionRow]:
        """The versions of a model with this content, the oldest first."""
        same = f"name = '{name}' and tags.digest = '{digest}'"
        said = self._ask("GET", "model-versions/search", params={"filter": same, "max_results": AT_ONCE})
        return sorted(map(_version, said.get("model_versions", ())), key=lambda version: version.number)

    def aliases(self, name: str, number: str) -> list[str]:
        """The aliases that are on a version, by name."""
        found = self._get("model-versions/get", name=name, version=number)
        return sorted(found["model_version"].get("aliases", ())) if found else []

    def _get(self, what: str, **wanted: str) -> dict[str, Any] | None:
        """Of one thing; None where it is not there."""
        return self._ask("GET", what, NOT_THERE, params=wanted) or None

    def _ask(self, method: str, what: str, no_faults: Sequence[str] = (), **how: Any) -> dict[str, Any]:
        """The answer; empty where its error is one of `no_faults`."""
        try:
            answer = self.session.request(method, self.place + what, timeout=PATIENCE_S, **how)
            said = answer.json()
        except requests.RequestException as error:  # what is no JSON as well
            raise unusable(self.tracking.uri, error) from error
        if answer.ok and isinstance(said, dict):
            return said
        told = said if isinstance(said, dict) else {}
        if told.get("error_code") in no_faults:
            return {}
        raise unusable(self.tracking.uri, str(told.get("message") or f"answers {answer.status_code}"))


def _run(found: dict[str, Any]) -> RunRow:
    info, data = found["info"], found.get("data", {})
    given = found.get("inputs", {}).get("dataset_inputs", ())
    sources = [each["dataset"]["source"] for each in given]
    return RunRow(
        info["run_id"], info["status"], int(info["start_time"]), info["lifecycle_stage"],
        _pairs(data.get("tags", ())), _pairs(data.get("params", ())), sources,
    )  # fmt: skip


def _version(found: dict[str, Any]) -> VersionRow:
    tags = _pairs(found.get("tags", ()))
    return VersionRow(found["name"], int(found["version"]), found.get("run_id") or None, tags)


def _pairs(found: Sequence[dict[str, str]]) -> dict[str, str]:
    return {each["key"]: each.get("value", "") for each in found}
