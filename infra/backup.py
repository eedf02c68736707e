"""Saves MLflow's database together with the store, and puts both back: docs/operations.md.

python infra/backup.py save FOLDER [--copy PLACE] [--profile NAME] [--set KEY=VALUE ...]
python infra/backup.py restore FOLDER [the same]

A store on S3 is copied to PLACE, a folder or s3://bucket/prefix; without it its bucket's own means are its
backup. The database is read first and the store after it, so that all that the database names is in the
backup, also while runs go on. Nothing in a store changes, so a second backup into the same folder copies what
is new. The database takes its place last: an interrupted backup leaves the one before.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ddt.clean import one_line
from ddt.params import Params, load_params
from ddt.store import FolderStore, NotFound, Store, open_store
from pipelines.services.passwords import shown, whole
from pipelines.services.tracking import SQLITE, artifacts_folder, database_file

TOLD = "backup.json"  # written last: what there is, of when and where
DUMPS = {"sqlite": "mlflow.db", "postgresql": "mlflow.dump"}


def save(params: Params, folder: Path, copy: str | None = None) -> dict[str, Any]:
    """A backup in `folder`, of the store in `copy`; what was saved.

    Without `copy` a store that is a folder is copied beside the database, and one on S3 is not. ValueError or
    OSError where it could not be saved.
    """
    store = open_store(params.paths.store)
    if copy is not None and f"{open_store(copy).root_uri}/".startswith(f"{store.root_uri}/"):
        raise ValueError(f"--copy {copy}: expected a place outside of the store {store.root_uri}")
    uri, began = params.tracking.uri, datetime.now(UTC).isoformat(timespec="seconds")
    kind = kind_of(uri)
    folder.mkdir(parents=True, exist_ok=True)
    dump = folder / f"{DUMPS[kind]}.new"
    dump.unlink(missing_ok=True)
    if kind == "sqlite":
        copy_sqlite(database_file(uri), dump)
        copy_artifacts(artifacts_folder(uri), folder / "mlartifacts")
    else:
        run_postgres("pg_dump", uri, "--format=custom", "--no-owner", f"--file={dump}")
    kept = copy_of(store, folder, copy)
    copied = copy_store(store, kept) if kept else None
    told = {"began": began, "database": shown(uri), "store": params.paths.store, "files": copied}
    told["copy"] = copy
    (folder / TOLD).unlink(missing_ok=True)
    dump.replace(folder / DUMPS[kind])
    (folder / TOLD).write_text(json.dumps(told, indent=1) + "\n")
    return told


def restore(params: Params, folder: Path, copy: str | None = None) -> dict[str, Any]:
    """What a backup has, back where the parameters say; the places must be those that it was made of.

    MLflow keeps absolute places of artifacts, and a version that of its store. `copy`: where the store's copy
    is now, if elsewhere. Raises ValueError where there is a database already, or no whole backup.
    """
    uri, kind = params.tracking.uri, kind_of(params.tracking.uri)
    told = read_told(folder)
    for key, here in (("database", shown(uri)), ("store", params.paths.store)):
        if told[key] != here:
            raise ValueError(f"{folder}: a backup of {told[key]}; expected {here}, as the parameters say")
    if kind == "sqlite" and database_file(uri).exists():
        raise ValueError(f"tracking.uri = {uri}: is there; move it away before a backup takes its place")
    store = open_store(params.paths.store)
    kept = copy_of(store, folder, copy or told["copy"])
    if kept:
        copy_store(kept, store)
    if kind == "sqlite":
        copy_artifacts(folder / "mlartifacts", artifacts_folder(uri))
        copy_sqlite(folder / DUMPS[kind], database_file(uri))
    else:
        dump = str(folder / DUMPS[kind])
        run_postgres("pg_restore", uri, "--no-owner", "--exit-on-error", "--single-transaction", dump)
    return told


def copy_of(store: Store, folder: Path, place: str | None) -> Store | None:
    """Where a backup in `folder` has the store's copy; None where it has none."""
    if place is not None:
        return open_store(place)
    return FolderStore(folder / "store") if isinstance(store, FolderStore) else None


def kind_of(uri: str) -> str:
    """sqlite or postgresql; ValueError for a server, whose database is asked for."""
    kind = uri.partition(":")[0].partition("+")[0]
    if kind not in DUMPS:
        raise ValueError(
            f"tracking.uri = {shown(uri)}: expected the database itself, {SQLITE}... or postgresql://..., "
            "which a server has behind it"
        )
    return kind


def read_told(folder: Path) -> dict[str, Any]:
    """What a backup says of itself; ValueError where there is no whole one."""
    try:
        told = json.loads((folder / TOLD).read_text())
        found = {key: told[key] for key in ("began", "database", "store", "files")}
        return found | {"copy": told.get("copy")}  # which backups of an earlier release do not say
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{folder}: no whole backup; expected {TOLD} in it") from None


def copy_sqlite(source: Path, target: Path) -> None:
    """By SQLite's online backup: whole, whoever writes meanwhile. ValueError where it is not sound."""
    if not source.is_file():
        raise ValueError(f"{source}: no such database")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    try:
        with (
            closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as database,
            closing(sqlite3.connect(part)) as copy,
        ):
            database.backup(copy)
            [sound] = copy.execute("PRAGMA integrity_check").fetchone()
    except sqlite3.DatabaseError as error:
        sound = str(error)
    if sound != "ok":
        part.unlink(missing_ok=True)
        raise ValueError(f"{source}: {one_line(sound)}")
    part.replace(target)


def copy_artifacts(source: Path, target: Path) -> None:
    """Files of runs, those that are new or of another size."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_copy_new, dirs_exist_ok=True)


def _copy_new(source: str, target: str) -> str:
    if not os.path.exists(target) or os.path.getsize(source) != os.path.getsize(target):
        shutil.copy2(source, target)
    return target


def copy_store(source: Store, target: Store) -> int:
    """Keys that `target` does not have yet at their size; how many there are now."""
    there = {entry.key: entry.bytes for entry in target.entries()}
    found = source.entries()
    for entry in found:
        if there.get(entry.key) != entry.bytes:
            try:
                target.put_file(entry.key, source.fetch(entry.key))
            except (NotFound, FileNotFoundError):  # a checkpoint of a training that goes on
                continue
    return len(found)


def run_postgres(program: str, uri: str, *arguments: str) -> None:
    """One of PostgreSQL's programs on a database; its password is in the environment, not among the words."""
    from sqlalchemy.engine import URL, make_url

    url = make_url(whole(uri))
    place = URL.create("postgresql", url.username, None, url.host, url.port, url.database, url.query)
    environment = os.environ | ({"PGPASSWORD": str(url.password)} if url.password else {})
    command = [program, f"--dbname={place.render_as_string()}", *arguments]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ValueError(f"{program}: not installed; expected PostgreSQL's client programs") from None
    if done.returncode:
        raise ValueError(f"{program}: {shown(done.stderr.strip())}")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("save", "restore"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--copy", metavar="PLACE", help="where a store on S3 is copied to")
    parser.add_argument("--params", default="params.yaml")
    parser.add_argument("--profile")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args(words)
    try:
        params = load_params(options.params, options.profile, options.overrides)
        told = (save if options.what == "save" else restore)(params, options.folder, options.copy)
    except (ValueError, OSError) as error:
        print(one_line(shown(f"backup: {error}")), file=sys.stderr)
        sys.exit(2)
    store = f"{told['files']:,} files of {told['store']}" if told["files"] is not None else "no store"
    print(f"{options.what.removesuffix('e')}ed: {told['database']} of {told['began']}, {store}")
    if told["files"] is None:
        print(
            f"{told['store']} is kept by its bucket, whose versions or replication are its backup; "
            "--copy PLACE copies it",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
