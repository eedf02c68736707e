"""MLflow asked which runs and versions made what, and what its runs still hold on to."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ddt.manifest import KEY_OF_MANIFEST
from ddt.sections.run import Tracking
from pipelines.services import tracking as mlflow_runs
from pipelines.services.tracking import MANIFEST_KEY

KEY_IN_URI = re.compile(f"{KEY_OF_MANIFEST.pattern}$")
PARENT, COMMIT, METAFLOW_RUN = "mlflow.parentRunId", "mlflow.source.git.commit", "metaflow_run"
AT_ONCE = 1000  # runs asked for at a time


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
        self.tracking, self.client = tracking, mlflow_runs.client(tracking)
        found = self.client.get_experiment_by_name(tracking.experiment)
        self.experiments = [found.experiment_id] if found else []

    def get(self, run_id: str) -> Run | None:
        """The run of that id, deleted or not, of whatever experiment."""
        MlflowException = mlflow_runs.api("exceptions").MlflowException
        try:
            return _run(self.client.get_run(run_id))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise mlflow_runs.unusable(self.tracking.uri, error) from error
            return None

    def of_metaflow(self, name: str) -> Run | None:
        """The newest run of the whole pipeline that belongs to a Metaflow run `Flow/id`."""
        return next(self._search(f"tags.{METAFLOW_RUN} = '{name}'", "DESC", 1), None)

    def children(self, run_id: str) -> list[Run]:
        """The stages' runs of a whole pipeline's, the newest first."""
        return list(self._search(f"tags.`{PARENT}` = '{run_id}'", "DESC"))

    def of_fingerprint(self, stage: str, beginning: str) -> Run | None:
        """The newest run of a stage whose fingerprint begins so."""
        wanted = f"tags.stage = '{stage}' and tags.fingerprint LIKE '{beginning}%'"
        return next(self._search(wanted, "DESC", 1), None)

    def makers(self, keys: Collection[str]) -> dict[str, Run]:
        """Manifest's key -> the run that made it, those that there are.

        The stages of a run are found by one of them: MLflow has no index of the values of tags.
        """
        made: dict[str, Run] = {}
        for key in keys:
            if key in made:
                continue
            run = next(self._search(f"tags.{MANIFEST_KEY} = '{key}'", "ASC", 1), None)
            if run is None:
                continue
            made[key] = run
            for other in self.children(run.parent) if run.parent else ():
                if other.manifest is not None and other.manifest in keys:
                    made.setdefault(other.manifest, other)
        return made

    def everything(self) -> Iterator[Run]:
        """Every run of every experiment that is not deleted."""
        experiments = [found.experiment_id for found in self.client.search_experiments()]
        return self._search("", "ASC", experiments=experiments)

    def _search(
        self, wanted: str, order: str, most: int | None = None, experiments: list[str] | None = None
    ) -> Iterator[Run]:
        where, token, left = experiments or self.experiments, None, most
        while where:
            found = self.client.search_runs(
                where,
                wanted,
                max_results=min(AT_ONCE, left or AT_ONCE),
                order_by=[f"attributes.start_time {order}"],
                page_token=token,
            )
            yield from map(_run, found)
            token = found.token
            if not token or most is not None:
                return


def _run(found: Any) -> Run:
    tags = found.data.tags
    started = datetime.fromtimestamp(found.info.start_time / 1000, UTC)
    given = found.inputs.dataset_inputs if found.inputs else ()
    return Run(
        id=str(found.info.run_id),
        stage=tags.get("stage"),
        fingerprint=tags.get("fingerprint", ""),
        status=found.info.status,
        started=started.isoformat(timespec="seconds"),
        deleted=found.info.lifecycle_stage == "deleted",
        commit=tags.get(COMMIT),
        parent=tags.get(PARENT),
        metaflow_run=tags.get(METAFLOW_RUN),
        manifest=tags.get(MANIFEST_KEY),
        inputs=tuple(sorted(filter(None, map(_input_key, given)))),  # a database has no order of its own
        params=dict(found.data.params),
    )


def _input_key(given: Any) -> str | None:
    """The manifest's key in the address that a stage's run has of what it reads."""
    try:
        uri = json.loads(given.dataset.source)["uri"]
    except (ValueError, TypeError, KeyError):  # logged by others
        return None
    found = KEY_IN_URI.search(str(uri))
    return found[0] if found else None
