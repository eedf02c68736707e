"""This model beside the paper's tables: what was measured for each column, and in what it differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ddt.eval.benchmark import Score
from ddt.eval.report.paper import TABLES, Column, Table

NOT_RUN = "not run"


@dataclass(frozen=True)
class Measured:
    """A score of this model in a column, on the paper's scale (`Column.unit` times the stored one)."""

    name: str
    score: Score
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Line:
    """One column of a table of the paper, set as a line."""

    column: Column
    paper: float
    others: Mapping[str, float]
    official: tuple[Measured, ...]
    own: Measured | None

    @property
    def best_other(self) -> str:
        """The best of the paper's other methods in this column."""
        best = (min if self.column.lower_is_better else max)(self.others, key=lambda name: self.others[name])
        return f"{self.number(self.others[best])} {best}"

    def number(self, value: float) -> str:
        """A number as the paper prints it."""
        return f"{value:.{self.column.digits}f}"

    def text(self, measured: Measured) -> str:
        """Value and interval; the value alone where the interval has no width."""
        score = measured.score
        if score.low == score.high:
            return self.number(score.value)
        interval = f"{self.number(score.low)} to {self.number(score.high)}"
        return f"{self.number(score.value)} ({interval})"


def beside_the_paper(
    own: Mapping[str, Score],
    own_data: str,
    official: Sequence[Mapping[str, Any]] = (),
    model: str | None = None,
) -> list[tuple[Table, list[Line]]]:
    """Tables 1 to 4 with what this model has in each column.

    `own` are the scores of the stage `evaluate` on `own_data` (a few words: what, how large), `official` the
    results of `ddt benchmark` as it prints them. `model` is the digest of the model's folder that has the own
    scores: results of any other are marked.
    """
    known = official_scores(official, model)
    return [
        (table, [_line(table, index, own, own_data, known) for index in range(len(table.columns))])
        for table in TABLES
    ]


def _line(
    table: Table, index: int, own: Mapping[str, Score], own_data: str, known: Mapping[str, Measured]
) -> Line:
    column = table.columns[index]
    found = [known[name] for name in column.official if name in known]
    measured = [
        Measured(each.name, _scaled(each.score, column.unit), _remarks(column.left_open, *each.remarks))
        for each in found
    ]
    mine = None
    if column.own in own:
        remarks = _remarks(f"another scale: {own_data}", column.own_differs)
        mine = Measured(column.own, _scaled(own[column.own], column.unit), remarks)
    return Line(column, table.ours(index), table.others(index), tuple(measured), mine)


def official_scores(results: Sequence[Mapping[str, Any]], model: str | None = None) -> dict[str, Measured]:
    """The scores of `ddt benchmark`'s results by name; a later result of the same name takes its place."""
    return {
        name: Measured(name, Score(**score), result_remarks(result, model))
        for result in results
        for name, score in result["scores"].items()
    }


def result_remarks(result: Mapping[str, Any], model: str | None = None) -> tuple[str, ...]:
    """In what a result is less, or other, than the published protocol, or of another model than `model`."""
    remarks = []
    made = result.get("generated")
    if made is None:
        remarks.append("the model that made the outputs is not recorded")
    elif model is not None and made["digest"] != model:
        remarks.append(f"another model: {made['digest'][:16]}")
    coverage = result["coverage"]
    if coverage["share"] != 1:
        remarks.append(f"partial: {coverage['scored']} of {coverage['cases']} cases")
    if result.get("scorers"):
        remarks.append("scored by " + ", ".join(f"{kind} {name}" for kind, name in result["scorers"].items()))
    if result.get("problems"):
        counted = ", ".join(f"{each['count']} x {kind}" for kind, each in result["problems"].items())
        remarks.append(f"found in its files: {counted}")
    return tuple(remarks)


def _remarks(*parts: str) -> tuple[str, ...]:
    return tuple(part for part in parts if part)


def _scaled(score: Score, unit: float) -> Score:
    def scaled(value: float | None) -> float | None:
        return None if value is None else value * unit

    names = ("value", "low", "high", "ceiling", "floor", "tokenized_ceiling")
    numbers: dict[str, Any] = {name: scaled(getattr(score, name)) for name in names}
    return replace(score, **numbers)


HEADER = [
    "metric", "paper", "best other in the paper", "this model, official files", "this model, own data",
    "differs",
]  # fmt: skip


def text_rows(lines: Sequence[Line]) -> list[list[str]]:
    """A table for cards, the header first; every cell is text."""
    return [HEADER, *[_text_row(line) for line in lines]]


def _text_row(line: Line) -> list[str]:
    return [
        line.column.title, line.number(line.paper), line.best_other,
        official_text(line), own_text(line), differs(line),
    ]  # fmt: skip


def official_text(line: Line) -> str:
    """What the official files gave; with its name where the column has several scores."""
    texts = [
        line.text(each) + (f" {each.name}" if len(line.column.official) > 1 else "") for each in line.official
    ]
    return "; ".join(texts) or NOT_RUN


def own_text(line: Line) -> str:
    """What the run's own data gave; the task may have no counterpart there."""
    if line.own is not None:
        return line.text(line.own)
    return NOT_RUN if line.column.own else "no such task"


def differs(line: Line) -> str:
    """Every remark once, those on the official score first."""
    remarks = [remark for each in line.official for remark in each.remarks]
    remarks += [f"own data: {remark}" for remark in (line.own.remarks if line.own else ())]
    return "; ".join(dict.fromkeys(remarks))


def to_json(tables: Sequence[tuple[Table, Sequence[Line]]]) -> list[dict[str, Any]]:
    """For machines: numbers on the paper's scale."""
    return [
        {
            "table": table.number,
            "metric": line.column.title,
            "paper": line.paper,
            "official": [_measured(each) for each in line.official] or NOT_RUN,
            "own_data": _measured(line.own) if line.own else NOT_RUN,
        }
        for table, lines in tables
        for line in lines
    ]


def _measured(measured: Measured) -> dict[str, Any]:
    return {"name": measured.name, **measured.score.to_dict(), "remarks": list(measured.remarks)}
