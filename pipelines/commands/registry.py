"""The registry by hand: `promote --dry-run`, `rollback` and `history`."""

from __future__ import annotations

from collections.abc import Sequence

from ddt.params import Params
from pipelines import promote
from pipelines.engine.runner import stage_context
from pipelines.services import registry


def try_promotion(params: Params) -> None:
    """Print the checks and the verdict that `promote` would come to; nothing is written or moved."""
    decision = promote.dry_run(stage_context("promote", params))
    _print_table(decision.table())
    print(f"dry run: {decision.note()}")


def rollback(params: Params, number: str | None, why: str) -> None:
    """Move the alias to version `number`, or to the champion before this one; prints what was done.

    No run moves it to the version that it was taken from again. Raises ValueError where there is no such
    version.
    """
    where, name = params.tracking, params.tracking.model_name
    registry.finish_move(where, name)
    champion = registry.read_champion(where, name)
    wanted = number or champion.previous()
    if wanted is None:
        raise ValueError(f"rollback: no other version of {name} was the champion; expected a VERSION")
    to = registry.find_version(where, name, wanted) if wanted.isdigit() else None
    if to is None:
        raise ValueError(f"rollback: {name} has no version {wanted}; `ddt history` tells the champions")
    if champion.version is not None and champion.version.number == to.number:
        print(f"{name} version {to.number} is the champion already")
        return
    before = champion.version.number if champion.version else "none"
    registry.move_champion(where, champion, to, f"rollback: {why}" if why else "rollback")
    print(f"{name}: champion is version {to.number}, it was {before}")


def print_history(params: Params) -> None:
    """Every change of the alias, the oldest first, and where it is now."""
    name = params.tracking.model_name
    champion = registry.read_champion(params.tracking, name)
    rows = [["when", "from", "to", "who", "why"]]
    for move in champion.moves:
        when = move.when.partition(".")[0] or "unknown"
        rows.append([when, move.before or "none", move.version or "none", move.who, move.why])
    _print_table(rows)
    print(f"{name}: champion is {f'version {champion.version.number}' if champion.version else 'none'}")


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
