"""What a reference of the registry stands for: the champion, or the candidate where there is none."""

from __future__ import annotations

import dataclasses
import shutil
import sqlite3
from pathlib import Path

import pytest

from ddt.manifest import Commit, Manifest
from ddt.params import Params
from ddt.store import FolderStore, mark_complete
from pipelines.promote import Check
from pipelines.services import registry
from pipelines.services.logged_model import Model
from pipelines.services.models import find_model


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a model of each digest a, b, c."""
    folder = tmp_path_factory.mktemp("registry")
    store = FolderStore(folder / "store")
    for digest in "abc":
        (folder / digest).mkdir()
        (folder / digest / "name").write_text(digest)
        mark_complete(folder / digest)
        store.put_tree(f"shards/finetune/{digest}-model", folder / digest)
    return folder


def register(params: Params, place: Path, name: str, digest: str) -> registry.Version:
    made = Commit("unit", "key", 1, 1, digest)
    manifest = Manifest("finetune", digest, {}, (made,))
    model = Model("model", "finetune", manifest, f"{place}/store", f"shards/finetune/{digest}-model")
    return registry.register(params.tracking, name, model, {})


def found(reference: str | None, params: Params) -> str:
    return (find_model(reference, params) / "name").read_text()


def test_the_champion_else_the_candidate(
    params: Params, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for reference in (None, "models:/ddt-llama"):
        with pytest.raises(
            ValueError, match=r"^ddt-llama: neither champion nor candidate in sqlite:.*; run `py"
        ):
            find_model(reference, params)

    first = register(params, place, "ddt-llama", "a")
    assert found(None, params) == "a"
    told = "ddt-llama version 1, the candidate, is used: there is no champion yet, it was"
    assert capsys.readouterr().err == f"{told} not promoted\n"
    checks = [
        Check(metric, "lower bound at least", None, 0.5, False) for metric in ("vqa/accuracy", "mme/color")
    ]
    reasons = "; ".join(check.reason() for check in checks)
    registry.tag_version(params.tracking, first, {"verdict_reasons": reasons})
    assert found("models:/ddt-llama", params) == "a"
    assert capsys.readouterr().err == f"{told} refused for vqa/accuracy, mme/color\n"
    with pytest.raises(ValueError, match="^models:/ddt-llama@champion: no such alias in sqlite:"):
        find_model("models:/ddt-llama@champion", params)

    nobody = registry.read_champion(params.tracking, "ddt-llama")
    registry.move_champion(params.tracking, nobody, first, "a test")
    register(params, place, "ddt-llama", "b")  # newer, and refused
    assert found(None, params) == found("models:/ddt-llama", params) == "a"
    assert found("models:/ddt-llama@candidate", params) == found("models:/ddt-llama/2", params) == "b"
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match="^models:/ddt-llama/3: no such version in sqlite:"):
        find_model("models:/ddt-llama/3", params)

    register(params, place, "ddt-tokenizer", "c")  # the same rule for each name
    assert found("models:/ddt-tokenizer", params) == "c"
    assert "ddt-tokenizer version 1, the candidate, is used" in capsys.readouterr().err


def test_a_database_that_fails_is_no_registry_without_a_champion(
    params: Params, place: Path, tmp_path: Path
) -> None:
    register(params, place, "ddt-other", "a")  # there is a database then, of which others go on to use theirs
    copy = shutil.copy(params.tracking.uri.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    own = dataclasses.replace(params, tracking=dataclasses.replace(params.tracking, uri=f"sqlite:///{copy}"))
    with sqlite3.connect(copy) as database:
        database.execute("ALTER TABLE registered_model_aliases RENAME TO elsewhere")
    with pytest.raises(ValueError, match="tracking.uri = sqlite:.*: .*no such table"):
        find_model(None, own)


def test_a_server_that_fails_is_no_registry_without_a_champion(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def broken(self: object, name: str, alias: str) -> None:
        raise MlflowException("the server is too busy")

    monkeypatch.setattr(registry, "open_rows", lambda tracking: None)  # so that the client is asked
    monkeypatch.setattr(MlflowClient, "get_model_version_by_alias", broken)
    with pytest.raises(ValueError, match="tracking.uri = sqlite:.*: the server is too busy"):
        find_model(None, params)


@pytest.mark.parametrize("reference", ["models:a@b", "models:/", "models:/a/champion", "models:/a@b@c"])
def test_other_forms_are_refused(reference: str, params: Params) -> None:
    with pytest.raises(
        ValueError, match=f"{reference}: expected models:/<name>, models:/<name>@<alias> or mod"
    ):
        find_model(reference, params)
