"""MLflow: where it is, runs, datasets, metrics and pictures.

A pipeline run is a parent run with one child a stage (`stage_run`). The default backend is a local SQLite
file, created and migrated once, before stages fan out: several processes that open a new database at the same
time would race for its migration.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from ddt.sections.run import Tracking
from pipelines.reports.report import Report
from pipelines.services.failures_told import CardOf, Failure, forget_failure, log_page, tell_parent
from pipelines.services.passwords import shown, whole, without
from pipelines.services.surroundings import is_gone, process_mark, why_unwritable

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
# It would print a server's address, with its password, on stdout, which is for results.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

_NOT_IN_NAMES = re.compile(r"[^\w\-./ :]")  # MLflow refuses these in a metric's name
DATASET_TRIES = 3
MAX_BATCH = 1000  # metrics that MLflow takes at once
DIGEST_CHARS = 32  # MLflow allows 36 characters for a dataset digest; the full one goes into a tag
MANIFEST_KEY = "manifest_key"  # tag of a stage's run: where the store keeps the manifest that it made
PROCESS = "process"  # tag: whose life a run follows
SQLITE, SQLITE_MAGIC = "sqlite:///", b"SQLite format 3\0"
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
PACKAGE_OF_DRIVER = {"psycopg": "ddt-llama[pipeline-postgres]", "mysqldb": "mysqlclient"}
ANSWER_SECONDS = 10  # within which a server must say anything at all


def api(name: str) -> Any:
    """`mlflow.<name>`, for the services beside this one: no other module imports MLflow."""
    import mlflow

    return importlib.import_module(f"{mlflow.__name__}.{name}")


def client(tracking: Tracking) -> Any:
    """An MlflowClient on the tracking URI; creates and migrates a local SQLite file where there is none.

    Raises ValueError naming `tracking.uri` where there is no server or database that can be used.
    """
    logging.getLogger("alembic").setLevel(logging.ERROR)
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    for noisy in ("mlflow.store.db.utils", "mlflow", "alembic.runtime.migration"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    require_place(tracking.uri)
    uri = whole(tracking.uri)
    try:
        mlflow.set_tracking_uri(uri)
        made = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        made.get_experiment_by_name(tracking.experiment)
    except (MlflowException, SQLAlchemyError, ImportError) as error:  # the last for a database's driver
        raise unusable(tracking.uri, error) from error
    return made


def unusable(uri: str, reason: Exception | str) -> ValueError:
    """The error that names `tracking.uri`; what MLflow says may hold the whole of it."""
    text = str(reason).strip().splitlines()[0]
    return ValueError(f"tracking.uri = {shown(uri)}: {without(text, uri)}")


@cache
def require_place(uri: str) -> None:
    """ValueError where `tracking.uri` is a file that is no database, or a server that does not answer.

    Also where its password or a database's driver is missing. Makes a local database's folder. It takes
    no import of MLflow, which also asks a server or a database that is away for minutes: right in the midst
    of a run only.
    """
    whole(uri)  # its password is there
    try:
        if uri.startswith(SQLITE):
            path = database_file(uri)
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and _beginning(path) not in (b"", SQLITE_MAGIC):
                raise unusable(uri, "the file is no SQLite database")
        elif uri.startswith(("http://", "https://")):
            parts = urlsplit(uri)
            server = parts.netloc.rpartition("@")[2]  # without user and password, which urlopen does not take
            urlopen(parts._replace(netloc=server).geturl(), timeout=ANSWER_SECONDS).close()
        elif is_database(uri):
            _reach_database(uri)
    except HTTPError as answer:  # it may ask for a password, or have no page there
        answer.close()
    except HTTPException as error:
        raise unusable(uri, "no address of a web server") from error
    except OSError as error:
        cause = getattr(error, "reason", error)  # urllib wraps it
        where = f" ({error.filename})" if error.filename else ""
        raise unusable(uri, f"{getattr(cause, 'strerror', None) or cause}{where}") from error


def is_database(uri: str) -> bool:
    """Whether MLflow's tables are behind it, and no server."""
    return uri.startswith(SQLITE) or re.split("[+:]", uri)[0] in DATABASE_PORTS


def _reach_database(uri: str) -> None:
    """OSError where nothing listens at a database's address; one on a socket of this machine is not asked.

    Raises ValueError for what is no address, and where the driver is not installed.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
    except (ArgumentError, ValueError):  # their words may hold a part of the password
        raise unusable(uri, "no address of a database; @ : / in a password are %40 %3A %2F") from None
    if url.host:
        place = url.host, url.port or DATABASE_PORTS[url.get_backend_name()]
        socket.create_connection(place, ANSWER_SECONDS).close()
    try:
        url.get_dialect().import_dbapi()
    except ImportError:
        driver = url.get_driver_name()
        package = PACKAGE_OF_DRIVER.get(driver, driver)
        raise unusable(uri, f"needs the driver {driver}: pip install '{package}'") from None
    except ArgumentError:
        raise unusable(uri, f"no such driver as {url.get_driver_name()}") from None


def database_file(uri: str) -> Path:
    """Where a local database lies."""
    return Path(uri.removeprefix(SQLITE)).expanduser().resolve()


def artifacts_folder(uri: str) -> Path:
    """Where the artifacts of runs in a local database lie."""
    return database_file(uri).parent / "mlartifacts"


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(SQLITE_MAGIC))


def require_experiment(tracking: Tracking) -> None:
    """ValueError naming the key where a run could not be logged."""
    if tracking.uri.startswith(SQLITE):
        require_place(tracking.uri)
        database = database_file(tracking.uri)
        reason = why_unwritable(database.parent)
        if reason is not None:
            raise unusable(tracking.uri, f"{reason} ({database.parent})")
        if not database.exists():  # nothing to ask, and making it takes seconds
            return
    experiment_id(tracking, client(tracking))


def experiment_id(tracking: Tracking, mlflow_client: Any) -> str:
    """The experiment's id, made on first use; its artifacts go where `tracking.artifacts` says, or a server.

    Raises ValueError where it was deleted: MLflow keeps the name, and takes no run in it.
    """
    found = mlflow_client.get_experiment_by_name(tracking.experiment)
    if found is not None and found.lifecycle_stage == "deleted":
        raise ValueError(
            f"tracking.experiment = {tracking.experiment}: it was deleted in MLflow; restore it "
            f"(mlflow experiments restore -x {found.experiment_id}), or set tracking.experiment to another"
        )
    if found is not None:
        return found.experiment_id
    location = None if tracking.uri.startswith(("http://", "https://")) else tracking.artifacts
    if location is None and tracking.uri.startswith(SQLITE):
        location = artifacts_folder(tracking.uri).as_uri()
    return mlflow_client.create_experiment(tracking.experiment, artifact_location=location)


def start_parent(tracking: Tracking, name: str, tags: dict[str, str], process: int) -> str:
    """Start the pipeline's run and return its id; `process` is the one that the run ends with."""
    mlflow_client = client(tracking)
    experiment = experiment_id(tracking, mlflow_client)
    close_dead(mlflow_client, experiment)
    tags = tags | {PROCESS: process_mark(process)}
    return str(mlflow_client.create_run(experiment, run_name=name, tags=tags).info.run_id)


def finish_parent(tracking: Tracking, run_id: str, metrics: dict[str, float], artifacts: list[Path]) -> None:
    """Log the run's summary and mark it finished."""
    mlflow_client = client(tracking)
    forget_failure(mlflow_client, run_id)
    _log_metrics(mlflow_client, run_id, metrics)
    for path in artifacts:
        mlflow_client.log_artifact(run_id, str(path))
    mlflow_client.set_terminated(run_id)


def end_parent(tracking: Tracking, run_id: str, card_of: CardOf) -> list[Failure]:
    """Close a pipeline's run that did not finish, and tell in it and return which stages failed.

    It is FAILED where one did, else KILLED.
    """
    mlflow_client = client(tracking)
    children = mlflow_client.search_runs(
        [mlflow_client.get_run(run_id).info.experiment_id], f"tags.mlflow.parentRunId = '{run_id}'"
    )
    failures = tell_parent(mlflow_client, tracking, run_id, children, card_of)
    mlflow_client.set_terminated(run_id, "FAILED" if failures else "KILLED")
    return failures


def close_dead(mlflow_client: Any, experiment: str) -> None:
    """Mark as killed the runs whose process on this machine is gone: it had no time to say so."""
    for run in mlflow_client.search_runs([experiment], "attributes.status = 'RUNNING'"):
        if is_gone(run.data.tags.get(PROCESS, "")):
            mlflow_client.set_terminated(run.info.run_id, "KILLED")


def log_inputs(
    mlflow_client: Any, run_id: str, section: dict[str, Any], inputs: Mapping[str, tuple[str, str]]
) -> None:
    """A stage's parameters, and of what it reads the digests and where their manifests are for good."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    params = [Param(key, str(value)[:6000]) for key, value in sorted(_flatten(section).items())]
    mlflow_client.log_batch(run_id, params=params)
    datasets = [
        DatasetInput(
            Dataset(name, digest[:DIGEST_CHARS], "manifest", json.dumps({"uri": uri})),
            [InputTag("mlflow.data.context", "input"), InputTag("manifest", digest)],
        )
        for name, (digest, uri) in inputs.items()
    ]
    if datasets:
        _log_datasets(mlflow_client, run_id, datasets)


def _log_datasets(mlflow_client: Any, run_id: str, datasets: list[Any]) -> None:
    """Again where two stages that begin at once are the first to name one: MLflow lets one of them fail."""
    from mlflow.exceptions import MlflowException

    for left in reversed(range(DATASET_TRIES)):
        try:
            return mlflow_client.log_inputs(run_id, datasets)
        except MlflowException:
            if not left:
                raise
            time.sleep(1)


def log_report(mlflow_client: Any, run_id: str, report: Report, workspace: Path) -> None:
    """What a finished stage tells, but for its curves."""
    mlflow_client.set_tag(run_id, "manifest", report.digest)
    mlflow_client.set_tag(run_id, MANIFEST_KEY, report.manifest)
    bounds = {f"{name}/{end}": score[end] for name, score in report.scores.items() for end in ("low", "high")}
    _log_metrics(mlflow_client, run_id, report.metrics | bounds | {"seconds": report.seconds})
    for path in report.pictures.values():
        if (workspace / path).is_file():
            mlflow_client.log_artifact(run_id, str(workspace / path), "pictures")
    for path in report.pages.values():
        if (workspace / path).is_file():
            log_page(mlflow_client, run_id, workspace / path)


def log_points(mlflow_client: Any, run_id: str, points: Sequence[tuple[str, int, float]]) -> None:
    """Metrics by name, step and value, in batches."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    named = [Metric(_NOT_IN_NAMES.sub("_", name), value, now, step) for name, step, value in points]
    for start in range(0, len(named), MAX_BATCH):
        mlflow_client.log_batch(run_id, metrics=named[start : start + MAX_BATCH])


def serve(tracking: Tracking, port: int) -> None:
    """Serve MLflow's pages on 127.0.0.1 until interrupted. Raises ValueError where the port is taken."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise ValueError(
                f"--port {port}: {getattr(error, 'strerror', None) or error}; try another"
            ) from None
    client(tracking)  # makes the database where there is none
    print(f"MLflow on http://127.0.0.1:{port} (Ctrl-C ends it)", file=sys.stderr)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    place = {"MLFLOW_BACKEND_STORE_URI": whole(tracking.uri)}  # a command line is for all to see
    subprocess.run(command, env=os.environ | place, check=False)


def _log_metrics(mlflow_client: Any, run_id: str, metrics: dict[str, float]) -> None:
    log_points(mlflow_client, run_id, [(name, 0, float(value)) for name, value in metrics.items()])


def _flatten(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
