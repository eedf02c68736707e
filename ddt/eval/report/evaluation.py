"""The report of an evaluation: JSON for machines, one HTML page for people, sheets for cards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddt.data.decode import read_image
from ddt.eval.benchmark import NOT_SEEN, Row, Score
from ddt.eval.report.compare import Line, beside_the_paper, result_remarks, to_json
from ddt.eval.report.page import to_html
from ddt.eval.report.paper import Table
from ddt.eval.report.pictures import png_bytes
from ddt.eval.report.results import Result

THUMBNAIL_PX = 256  # the longer side of a published benchmark's pictures on the page


@dataclass(frozen=True)
class Evaluation:
    """All that a report tells.

    `results` are the stage's benchmarks on `own_data` (a few words: what, how large), `official` results of
    `ddt benchmark` as it prints them, `settings` what all was measured with and on, `left_out` benchmarks
    that do not apply, with the reason.
    """

    results: Sequence[Result]
    own_data: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    official: Sequence[Mapping[str, Any]] = ()

    @property
    def scores(self) -> dict[str, Score]:
        """The own scores of all benchmarks."""
        return {name: score for result in self.results for name, score in result.scores.items()}

    def tables(self) -> list[tuple[Table, list[Line]]]:
        """The paper's tables with this model beside."""
        return beside_the_paper(self.scores, self.own_data, self.official, self.settings.get("model folder"))


def write_json(path: str | Path, evaluation: Evaluation) -> None:
    """Scores with their controls, the paper's tables, what was left out and why, and the settings."""
    data = {
        "settings": dict(evaluation.settings),
        "own_data": evaluation.own_data,
        "does_not_apply": dict(evaluation.left_out),
        "scores": {name: score.to_dict() for name, score in evaluation.scores.items()},
        "beside_the_paper": to_json(evaluation.tables()),
        "official": [{k: v for k, v in result.items() if k != "examples"} for result in evaluation.official],
    }
    Path(path).write_text(json.dumps(data, indent=1) + "\n")


def write_html(path: str | Path, evaluation: Evaluation) -> None:
    """The page: the paper's tables with this model beside, then each benchmark with pictured examples."""
    results = [*map(official_result, evaluation.official), *evaluation.results]
    page = to_html(evaluation.tables(), results, evaluation.settings, evaluation.left_out)
    Path(path).write_text(page)


def official_result(result: Mapping[str, Any]) -> Result:
    """A result of `ddt benchmark` as a section of the page; its pictures are read where they still are."""
    told = [f"{key}: {value}" for key, value in result["settings"].items()]
    made = result.get("generated")
    told.append(f"model: {made['model']} ({made['digest']}), sampling {made['sampling']}" if made else "")
    told += [f"data {path} ({digest})" for path, digest in result["data"].items()]
    parts = ["on its official files", *result_remarks(result), *told]
    protocol = "; ".join(part for part in parts if part)
    return Result(
        result["benchmark"],
        f"{result['benchmark']}, official files",
        protocol,
        _with_blind(result),
        [_example_row(example, 1.0) for example in result["examples"]["right"]],
        [_example_row(example, 0.0) for example in result["examples"]["wrong"]],
    )


def _with_blind(result: Mapping[str, Any]) -> dict[str, Score]:
    """The scores, each with the one that the model has without the picture under it, where it was asked."""
    blind = result.get("without_the_picture", {})
    scores = {}
    for name, score in result["scores"].items():
        scores[name] = Score(**score)
        if name in blind:
            scores[f"{name}, {NOT_SEEN}"] = Score(**blind[name])
    return scores


def _example_row(example: Mapping[str, Any], correct: float) -> Row:
    images = {key: _thumbnail(example["images"].get(key)) for key in ("source", "image", "target")}
    texts = {key: example[key] for key in ("task", "prompt", "output", "reason")}
    return {"case_id": example["case"], "correct": correct, **texts, **images}


def _thumbnail(path: str | None) -> bytes:
    """PNG of the picture, small; empty where it is not there any more."""
    if path is None:
        return b""
    try:
        image = read_image(path)
    except ValueError:
        return b""
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return png_bytes(image)
