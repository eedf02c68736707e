"""What is known of MLflow before the work: names, experiments, servers. No password is told."""

from __future__ import annotations

import base64
import json
import socket
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from ddt.config import ConfigError
from ddt.params import Params
from ddt.sections.run import EXPERIMENT_CHARS, MODEL_CHARS, Tracking
from pipelines.services import tracking
from pipelines.services.passwords import shown
from pipelines.services.tracking import experiment_id, require_experiment, require_place

SECRET = "s3cret/@:x"
GOOD = Tracking("sqlite:///a.db", None, "ddt-llama", "ddt-tokenizer", "ddt-llama")


@pytest.mark.parametrize(
    "name", ["a/b", "a:b", "it's", 'a"b', "a@b", "", " ", " a", "a\nb", ".", "..a", "x" * 256]
)
@pytest.mark.parametrize("key", ["model_name", "tokenizer_name"])
def test_names_that_the_registry_refuses(name: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^tracking.{key} = .*: expected") as error:
        replace(GOOD, **{key: name})
    assert len(str(error.value)) <= 300


@pytest.mark.parametrize("name", ["", " ", "a\0b", "x" * 501])
def test_names_of_experiments_that_are_none(name: str) -> None:
    with pytest.raises(ConfigError, match="^tracking.experiment = "):
        replace(GOOD, experiment=name)


def test_two_models_have_two_names() -> None:
    with pytest.raises(ConfigError, match="tracking.tokenizer_name = 'one': expected another name than"):
        replace(GOOD, tokenizer_name="one", model_name="one")


def test_mlflow_takes_the_names_that_pass() -> None:
    from mlflow.utils.validation import _validate_experiment_name, _validate_model_name

    for name in ("x" * MODEL_CHARS, "mein Modell", "日本語", "a.b_c-d (1)", "a.."):
        _validate_model_name(replace(GOOD, model_name=name).model_name)
    for name in ("x" * EXPERIMENT_CHARS, "team/a: 'first'"):
        _validate_experiment_name(replace(GOOD, experiment=name).experiment)


def test_a_deleted_experiment_is_told_before_the_work(params: Params) -> None:
    where = replace(params.tracking, experiment="deleted")
    require_experiment(where)  # makes it
    client = tracking.client(where)
    number = experiment_id(where, client)
    client.delete_experiment(number)
    with pytest.raises(
        ValueError, match=rf"^tracking.experiment = deleted: it was deleted .* restore -x {number}\), or set"
    ):
        require_experiment(where)
    client.restore_experiment(number)
    require_experiment(where)


def test_a_database_that_cannot_be_written_is_told_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "why_unwritable", lambda folder: "Read-only file system")
    with pytest.raises(ValueError, match=r"^tracking.uri = sqlite:///a.db: Read-only file system \("):
        require_experiment(GOOD)


@pytest.mark.parametrize(
    ("uri", "without"),
    [
        ("sqlite:///data/mlflow.db", "sqlite:///data/mlflow.db"),
        ("sqlite:////a:b@c.db", "sqlite:////a:b@c.db"),
        ("http://host:5000/base", "http://host:5000/base"),
        ("http://ann@host:5000", "http://ann@host:5000"),
        ("http://ann:s3cret@host:5000", "http://ann:***@host:5000"),
        (f"postgresql://ann:{SECRET}@host/db", "postgresql://ann:***@host/db"),
        ("mysql+pymysql://:s3cret@host/db", "mysql+pymysql://:***@host/db"),
        (
            "postgresql://host/db?user=ann&password=s3cret&x=1",
            "postgresql://host/db?user=ann&password=***&x=1",
        ),
        ("tracking = 'http://a:s3cret@h': expected", "tracking = 'http://a:***@h': expected"),
    ],
)
def test_passwords_are_not_shown(uri: str, without: str) -> None:
    assert shown(uri) == without


def test_nor_are_they_in_what_mlflow_says(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow
    from mlflow.exceptions import MlflowException

    uri = "oracle://ann:s3cret@host/db"

    def failing(*_: object, **__: object) -> None:
        raise MlflowException(f"API request to {uri} failed; s3cret is no password")

    monkeypatch.setattr(mlflow, "MlflowClient", failing)
    monkeypatch.setattr(mlflow, "set_tracking_uri", lambda _: None)
    with pytest.raises(ValueError, match=r"^tracking.uri = oracle://ann:\*\*\*@host/db: API req") as error:
        tracking.client(replace(params.tracking, uri=uri))
    assert "s3cret" not in str(error.value)


def test_servers_are_asked_without_user_and_password() -> None:
    with pytest.raises(ValueError, match=r"tracking.uri = http://ann:\*\*\*@127.0.0.1:9: Connection refused"):
        require_place("http://ann:s3cret@127.0.0.1:9")
    with pytest.raises(
        ValueError, match=r"tracking.uri = http://ann:\*\*\*@host: no address of a web server"
    ):
        require_place("http://ann:s3cret/x@host")


def test_databases_are_asked_before_mlflow_is() -> None:
    place = "postgresql+psycopg2://ann:s3cret@127.0.0.1:9/db"
    with pytest.raises(
        ValueError, match=r"^tracking.uri = postgresql\+psycopg2://ann:\*\*\*@127.0.0.1:9/db: Connection ref"
    ):
        require_place(place)
    with pytest.raises(
        ValueError, match=r"^tracking.uri = postgresql://ann:\*\*\*@host/db: no address of a data"
    ):
        require_place(f"postgresql://ann:{SECRET}@host/db")


@pytest.mark.parametrize(
    ("driver", "told"),
    [
        ("postgresql", "needs the driver psycopg: pip install 'ddt-llama[pipeline-postgres]'"),
        ("mysql+pymysql", "needs the driver pymysql: pip install 'pymysql'"),
        ("mssql+nodriver", "no such driver as nodriver"),
    ],
)
def test_a_driver_that_is_not_installed_is_told_before_the_work(
    driver: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("psycopg", "pymysql"):
        monkeypatch.setitem(sys.modules, package, None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}/db"
        with pytest.raises(ValueError) as error:
            require_place(f"{driver}://ann:s3cret@{place}")
    assert str(error.value) == f"tracking.uri = {driver}://ann:***@{place}: {told}"


def test_a_server_is_used_with_its_password_and_nothing_of_it_is_printed(
    params: Params, capfd: pytest.CaptureFixture[str]
) -> None:
    info = {
        "run_id": "1",
        "run_uuid": "1",
        "experiment_id": "0",
        "status": "FINISHED",
        "lifecycle_stage": "active",
    }
    answer = {"run": {"info": info, "data": {}}, "run_info": info, "experiment": {"experiment_id": "0"}}
    logins: list[str | None] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path.startswith("/api"):
                logins.append(self.headers.get("Authorization"))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = replace(params.tracking, uri=f"http://ann:s3cret@127.0.0.1:{server.server_port}")
        tracking.finish_parent(where, "1", {}, [])
        server.shutdown()
    told = capfd.readouterr()
    assert told.out == "" and "s3cret" not in told.err
    assert set(logins) == {"Basic " + base64.b64encode(b"ann:s3cret").decode()}


def test_what_answers_but_is_no_web_server_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-OpenSSH\r\n")

        threading.Thread(target=answer, daemon=True).start()
        port = server.getsockname()[1]
        with pytest.raises(ValueError, match=rf"tracking.uri = http://127.0.0.1:{port}: no .* web server"):
            require_place(f"http://127.0.0.1:{port}")


def test_the_database_is_beside_its_artifacts(params: Params) -> None:
    client = tracking.client(params.tracking)
    found = client.get_experiment(experiment_id(params.tracking, client))
    database = Path(params.tracking.uri.removeprefix("sqlite:///"))
    assert found.artifact_location == (database.parent / "mlartifacts").as_uri()


@pytest.mark.parametrize("failures", [1, tracking.DATASET_TRIES])
def test_of_two_that_name_a_dataset_at_once_the_other_tries_again(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    class Client:
        """Fails as SQLite's store does where another run has just added the dataset."""

        def log_batch(self, run_id: str, params: list[Any]) -> None: ...

        def log_inputs(self, run_id: str, datasets: list[Any]) -> None:
            told.append(datasets[0].dataset.name)
            if len(told) <= failures:
                raise MlflowException("UNIQUE constraint failed: datasets.experiment_id, name, digest")

    monkeypatch.setattr(tracking.time, "sleep", lambda seconds: None)
    read = {"ingest": ("d" * 64, "s3://store/manifests/ingest/d.json")}
    if failures == tracking.DATASET_TRIES:
        with pytest.raises(MlflowException, match="UNIQUE"):
            tracking.log_inputs(Client(), "run", {}, read)
    else:
        tracking.log_inputs(Client(), "run", {}, read)
    assert told == ["ingest"] * min(failures + 1, tracking.DATASET_TRIES)
