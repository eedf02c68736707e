"""The password of `tracking.uri`: what is kept has none, what MLflow gets has it again."""

from __future__ import annotations

import pytest

from pipelines.services.passwords import VARIABLE, put_away, shown, whole, without

URIS = [
    ("http://ann:s3cret@host:5000/base", "http://ann:***@host:5000/base"),
    ("postgresql://ann:a%40b%2Fc@host/db", "postgresql://ann:***@host/db"),
    ("postgresql://host/db?user=ann&password=s3cret&x=1", "postgresql://host/db?user=ann&password=***&x=1"),
]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")  # so that what a test sets is undone


@pytest.mark.parametrize(("uri", "kept"), URIS)
def test_what_is_put_away_comes_back(uri: str, kept: str) -> None:
    assert put_away(uri) == kept and put_away(kept) == kept
    assert whole(kept) == whole(uri) == uri


def test_a_password_that_is_nowhere_is_told() -> None:
    with pytest.raises(ValueError) as error:
        whole("postgresql://ann:***@host/db")
    told = "its password is not kept; expected it in MLFLOW_TRACKING_PASSWORD"
    assert str(error.value) == f"tracking.uri = postgresql://ann:***@host/db: {told}"


@pytest.mark.parametrize("uri", ["sqlite:////a:b@c.db", "http://ann@host", "postgresql://host/db"])
def test_where_there_is_none_none_is_asked_for(uri: str) -> None:
    assert put_away(uri) == whole(uri) == shown(uri) == uri


def test_no_form_of_it_is_left_in_a_message() -> None:
    kept = put_away("postgresql://ann:a%40b@host/db")
    said = "no login for ann with a@b at postgresql://ann:a%40b@host/db (a%40b)"
    assert without(said, kept) == "no login for ann with *** at postgresql://ann:***@host/db (***)"
