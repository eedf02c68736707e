"""MLflow's database read without MLflow, whose import alone takes seconds.

What is read are runs and versions, as MLflow's client makes them of the same tables, which a test compares.
Nothing is written. A server has no tables to look at: there the client is asked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Select, column, create_engine, select, table
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from ddt.sections.run import Tracking
from pipelines.services.passwords import whole
from pipelines.services.rows import RunRow, VersionRow
from pipelines.services.tracking import SQLITE, database_file, is_database, require_place, unusable

LATEST = "latest"  # MLflow's own alias: the highest number
DELETED = "Deleted_Internal"  # the stage of a version that was deleted
COLUMNS = {
    "experiments": ("experiment_id", "name"),
    "runs": ("run_uuid", "experiment_id", "status", "start_time", "lifecycle_stage"),
    "tags": ("run_uuid", "key", "value"),
    "params": ("run_uuid", "key", "value"),
    "inputs": ("source_id", "destination_type", "destination_id"),
    "datasets": ("dataset_uuid", "dataset_source"),
    "model_versions": ("name", "version", "current_stage", "run_id"),
    "model_version_tags": ("name", "version", "key", "value"),
    "registered_model_aliases": ("name", "alias", "version"),
}


def open_tables(tracking: Tracking) -> Tables | None:
    """The database of `tracking.uri`; None where it is a server, or a file that MLflow is still to make.

    Raises ValueError naming `tracking.uri` where it can't be used.
    """
    if not is_database(tracking.uri):
        return None
    require_place(tracking.uri)
    file = database_file(tracking.uri) if tracking.uri.startswith(SQLITE) else None
    return None if file and not (file.exists() and file.stat().st_size) else Tables(tracking)


class Tables:
    """The tables of one database; ValueError naming `tracking.uri` where they can't be read."""

    def __init__(self, tracking: Tracking) -> None:
        self.tracking = tracking
        self.engine = create_engine(whole(tracking.uri), poolclass=NullPool)
        self.tables = {name: table(name, *map(column, names)) for name, names in COLUMNS.items()}

    def run(self, run_id: str) -> RunRow | None:
        """The run of that id, deleted or not, of whatever experiment."""
        runs = self.tables["runs"]
        found = self._with_details(self._ask(select(runs).where(runs.c.run_uuid == run_id)))
        return found[0] if found else None

    def search(self, tags: Mapping[str, str], newest: bool, most: int | None = None) -> list[RunRow]:
        """The experiment's runs with these tags by the time of their start; a value's % is any ending."""
        runs, experiments = self.tables["runs"], self.tables["experiments"]
        wanted = select(runs).join(experiments, experiments.c.experiment_id == runs.c.experiment_id)
        wanted = wanted.where(
            experiments.c.name == self.tracking.experiment, runs.c.lifecycle_stage == "active"
        )
        for key, value in tags.items():
            tag = self.tables["tags"].alias()
            same = tag.c.value.like(value) if value.endswith("%") else tag.c.value == value
            wanted = wanted.join(tag, (tag.c.run_uuid == runs.c.run_uuid) & (tag.c.key == key) & same)
        start = runs.c.start_time.desc() if newest else runs.c.start_time
        return self._with_details(self._ask(wanted.order_by(start, runs.c.run_uuid).limit(most)))

    def version(self, name: str, which: str) -> VersionRow | None:
        """The version behind a number or an alias."""
        versions, aliases = self.tables["model_versions"], self.tables["registered_model_aliases"]
        wanted = self._versions(name)
        if which.isdigit():
            wanted = wanted.where(versions.c.version == int(which))
        elif which.lower() == LATEST:
            wanted = wanted.order_by(versions.c.version.desc())
        else:
            number = select(aliases.c.version).where(aliases.c.name == name, aliases.c.alias == which)
            wanted = wanted.where(versions.c.version.in_(number))
        return next(iter(self._with_tags(self._ask(wanted.limit(1)))), None)

    def versions(self, name: str, digest: str) -> list[VersionRow]:
        """The versions of a model with this content, the oldest first."""
        versions, tags = self.tables["model_versions"], self.tables["model_version_tags"].alias()
        same = (tags.c.name == versions.c.name) & (tags.c.version == versions.c.version)
        wanted = self._versions(name).join(tags, same & (tags.c.key == "digest") & (tags.c.value == digest))
        return self._with_tags(self._ask(wanted.order_by(versions.c.version)))

    def aliases(self, name: str, number: str) -> list[str]:
        """The aliases that are on a version, by name."""
        aliases = self.tables["registered_model_aliases"]
        wanted = select(aliases.c.alias).where(aliases.c.name == name, aliases.c.version == int(number))
        return [row.alias for row in self._ask(wanted.order_by(aliases.c.alias))]

    def _versions(self, name: str) -> Select[Any]:
        versions = self.tables["model_versions"]
        return select(versions).where(versions.c.name == name, versions.c.current_stage != DELETED)

    def _with_details(self, runs: Sequence[Any]) -> list[RunRow]:
        ids = [run.run_uuid for run in runs]
        tags, params, sources = self._pairs("tags", ids), self._pairs("params", ids), self._sources(ids)
        return [
            RunRow(
                run.run_uuid, run.status, run.start_time, run.lifecycle_stage,
                tags[run.run_uuid], params[run.run_uuid], sources[run.run_uuid],
            )
            for run in runs
        ]  # fmt: skip

    def _pairs(self, name: str, ids: Sequence[str]) -> dict[str, dict[str, str]]:
        pairs, found = self.tables[name], defaultdict[str, dict[str, str]](dict)
        for row in self._ask(select(pairs).where(pairs.c.run_uuid.in_(ids))):
            found[row.run_uuid][row.key] = row.value
        return found

    def _sources(self, ids: Sequence[str]) -> dict[str, list[str]]:
        inputs, datasets = self.tables["inputs"], self.tables["datasets"]
        wanted = select(inputs.c.destination_id, datasets.c.dataset_source)
        wanted = wanted.join(datasets, datasets.c.dataset_uuid == inputs.c.source_id)
        wanted = wanted.where(inputs.c.destination_type == "RUN", inputs.c.destination_id.in_(ids))
        found = defaultdict[str, list[str]](list)
        for row in self._ask(wanted):
            found[row.destination_id].append(row.dataset_source)
        return found

    def _with_tags(self, versions: Sequence[Any]) -> list[VersionRow]:
        tags, found = self.tables["model_version_tags"], []
        for row in versions:
            own = self._ask(select(tags).where(tags.c.name == row.name, tags.c.version == row.version))
            told = {tag.key: tag.value for tag in own}
            found.append(VersionRow(row.name, row.version, row.run_id or None, told))
        return found

    def _ask(self, statement: Select[Any]) -> Sequence[Any]:
        try:
            with self.engine.connect() as connection:
                return connection.execute(statement).all()
        except SQLAlchemyError as error:
            raise unusable(self.tracking.uri, error) from error
