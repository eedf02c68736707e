"""Data gates by Great Expectations: the one module that imports it.

A gate checks small tables computed from the data (statistics of shards, a seeded sample of rows), never the
data set itself, and writes the Data Docs page that a person reads when it fails.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

SHOWN_VALUES = 3  # of the rows that fail an expectation


class GateFailed(ValueError):
    """The data does not meet the gate's expectations; the message names those that failed.

    `page` is the one of Data Docs that shows them.
    """

    def __init__(self, message: str, page: Path) -> None:
        super().__init__(message)
        self.page = page


@dataclass(frozen=True)
class Expectation:
    """One expectation of the GX gallery by class name, e.g. `ExpectColumnMeanToBeBetween`."""

    kind: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        column = self.arguments.get("column", "table")
        limits = ", ".join(f"{k} {_number(v)}" for k, v in self.arguments.items() if k != "column")
        return f"{self.kind}({column}{': ' + limits if limits else ''})"


@dataclass(frozen=True)
class GateResult:
    """Outcome of a gate: the failed expectations with what was observed, and the Data Docs page."""

    passed: bool
    checked: int
    failed: tuple[str, ...]
    page: Path

    def require(self, gate: str) -> None:
        """Raise GateFailed unless the gate passed."""
        if not self.passed:
            raise GateFailed(f"gate {gate}: {'; '.join(self.failed)} (see {self.page})", self.page)


def validate(
    gate: str, tables: Mapping[str, tuple[pd.DataFrame, Sequence[Expectation]]], folder: Path
) -> GateResult:
    """Check each named table against its expectations; Data Docs go under `folder`/gx."""
    for noisy in ("great_expectations", "alembic", "posthog"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations as gx
        from great_expectations.checkpoint import UpdateDataDocsAction
        from great_expectations.data_context.types.base import ProgressBarsConfig

        folder.mkdir(parents=True, exist_ok=True)
        context = gx.get_context(mode="file", project_root_dir=str(folder))
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        definitions, frames = [], {}
        for table, (frame, expectations) in tables.items():
            definitions.append(_definition(gx, context, f"{gate}_{table}", expectations))
            frames[f"{gate}_{table}"] = frame
        failed: list[str] = []
        checked = 0
        for definition in definitions:
            checkpoint = context.checkpoints.add_or_update(
                gx.Checkpoint(
                    name=definition.name,
                    validation_definitions=[definition],
                    actions=[UpdateDataDocsAction(name="docs")],
                    result_format="SUMMARY",
                )
            )
            outcome = checkpoint.run(batch_parameters={"dataframe": frames[definition.name]})
            for run in outcome.run_results.values():
                checked += len(run.results)
                failed += [_describe(result) for result in run.results if not result.success]
    page = folder / "gx" / "uncommitted" / "data_docs" / "local_site" / "index.html"
    return GateResult(not failed, checked, tuple(failed), page)


def _definition(gx: Any, context: Any, name: str, expectations: Sequence[Expectation]) -> Any:
    source = context.data_sources.add_or_update_pandas(name)
    asset = source.add_dataframe_asset(name)
    batch = asset.add_batch_definition_whole_dataframe(name)
    suite = gx.ExpectationSuite(name)
    for expectation in expectations:
        suite.add_expectation(getattr(gx.expectations, expectation.kind)(**expectation.arguments))
    suite = context.suites.add_or_update(suite)
    return context.validation_definitions.add_or_update(
        gx.ValidationDefinition(name=name, data=batch, suite=suite)
    )


def _describe(result: Any) -> str:
    config = result.expectation_config
    arguments = {k: v for k, v in config.kwargs.items() if k != "batch_id"}
    name = "".join(part.title() for part in config.type.split("_"))
    return f"{Expectation(name, arguments)} observed {_observed(result)}"


def _observed(result: Any) -> str:
    """What was found instead: the value, or of several rows how many and the first of their values."""
    if result.exception_info and result.exception_info.get("raised_exception"):
        return str(result.exception_info.get("exception_message"))[:120]
    found = result.result
    if "unexpected_count" not in found:
        return _number(found.get("observed_value"))
    values = list(dict.fromkeys(map(_number, found.get("partial_unexpected_list") or ())))
    if found["element_count"] == 1:
        return values[0] if values else "no value"
    shown = f": {', '.join(values[:SHOWN_VALUES])}" if values else ""
    return f"in {found['unexpected_count']} of {found['element_count']} rows{shown}"


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
