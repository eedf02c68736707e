"""A backup of MLflow's database with the store, and the way back: the registry and lineages are as before.

What comes after the restore is asked in a process of its own, which knows nothing of what was.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from infra import backup
from pipelines.commands.cli import main
from pipelines.services import registry
from tests.pipelines.lineages import Lineages
from tests.postgres import PASSWORD, QUOTED, needs_postgres, postgres  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = (
    ["history"],
    ["trace", "--json"],
    ["trace", "models:/team@candidate"],
    ["verify", "models:/team/1"],
)
ASK = "from pipelines.commands.cli import main\nimport json, sys\nfor q in json.loads(sys.argv[1]): main(q)"


def words(made: Lineages) -> list[str]:
    settings = [word for setting in made.settings for word in ("--set", setting)]
    return ["--params", str(ROOT / "params.yaml"), *settings]


def questions(made: Lineages) -> list[list[str]]:
    asked = [*QUESTIONS, ["trace", made.runs["b", "recaption"]]]
    return [[*question, *words(made)] for question in asked]


def answers(made: Lineages) -> str:
    command = [sys.executable, "-c", ASK, json.dumps(questions(made))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def there_and_back(
    made: Lineages, folder: Path, lose: Callable[[], None], capture: pytest.CaptureFixture[str], *options: str
) -> None:
    """Two runs, saved one after the other; then all is lost but the backup."""
    made.make("a")
    run = ["save", str(folder), *options, *words(made)]
    backup.main(run)
    made.make("b", "recaption")
    backup.main(run)
    kept = {entry.key: made.store.get_bytes(entry.key) for entry in made.store.entries()}
    capture.readouterr()
    for question in questions(made):
        main(question)
    before = capture.readouterr().out
    assert "team: champion is version 1" in before and made.made["a"]["finetune"].digest[:16] in before
    assert made.made["b"]["recaption"].digest[:16] in before
    for key in kept:
        made.store.delete(key)
    lose()
    assert not made.store.entries()
    backup.main(["restore", str(folder), *words(made)])
    assert answers(made) == before
    assert {entry.key: made.store.get_bytes(entry.key) for entry in made.store.entries()} == kept


def test_sqlite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Lineages(tmp_path, f"sqlite:///{tmp_path}/mlflow.db", "team")
    folder = tmp_path / "backup"

    def lose() -> None:
        (tmp_path / "mlflow.db").unlink()
        shutil.rmtree(tmp_path / "mlartifacts")

    there_and_back(made, folder, lose, capsys)
    assert "restored: sqlite:///" in capsys.readouterr().out
    version = registry.find_version(made.params.tracking, "team", "1")
    assert version is not None and version.run_id
    # A model's files are there again, where MLflow looks for them.
    mlmodels = [path.relative_to(folder) for path in folder.rglob("MLmodel")]
    assert mlmodels and all((tmp_path / path).is_file() for path in mlmodels)
    refuses_what_it_should(made, folder, capsys)


def refuses_what_it_should(made: Lineages, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*command: str) -> str:
        with pytest.raises(SystemExit) as ended:
            backup.main(command)
        assert ended.value.code == 2
        line = capsys.readouterr().err
        assert line.startswith("backup: ") and line.count("\n") == 1 and len(line) <= 302
        return line

    restore, database = ["restore", str(folder), *words(made)], made.folder / "mlflow.db"
    assert "is there; move it away before a backup takes its place" in told(*restore)
    database.rename(made.folder / "kept.db")
    assert "a backup of " in told(*restore, "--set", f"paths.store={made.folder}/other")
    assert "expected the database itself, sqlite:///" in told(*restore, "--set", "tracking.uri=http://h:1")
    assert "no such database" in told("save", str(folder), *words(made))
    backup.main(restore)  # what could not be saved took nothing away
    with closing(sqlite3.connect(folder / "mlflow.db")) as dump:
        [pages] = dump.execute("PRAGMA page_count").fetchone()
    with (folder / "mlflow.db").open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 4096 * (pages // 2))
    database.unlink()
    assert "mlflow.db: " in told(*restore) and not database.exists()
    (folder / "backup.json").write_text('{"began": ')
    assert "no whole backup; expected backup.json in it" in told(*restore)


def test_a_store_on_s3(tmp_path: Path, s3_endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Copied to another prefix, with the artifacts of MLflow's runs, which are below it."""
    store, copy = f"s3://test-bucket/{tmp_path.name}/team", f"s3://test-bucket/{tmp_path.name}/copy"
    made = Lineages(tmp_path, f"sqlite:///{tmp_path}/mlflow.db", "team", store)
    there_and_back(made, tmp_path / "backup", (tmp_path / "mlflow.db").unlink, capsys, "--copy", copy)
    assert [entry for entry in made.store.entries("mlartifacts/") if entry.key.endswith("MLmodel")]
    assert not (tmp_path / "backup" / "store").exists()
    with pytest.raises(SystemExit):
        backup.main(["save", str(tmp_path / "backup"), "--copy", f"{store}/copy", *words(made)])
    assert f"expected a place outside of the store {store}" in capsys.readouterr().err
    backup.main(["save", str(tmp_path / "other"), *words(made)])
    assert "--copy PLACE copies it" in capsys.readouterr().err


def test_a_write_that_is_not_finished_is_not_in_it(tmp_path: Path) -> None:
    source, target = tmp_path / "a.db", tmp_path / "b.db"
    with closing(sqlite3.connect(source)) as writer:
        writer.execute("CREATE TABLE t (x)")
        writer.execute("INSERT INTO t VALUES (1)")
        writer.commit()
        writer.execute("INSERT INTO t VALUES (2)")
        backup.copy_sqlite(source, target)
    with closing(sqlite3.connect(target)) as copy:
        assert copy.execute("SELECT x FROM t").fetchall() == [(1,)]


@pytest.mark.slow
@needs_postgres
def test_postgres(
    postgres: str,  # noqa: F811
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import psycopg

    monkeypatch.chdir(tmp_path)  # where MLflow puts the artifacts of a database that has no server
    made = Lineages(tmp_path, postgres, "team")

    def lose() -> None:
        with psycopg.connect(postgres) as database:
            database.execute("DROP SCHEMA public CASCADE")
            database.execute("CREATE SCHEMA public")

    there_and_back(made, tmp_path / "backup", lose, capfd)
    with pytest.raises(SystemExit):
        backup.main(["restore", str(tmp_path / "backup"), *words(made)])
    told = capfd.readouterr()
    assert "backup: pg_restore: " in told.err and "already exists" in told.err
    assert all(form not in told.out + told.err for form in (PASSWORD, QUOTED))
    assert registry.find_version(made.params.tracking, "team", "1") is not None
    assert all(
        form.encode() not in path.read_bytes()
        for path in (tmp_path / "backup").rglob("*")
        if path.is_file()
        for form in (PASSWORD, QUOTED)
    )
