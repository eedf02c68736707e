"""What is read of MLflow's tables, in SQLite and in PostgreSQL, and of its server's answers is what MLflow's
own client makes of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.services import registry, tracking
from pipelines.services.made_by import METAFLOW_RUN, PARENT, Asked
from pipelines.services.rows import RunRow
from pipelines.services.server import Server, open_server
from pipelines.services.tables import Tables, open_tables
from tests.pipelines.lineages import ROOT, Lineages
from tests.postgres import needs_postgres, postgres  # noqa: F401
from tests.servers import tracking_server

NO_MLFLOW = """
import json, sys
from pipelines.commands.cli import main
for words in json.loads(sys.argv[1]):
    main(words)
assert "mlflow" not in sys.modules
"""


def made_in(folder: Path, uri: str) -> Lineages:
    """Three runs of the pipeline; of the last a stage was deleted, and the version in the middle."""
    made = Lineages(folder, uri, "team")
    for word in "abc":
        made.make(word)
    client = tracking.client(made.params.tracking)
    client.delete_run(made.runs["c", "score"])
    client.delete_model_version("team", "2")
    client.set_registered_model_alias("team", "old", "1")
    other = client.create_experiment("another")
    client.create_run(other, tags={"stage": "ingest", METAFLOW_RUN: "FullPipeline/a"})
    return made


def same(run: RunRow | None) -> tuple | None:
    """Without the order of what was read, which neither has."""
    return run and (*run[:-1], sorted(run.sources))


def compare_runs(made: Lineages, tables: Tables | Server) -> None:
    asked = Asked(made.params.tracking)
    client = asked.client
    every = client.search_runs([e.experiment_id for e in client.search_experiments()], run_view_type=3)
    assert len(every) == 3 * 11 + 2 and sum(run.info.lifecycle_stage == "deleted" for run in every) == 1
    for run in every:
        assert same(tables.run(run.info.run_id)) == same(asked.run(run.info.run_id))
    assert tables.run("0" * 32) is asked.run("0" * 32) is None
    score = made.fingerprint("score", "b")
    for tags, found in (
        ({"stage": "score"}, 2),
        ({"stage": "score", "fingerprint": f"{score[:16]}%"}, 1),
        ({PARENT: made.runs["c", "whole"]}, 9),
        ({METAFLOW_RUN: "FullPipeline/a"}, 1),
        ({"stage": "nothing"}, 0),
    ):
        for newest in (False, True):
            for most in (None, 1):
                ours, theirs = (s.search(tags, newest, most) for s in (tables, asked))
                assert list(map(same, ours)) == list(map(same, theirs))
            assert len(tables.search(tags, newest)) == found


def compare_versions(made: Lineages, tables: Tables | Server) -> None:
    client = tracking.client(made.params.tracking)
    for which in ("1", "3", "champion", "candidate", "old", "latest"):
        get = client.get_model_version if which.isdigit() else client.get_model_version_by_alias
        ours, theirs = tables.version("team", which), get("team", which)
        assert ours is not None
        assert (str(ours.number), ours.run_id, ours.tags) == (str(theirs.version), theirs.run_id, theirs.tags)
        assert tables.aliases("team", str(theirs.version)) == sorted(
            client.get_model_version("team", theirs.version).aliases
        )
        assert tables.versions("team", ours.tags["digest"]) == [ours]
    for which in ("2", "4", "nobody"):
        assert tables.version("team", which) is None
    assert tables.version("nobody", "1") is None and tables.versions("team", "0" * 64) == []


def compare(made: Lineages, rows: Tables | Server | None) -> None:
    assert rows is not None
    compare_runs(made, rows)
    compare_versions(made, rows)


def told_without_mlflow(made: Lineages, *settings: str) -> str:
    """What `ddt trace` says of an end of each kind, by a process that never imports MLflow."""
    words = [word for setting in (*made.settings, *settings) for word in ("--set", setting)]
    ends: list[Sequence[str]] = [[], ["models:/team@old"], [made.runs["a", "evaluate"]], ["FullPipeline/a"]]
    ends += [[made.made["b"]["select"].digest], [str(made.model_folder("finetune", "c"))]]
    commands = [["trace", "--json", *end, *words] for end in ends]
    done = subprocess.run(
        [sys.executable, "-c", NO_MLFLOW, json.dumps(commands)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count('"stage": "select"') >= len(ends)
    return done.stdout


def test_sqlite(tmp_path: Path) -> None:
    made = made_in(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    compare(made, open_tables(made.params.tracking))
    told_without_mlflow(made)


def test_server(tmp_path: Path) -> None:
    """Asked for lineages it says what the database behind it says."""
    with tracking_server(tmp_path, ["--artifacts-destination", str(tmp_path / "mlartifacts")]) as server:
        made = made_in(tmp_path, f"http://{server}")
        compare(made, open_server(made.params.tracking))
        told = told_without_mlflow(made)
    assert told == told_without_mlflow(made, f"tracking.uri=sqlite:///{tmp_path}/mlflow.db")


@needs_postgres
def test_postgres(tmp_path: Path, postgres: str) -> None:  # noqa: F811
    made = made_in(tmp_path, postgres)
    compare(made, open_tables(made.params.tracking))


def test_who_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server, and a database that MLflow is still to make, have no tables."""
    monkeypatch.setattr("pipelines.services.tables.require_place", lambda uri: None)
    where = Lineages(tmp_path, f"sqlite:///{tmp_path}/none.db", "team").params.tracking
    assert open_tables(where) is None
    assert open_tables(replace(where, uri="http://127.0.0.1:1")) is None
    assert not (tmp_path / "none.db").exists()


def test_a_database_of_something_else_is_named(tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "other.db") as database:
        database.execute("CREATE TABLE notes (text)")
    where = Lineages(tmp_path, f"sqlite:///{tmp_path}/other.db", "team").params.tracking
    with pytest.raises(ValueError, match=f"tracking.uri = sqlite:///{tmp_path}/other.db: .*no such table"):
        registry.find_version(where, "team", "1")
