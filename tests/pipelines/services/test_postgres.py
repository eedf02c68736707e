"""The registry on a PostgreSQL server, where its programs and its driver are installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import promote
from pipelines.commands import registry as commands
from pipelines.services import registry
from tests.pipelines.promotion import Promotion
from tests.postgres import PASSWORD, QUOTED, needs_postgres, postgres  # noqa: F401

pytestmark = [pytest.mark.slow, needs_postgres]


def test_promotion_and_the_way_back(
    postgres: str,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # where MLflow puts the artifacts of a database that has no server
    made = Promotion(tmp_path, postgres, "team")
    for word in ("a", "b", "b"):
        promote.run(made.context(word))
    commands.rollback(made.params, None, "")
    promote.run(made.context("b"))
    champion = registry.read_champion(made.params.tracking, "team")
    assert [move.version for move in champion.moves] == ["1", "2", "1"]
    assert champion.version is not None and champion.version.number == "1" and champion.version.run_id
    commands.print_history(made.params)
    told = capsys.readouterr()
    assert "team: champion is version 1" in told.out
    assert all(form not in told.out + told.err for form in (PASSWORD, QUOTED))
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert kept and not any(
        form.encode() in path.read_bytes() for path in kept for form in (PASSWORD, QUOTED)
    )
