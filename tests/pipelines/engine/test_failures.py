"""What is a mistake, that would only come again, and what may pass."""

import pytest

from ddt.store import StoreError
from pipelines.engine.actors import UnitInputError, UnitSystemError, unit_error
from pipelines.engine.failures import is_mistake
from pipelines.engine.fit import TrainingInputError, TrainingSystemError, _failure
from pipelines.services.tracking import require_place


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("select.keep = 0"), True),
        (caused(ValueError("a value of the wrong kind"), TypeError("int")), True),
        (UnitInputError("ingest, unit u5: too many rejects"), True),
        (StoreError("store: the path is empty"), True),
        (caused(StoreError("s3://bucket: SlowDown"), OSError(5, "busy")), False),
        (caused(ValueError("outer"), caused(ValueError("inner"), RuntimeError("lost"))), False),
        (OSError(28, "no space left"), False),
        (ConnectionError("Ray did not start"), False),
        (RuntimeError("a worker was lost"), False),
    ],
)
def test_mistakes(error: Exception, expected: bool) -> None:
    assert is_mistake(error) is expected


@pytest.mark.parametrize(("mistake", "kinds"), [
    (True, (UnitInputError, TrainingInputError)), (False, (UnitSystemError, TrainingSystemError)),
])  # fmt: skip
def test_a_workers_failure_stays_what_it_is(mistake: bool, kinds: tuple[type, type]) -> None:
    told = {"reason": "disk full", "user": True, "mistake": mistake, "trace": "", "unit": "0.tar", "kind": ""}
    unit, training = unit_error("ingest", told), _failure("pretrain", told)
    assert (type(unit), type(training)) == kinds
    assert is_mistake(unit) is is_mistake(training) is mistake
    # Either way it is one line on the command line.
    assert isinstance(unit, ValueError | OSError) and isinstance(training, ValueError | OSError)
    assert str(unit) == "ingest, 0.tar: disk full"


def test_a_units_failure_names_its_file_once_and_is_one_line() -> None:
    told = {"user": True, "mistake": True, "trace": "", "unit": "e.parquet"}
    named = unit_error("ingest", told | {"reason": "/data/e.parquet: no column for the instruction"})
    assert str(named) == "ingest: /data/e.parquet: no column for the instruction"
    long = str(unit_error("ingest", told | {"reason": "first\nsecond " * 100 + "reason"}))
    assert len(long) <= 300 and "\n" not in long and long.startswith("ingest, e.parquet: first second")
    assert long.endswith("reason")


def test_a_server_that_is_away_may_come_back() -> None:
    with pytest.raises(ValueError, match="Connection refused") as away:
        require_place("http://127.0.0.1:9")
    assert not is_mistake(away.value)
