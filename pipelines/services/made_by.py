"""MLflow asked which runs and versions made what, and what its runs still hold on to."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ddt.manifest import KEY_OF_MANIFEST
from ddt.sections.run import Tracking
from pipelines.services import tracking as mlflow_runs
from pipelines.services.rows import AT_ONCE, RunRow, by_start, with_tags
from pipelines.services.tracking import MANIFEST_KEY
from pipelines.services.without_mlflow import open_rows

KEY_IN_URI = re.compile(f"{KEY_OF_MANIFEST.pattern}$")
PARENT, COMMIT, METAFLOW_RUN = "mlflow.parentRunId", "mlflow.source.git.commit", "metaflow_run"


@dataclass(frozen=True)
class Run:
    """An MLflow run of a stage, or of a whole pipeline (`stage` None).

    `manifest` is the key of what it made, None where it made nothing; `inputs` are the keys of what it read.
    """

    id: str
    stage: str | None
    fingerprint: str
    status: str
    started: str
    deleted: bool
    commit: str | None
    parent: str | None
    metaflow_run: str | None
    manifest: str | None
    inputs: tuple[str, ...]
    params: dict[str, str]


class Runs:
    """The runs of one MLflow. Raises ValueError naming `tracking.uri` where it can't be used."""

    def __init__(self, tracking: Tracking) -> None:
        self.rows = open_rows(tracking) or Asked(tracking)

    def get(self, run_id: str) -> Run | None:
        """The run of that id, deleted or not, of whatever experiment."""
        found = self.rows.run(run_id)
        return _run(found) if found else None

    def of_metaflow(self, name: str) -> Run | None:
        """The newest run of the whole pipeline that belongs to a Metaflow run `Flow/id`."""
        return self._first({METAFLOW_RUN: name}, newest=True)

    def children(self, run_id: str) -> list[Run]:
        """The stages' runs of a whole pipeline's, the newest first."""
        return [_run(row) for row in self.rows.search({PARENT: run_id}, newest=True)]

    def of_fingerprint(self, stage: str, beginning: str) -> Run | None:
        """The newest run of a stage whose fingerprint begins so."""
        return self._first({"stage": stage, "fingerprint": f"{beginning}%"}, newest=True)

    def makers(self, keys: Collection[str]) -> dict[str, Run]:
        """Manifest's key -> the run that made it, those that there are.

        The stages of a run are found by one of them: MLflow has no index of the values of tags.
        """
        made: dict[str, Run] = {}
        for key in keys:
            if key in made:
                continue
            run = self._first({MANIFEST_KEY: key}, newest=False)
            if run is None:
                continue
            made[key] = run
            for other in self.children(run.parent) if run.parent else ():
                if other.manifest is not None and other.manifest in keys:
                    made.setdefault(other.manifest, other)
        return made

    def _first(self, tags: Mapping[str, str], newest: bool) -> Run | None:
        found = self.rows.search(tags, newest, 1)
        return _run(found[0]) if found else None


class Asked:
    """The same by MLflow's client, which takes seconds to import."""

    def __init__(self, tracking: Tracking) -> None:
        self.tracking, self.client = tracking, mlflow_runs.client(tracking)
        found = self.client.get_experiment_by_name(tracking.experiment)
        self.experiments = [found.experiment_id] if found else []

    def run(self, run_id: str) -> RunRow | None:
        MlflowException = mlflow_runs.api("exceptions").MlflowException
        try:
            return _row(self.client.get_run(run_id))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise mlflow_runs.unusable(self.tracking.uri, error) from error
            return None

    def search(self, tags: Mapping[str, str], newest: bool, most: int | None = None) -> list[RunRow]:
        return list(_rows(self.client, self.experiments, with_tags(tags), newest, most))


def everything(tracking: Tracking) -> Iterator[Run]:
    """Every run of every experiment that is not deleted."""
    client = mlflow_runs.client(tracking)
    experiments = [found.experiment_id for found in client.search_experiments()]
    return map(_run, _rows(client, experiments, "", newest=False))


def _rows(
    client: Any, experiments: list[str], wanted: str, newest: bool, most: int | None = None
) -> Iterator[RunRow]:
    token = None
    while experiments:
        found = client.search_runs(
            experiments,
            wanted,
            max_results=min(AT_ONCE, most or AT_ONCE),
            order_by=by_start(newest),
            page_token=token,
        )
        yield from map(_row, found)
        token = found.token
        if not token or most is not None:
            return


def _row(found: Any) -> RunRow:
    info, given = found.info, found.inputs.dataset_inputs if found.inputs else ()
    sources = [each.dataset.source for each in given]
    tags, params = dict(found.data.tags), dict(found.data.params)
    return RunRow(str(info.run_id), info.status, info.start_time, info.lifecycle_stage, tags, params, sources)


def _run(row: RunRow) -> Run:
    tags, started = row.tags, datetime.fromtimestamp(row.start_time / 1000, UTC)
    return Run(
        id=row.id,
        stage=tags.get("stage"),
        fingerprint=tags.get("fingerprint", ""),
        status=row.status,
        started=started.isoformat(timespec="seconds"),
        deleted=row.lifecycle_stage == "deleted",
        commit=tags.get(COMMIT),
        parent=tags.get(PARENT),
        metaflow_run=tags.get(METAFLOW_RUN),
        manifest=tags.get(MANIFEST_KEY),
        inputs=tuple(sorted(filter(None, map(_input_key, row.sources)))),  # a database has no order
        params=row.params,
    )


def _input_key(source: str) -> str | None:
    """The manifest's key in the address that a stage's run has of what it reads."""
    try:
        uri = json.loads(source)["uri"]
    except (ValueError, TypeError, KeyError):  # logged by others
        return None
    found = KEY_IN_URI.search(str(uri))
    return found[0] if found else None
