"""`ddt report`: the page of the last evaluation, with results of `ddt benchmark` in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddt.eval.report.evaluation import Evaluation, write_html, write_json
from ddt.manifest import Manifest
from ddt.params import Params
from pipelines import evaluate
from pipelines.engine.runner import stage_context, writable_folder
from pipelines.reports.report import Report
from pipelines.reports.workspace import manifest_path, report_path
from pipelines.services.stage_run import StageRun

KEYS = ("benchmark", "scores", "coverage", "settings", "data", "examples")


def make(params: Params, results: Sequence[str], output: str) -> Path:
    """Write the page to `output` and its numbers beside it (.json), and both to an MLflow run.

    The stage `evaluate` gives the scores on its own data; where it has not been run, the page has only
    `results`, files with what `ddt benchmark` printed. Raises ValueError for a file that is none.
    """
    official = [read_result(Path(path)) for path in results]
    page = Path(output)
    if page.suffix != ".html" or not page.parent.is_dir():
        raise ValueError(f"--output {output}: expected a name that ends in .html, in a folder that exists")
    evaluation = _with_official(_stored(params), official)
    write_html(page, evaluation)
    numbers = page.with_suffix(".json")
    write_json(numbers, evaluation)
    report = Report("report", pages={"Evaluation report": page.name, "Numbers": numbers.name})
    report.scores = {
        f"official/{name}": score for result in official for name, score in result["scores"].items()
    }
    report.metrics = {name: score["value"] for name, score in report.scores.items()}
    said = {"results": list(results)}
    StageRun(params.tracking, report.stage, "", said, {}, page.parent, None).finish(report)
    return page


def read_result(path: Path) -> dict[str, Any]:
    """What `ddt benchmark` printed; ValueError where the file holds anything else."""
    try:
        result = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: can't be read ({error.strerror})") from None
    except ValueError:
        raise ValueError(f"{path}: no JSON; expected what `ddt benchmark` printed") from None
    missing = [key for key in KEYS if not isinstance(result, dict) or key not in result]
    if missing:
        raise ValueError(f"{path}: has no {', '.join(missing)}; expected what `ddt benchmark` printed")
    return result


def _stored(params: Params) -> Evaluation | None:
    """The last evaluation of the workspace; None where there is none."""
    workspace = writable_folder(params.paths.workspace, "paths.workspace")
    if not (manifest_path(workspace, "evaluate").is_file() and report_path(workspace, "evaluate").is_file()):
        return None
    ctx = stage_context("evaluate", params)
    return evaluate.evaluation_of(ctx, Manifest.load(manifest_path(workspace, "evaluate")).commits)


def _with_official(stored: Evaluation | None, official: Sequence[dict[str, Any]]) -> Evaluation:
    if stored is None:
        return Evaluation([], "none", official=official)
    return Evaluation(stored.results, stored.own_data, stored.settings, stored.left_out, official)
