"""Who becomes the champion, and stays it: once for each decision, never against what a person did."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from ddt.params import Params
from pipelines import promote
from pipelines.commands import registry as commands
from pipelines.commands.cli import main
from pipelines.engine.runner import StageError
from pipelines.services import registry, tracking
from tests.pipelines.promotion import PSNR, ROOT, Promotion

NUMBERS = count()


@pytest.fixture
def promotion(params: Params, tmp_path: Path) -> Promotion:
    """A registry of its own name in the one database."""
    return Promotion(tmp_path, params.tracking.uri, f"team-{next(NUMBERS)}")


def verdict(promotion: Promotion, word: str, psnr: float = 25.0) -> str:
    """Run the stage; its verdict as the version has it."""
    ctx = promotion.context(word, psnr)
    said = promote.run(ctx).report.notes[0]
    found = re.fullmatch(r"(.+) version (\d+) (\w+): .*", said)
    assert found is not None
    version = registry.find_version(ctx.params.tracking, found[1], found[2])
    assert version is not None and version.tags["verdict"] == found[3]
    return found[3]


def champion(promotion: Promotion) -> registry.Champion:
    where = promotion.params.tracking
    return registry.read_champion(where, where.model_name)


def number(promotion: Promotion, name: str | None = None) -> str | None:
    where = promotion.params.tracking
    found = registry.find_version(where, name or where.model_name, registry.CHAMPION)
    return found.number if found else None


def by_hand(promotion: Promotion, to: str) -> None:
    where = promotion.params.tracking
    tracking.client(where).set_registered_model_alias(where.model_name, registry.CHAMPION, to)


def test_a_decision_is_kept_once_with_the_version_and_its_run(promotion: Promotion) -> None:
    where = promotion.params.tracking
    client = tracking.client(where)
    ctx = promotion.context("a")
    manifest = ctx.inputs["finetune"]
    tags = {"stage": "finetune", "manifest": manifest.digest}
    run = client.create_run(tracking.experiment_id(where, client), tags=tags)  # as the stage left it
    first, again = promote.run(ctx), promote.run(ctx)
    assert first == again and first.report.metrics["promote/promoted"] == 1

    version = registry.find_version(where, where.model_name, "1")
    assert version is not None and version.run_id == run.info.run_id
    [file] = client.list_artifacts(version.run_id, "decisions")
    kept = json.loads(Path(client.download_artifacts(version.run_id, file.path)).read_text())
    assert kept == json.loads(version.tags["decision"])
    assert kept["champion"] is None and kept["verdict"] == "promoted" and "@" in kept["who"]
    assert kept["inputs"] == {stage: made.digest for stage, made in ctx.inputs.items()}
    [check] = kept["checks"]
    assert check == {
        "metric": PSNR, "rule": "lower bound at least", "limit": "21.0000", "value": "25.0000",
        "95 % interval": "24.9000 to 25.1000", "passed": "yes", "floor": 15.0,
    }  # fmt: skip
    assert [move.version for move in champion(promotion).moves] == ["1"]
    assert len(client.search_model_versions(f"name = '{where.model_name}'")) == 1


def test_a_better_one_follows_and_a_worse_one_does_not(promotion: Promotion) -> None:
    assert verdict(promotion, "low", 20.0) == "refused" and number(promotion) is None
    assert verdict(promotion, "a") == "promoted" and number(promotion) == "2"
    assert verdict(promotion, "worse", 24.0) == "refused" and number(promotion) == "2"
    assert verdict(promotion, "b", 26.0) == "promoted" and number(promotion) == "4"
    tokenizer = f"{promotion.params.tracking.model_name}-tokenizer"
    assert number(promotion, tokenizer) == "4"
    assert [(move.before, move.version) for move in champion(promotion).moves] == [(None, "2"), ("2", "4")]


def test_no_run_undoes_what_a_person_did(promotion: Promotion) -> None:
    for word in "ab":
        assert verdict(promotion, word) == "promoted"
    by_hand(promotion, "1")
    assert verdict(promotion, "b") == "promoted" and number(promotion) == "1"  # the decision stands, unmoved
    assert verdict(promotion, "b", 30.0) == "withheld" and number(promotion) == "1"  # evaluated again
    assert [(m.version, m.who) for m in champion(promotion).moves[2:]] == [("1", registry.BY_HAND)]
    assert verdict(promotion, "c") == "promoted" and number(promotion) == "3"  # a new one is compared
    moves = champion(promotion).moves
    assert [move.version for move in moves] == ["1", "2", "1", "3"] and moves[3].before == "1"
    assert [move.number for move in moves] == [1, 2, 3, 4]


def test_rolled_back_is_rolled_back(promotion: Promotion, capsys: pytest.CaptureFixture[str]) -> None:
    name = promotion.params.tracking.model_name
    with pytest.raises(ValueError, match=f"^rollback: no other version of {name} was the champion; expected"):
        commands.rollback(promotion.params, None, "")
    for word in "ab":
        verdict(promotion, word)
    commands.rollback(promotion.params, None, "it draws\nnothing")
    assert capsys.readouterr().out == f"{name}: champion is version 1, it was 2\n"
    assert number(promotion) == number(promotion, f"{name}-tokenizer") == "1"
    for psnr in (25.0, 27.0):
        verdict(promotion, "b", psnr)
        assert number(promotion) == "1"
    commands.rollback(promotion.params, "2", "")
    commands.rollback(promotion.params, "2", "")  # nothing more
    assert number(promotion) == "2" and len(champion(promotion).moves) == 4
    for wrong in ("9", "last"):
        with pytest.raises(
            ValueError, match=f"^rollback: {name} has no version {wrong}; `ddt history` tells"
        ):
            commands.rollback(promotion.params, wrong, "")
    by_hand(promotion, "1")
    capsys.readouterr()
    commands.print_history(promotion.params)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:3] for line in lines[1:-1]] == [
        ["none", "1"], ["1", "2"], ["2", "1"], ["1", "2"], ["2", "1"],
    ]  # fmt: skip
    assert lines[3].split()[3:] == [registry.who(), "rollback:", "it", "draws", "nothing"]
    assert lines[5].startswith("unknown ") and lines[5].endswith("  by hand, outside of ddt")
    assert lines[-1] == f"{name}: champion is version 1"


def test_of_two_at_once_one_wins_and_the_other_is_told(
    promotion: Promotion, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict(promotion, "a")
    read = registry.read_champion

    def slow(*arguments: Any) -> registry.Champion:
        """Between reading and moving, another run promotes its model."""
        seen = read(*arguments)
        monkeypatch.setattr(registry, "read_champion", read)
        assert verdict(promotion, "b") == "promoted"
        return seen

    monkeypatch.setattr(registry, "read_champion", slow)
    with pytest.raises(StageError) as told:
        promote.run(promotion.context("c"))
    name = promotion.params.tracking.model_name
    assert str(told.value).startswith(
        f"promote: {name}: version 3 was made champion by {registry.who()} at the"
    )
    assert number(promotion) == "3"
    assert verdict(promotion, "c") == "promoted" and number(promotion) == "2"  # compared with that one


def test_the_commands_where_nothing_is_registered(
    promotion: Promotion, capsys: pytest.CaptureFixture[str]
) -> None:
    where = promotion.params.tracking
    keys = {
        "tracking.uri": where.uri, "tracking.model_name": where.model_name,
        "tracking.tokenizer_name": where.tokenizer_name, "paths.workspace": promotion.folder,
    }  # fmt: skip
    settings = [
        "--params",
        str(ROOT / "params.yaml"),
        *(f"--set={key}={value}" for key, value in keys.items()),
    ]
    main(["history", *settings])
    assert capsys.readouterr().out == f"when  from  to  who  why\n{where.model_name}: champion is none\n"
    for command, told in (
        (["rollback"], f"ddt: rollback: no other version of {where.model_name} was the champion"),
        (["rollback", "7", "--why", "a test"], f"ddt: rollback: {where.model_name} has no version 7;"),
        (
            ["promote", "--dry-run"],
            f"ddt: promote needs {promotion.folder}/manifests/train_tokenizer.json, which",
        ),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*command, *settings])
        assert ended.value.code == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(told)


@pytest.fixture
def killed(promotion: Promotion, monkeypatch: pytest.MonkeyPatch) -> Iterator[Promotion]:
    """A run that was killed after it had written its move and before it made it."""
    verdict(promotion, "a")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(registry, "_follow", killed)
        with pytest.raises(KeyboardInterrupt):
            promote.run(promotion.context("b"))
    assert number(promotion) == "1"
    yield promotion


def test_a_move_that_was_cut_off_is_finished(killed: Promotion) -> None:
    assert verdict(killed, "b") == "promoted" and number(killed) == "2"
    assert [move.version for move in champion(killed).moves] == ["1", "2"]


def test_and_not_where_a_person_moved_the_alias_since(killed: Promotion) -> None:
    verdict(killed, "low", 20.0)
    by_hand(killed, "3")
    verdict(killed, "b")
    assert number(killed) == "3"


def test_the_same_model_is_registered_once_however_many_do(
    promotion: Promotion, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = promotion.context("a")
    where, log = ctx.params.tracking, registry.log_model

    def slow(*arguments: Any) -> str:
        """While one copies its files, another registers the same."""
        monkeypatch.setattr(registry, "log_model", log)
        promote.run(ctx)
        return log(*arguments)

    monkeypatch.setattr(registry, "log_model", slow)
    promote.run(ctx)
    for name in (where.model_name, where.tokenizer_name):
        found = tracking.client(where).search_model_versions(f"name = '{name}'")
        assert [str(version.version) for version in found] == ["1"]


def test_a_dry_run_says_the_same_and_does_nothing(
    promotion: Promotion, capsys: pytest.CaptureFixture[str]
) -> None:
    where = promotion.params.tracking
    for word, psnr, said in (
        ("low", 20.0, "refused: reconstruct/psnr: lower"),
        ("a", 25.0, "promoted: every"),
    ):
        commands.try_promotion(promotion.context(word, psnr).params)
        out = capsys.readouterr().out
        assert f"dry run: {where.model_name} version (new) {said}" in out
        assert out.splitlines()[1].split()[0] == PSNR
    assert tracking.client(where).search_model_versions(f"name = '{where.model_name}'") == []
    verdict(promotion, "a")
    before = champion(promotion)
    commands.try_promotion(promotion.context("b").params)
    assert champion(promotion) == before
