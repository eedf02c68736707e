"""Units that fail for good: named, left out up to a rate, tried again when asked for.

What is left out must not depend on what was killed before, and what was made must not be made again. But for
the tests marked ray the actors run here: one that is killed loses its state, and its block comes again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ddt.manifest import Commit, Manifest, Quarantined
from ddt.params import load_params
from ddt.sections.run import Resources
from ddt.store import open_store
from pipelines.commands.cli import build_parser
from pipelines.commands.gc import Reached
from pipelines.engine import actors
from pipelines.engine import ledger as ledger_module
from pipelines.engine import units as units_module
from pipelines.engine.actors import UnitError, UnitInputError, UnitSystemError, _Actor
from pipelines.engine.cluster import connect
from pipelines.engine.ledger import Ledger
from pipelines.engine.quarantine import quarantined, release, stands, told
from pipelines.engine.runner import StageContext
from pipelines.engine.units import run_most_units, run_units
from tests.pipelines.ray_support import RESOURCES, Writer

PARAMS = load_params(Path(__file__).parents[3] / "params.yaml")
PRINT = "b" * 64
UNITS = [{"unit": f"{n:032x}", "name": f"{n}.tar", "value": n} for n in range(12)]
IDS = [str(unit["unit"]) for unit in UNITS]


BLOCK = 4


class MemoryLedger(Ledger):
    """The ledger, with a dict in the place of Ray's key-value store."""

    entries: ClassVar[dict[str, Any]] = {}

    @classmethod
    def new(cls) -> MemoryLedger:
        cls.entries.clear()
        return cls("")

    def close(self) -> None:
        self.entries.clear()

    def begin(self, unit: str, name: str) -> int:
        losses, at_work = self.entries.get(unit, (0, False))
        self.entries[unit] = (losses + at_work, True)
        return int(losses + at_work)

    def end(self, unit: str) -> None:
        self.entries[unit] = (self.entries[unit][0], False)


class Killed(BaseException):
    """In the place of SIGKILL."""


def answers_here(units: list[dict], worker: Any, worker_args: dict, ledger: Any, resources: Resources) -> Any:
    """As Ray gives them: a block's answers come together, all of it again where its actor was killed."""
    for start in range(0, len(units), BLOCK):
        while True:
            actor = _Actor(worker, worker_args, ledger, resources.unit_retries)
            try:
                block = [actor({"unit": json.dumps(unit)}) for unit in units[start : start + BLOCK]]
                break
            except Killed:
                continue
        yield from (json.loads(row["answer"]) for row in block)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Ray."""

    def kill(*_: int) -> None:
        raise Killed

    monkeypatch.setattr(ledger_module, "Ledger", MemoryLedger)
    monkeypatch.setattr(actors, "_answers", answers_here)
    monkeypatch.setattr(actors, "RETRY_AFTER_S", 0.001)
    monkeypatch.setattr(units_module, "connect", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(os, "kill", kill)


def context(folder: Path, rate: float, retries: int = 1) -> StageContext:
    resources = dataclasses.replace(RESOURCES, max_quarantine_rate=rate, unit_retries=retries)
    params = dataclasses.replace(PARAMS, resources=resources)
    return StageContext("score", params, params.score, open_store(folder / "store"), folder, PRINT, {})


def run(
    folder: Path, rate: float, does: dict[str, str], **more: Any
) -> tuple[list[Commit], list[Quarantined]]:
    return run_most_units(context(folder, rate), Writer, UNITS, folder=str(folder), does=does, **more)


def begun(folder: Path) -> Counter[str]:
    return Counter((folder / "begun").read_text().split())


def test_what_fails_for_good_is_named_and_the_rest_is_made(here, tmp_path):
    check_what_fails(tmp_path)


@pytest.mark.slow
@pytest.mark.ray
def test_the_same_on_ray(tmp_path, monkeypatch):
    monkeypatch.setattr(actors, "MAX_BLOCKS", len(UNITS) // BLOCK)
    with connect(RESOURCES):
        check_what_fails(tmp_path)


def check_what_fails(tmp_path: Path) -> None:
    poison, flawed, away = IDS[2], IDS[5], IDS[9]
    made, missing = run(tmp_path, 0.25, {poison: "kill", flawed: "mistake", away: "passing"})
    assert [(q.unit, q.name) for q in missing] == [(poison, "2.tar"), (flawed, "5.tar"), (away, "9.tar")]
    assert "worker was lost 2 times (resources.unit_retries)" in missing[0].reason
    assert missing[1].reason == f"KeyError: 'mistake of {flawed}'"
    assert {c.unit for c in made} == set(IDS) - {q.unit for q in missing}
    times = begun(tmp_path)
    assert (times[poison], times[flawed], times[away]) == (2, 1, 2)  # a mistake would only come again
    assert all(times[c.unit] == 1 for c in made), "what was committed is not made again"

    store = context(tmp_path, 0.25).store
    record = json.loads(store.get_bytes(f"quarantine/score/{PRINT[:16]}/{flawed}.json"))
    assert "Traceback" in record["trace"]
    manifest = Manifest("score", PRINT, {}, tuple(made), quarantined=tuple(missing))
    assert stands(store, manifest, context(tmp_path, 0.25).params.resources)
    assert not stands(store, manifest, context(tmp_path, 0.2).params.resources)
    reached = Reached()  # what `ddt gc` keeps
    reached.add(manifest)
    assert all(map(reached.has, store.entries("quarantine/"))) and len(store.entries("quarantine/")) == 3
    assert told(missing)[0].startswith("3 units were quarantined") and len(told(missing)) == 4

    again = run(tmp_path, 0.25, {})
    assert again == (made, missing) and begun(tmp_path) == times, "resumed: nothing is tried again"
    assert release(store, "score", PRINT) == 3
    assert not stands(store, manifest, context(tmp_path, 0.25).params.resources)
    whole, none = run(tmp_path, 0.25, {})
    assert len(whole) == 12 and not none
    assert begun(tmp_path) - times == Counter({poison: 1, flawed: 1, away: 1})
    assert Manifest("score", PRINT, {}, tuple(whole)).digest != manifest.digest


def test_more_than_the_rate_end_the_stage_and_are_tried_again(here, tmp_path):
    does = {IDS[3]: "mistake", IDS[4]: "mistake"}
    line = (
        r"^score: 2 of 12 units failed, more than resources.max_quarantine_rate = 0.1; the first, \d.tar: Key"
    )
    with pytest.raises(UnitError, match=line):
        run(tmp_path, 0.1, does)
    assert not quarantined(context(tmp_path, 0.1).store, "score", PRINT)
    made, missing = run(tmp_path, 0.1, {})
    assert len(made) == 12 and not missing


def test_at_rate_0_the_first_ends_the_stage(here, tmp_path):
    with pytest.raises(UnitError, match=rf"^score, 3.tar: KeyError: 'mistake of {IDS[3]}'$"):
        run(tmp_path, 0, {IDS[3]: "mistake"})
    with pytest.raises(UnitSystemError, match="^score, 4.tar: OSError: passing"):
        ctx = context(tmp_path, 0.5)
        run_units(ctx, Writer, UNITS, folder=str(tmp_path), does={IDS[4]: "passing"})


def test_what_passes_is_tried_again(here, tmp_path):
    made, missing = run(tmp_path, 0, {IDS[0]: "passing", IDS[7]: "kill"}, once=True)
    assert len(made) == 12 and not missing
    assert begun(tmp_path) == Counter(IDS) + Counter([IDS[0], IDS[7]])


def test_a_mistake_in_the_settings_is_not_of_a_unit(here, tmp_path):
    with pytest.raises(UnitInputError, match="no such model$"):
        run(tmp_path, 1, {}, setup="no such model")
    with pytest.raises(UnitError, match="^score: the first 8 units all failed, the first of them, "):
        run(tmp_path, 1, dict.fromkeys(IDS, "mistake"))
    assert not quarantined(context(tmp_path, 1).store, "score", PRINT)


def test_it_is_asked_for_where_units_may_be_missing():
    asked = build_parser().parse_args(["score", "--retry-rejects"])
    assert asked.retry_rejects and not build_parser().parse_args(["evaluate"]).retry_rejects
