"""Results of a suite as JSON, as flat metrics, as a table, as contact sheets; the page is in
`report_html.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from ddt.eval.benchmark import Benchmark, Row, Score, ordered
from ddt.eval.pictures import grid, rgb_array

EXAMPLES = 8  # of successes, and of failures

# What the paper reports for the benchmark that ours is modelled on. Another scale: other pictures, another
# detector, another range; a number to know, not one to compare with.
PAPER: dict[str, str] = {
    "reconstruct/psnr": "21.7 dB (ImageNet val, 256 px)",
    "geneval/single_object": "0.99",
    "geneval/two_object": "0.64",
    "geneval/counting": "0.56",
    "geneval/colors": "0.87",
    "geneval/position": "0.39",
    "geneval/color_attr": "0.48",
    "geneval/overall": "0.66",
    "t2i/color": "0.728",
    "t2i/shape": "0.514",
    "t2i/texture": "0.642",
    "t2i/spatial": "0.176",
    "choice/accuracy": "0.679 (SEED-Bench)",
    "edit/l1": "0.071 (MagicBrush), 0.145 (EVR), 0.142 (MA5K)",
    "caption/cider": "1.242 (NoCaps), 0.885 (Flickr30K)",
    "vqa/accuracy": "0.764 (VQAv2), 0.663 (GQA), 0.659 (OKVQA), 0.573 (VizWiz)",
    "pope/f1": "0.869 (COCO)",
    "mme/perception": "1378.9 of 2000, ten categories",
}


@dataclass(frozen=True)
class Result:
    """One benchmark's outcome."""

    name: str
    title: str
    protocol: str
    scores: dict[str, Score]
    successes: list[Row] = field(default_factory=list)
    failures: list[Row] = field(default_factory=list)

    @classmethod
    def of(cls, benchmark: Benchmark, rows: Sequence[Row], scores: dict[str, Score] | None = None) -> Result:
        """The scores (by default the benchmark's summary of the rows), and some rows to look at."""
        rows = ordered(rows)
        if np.isnan([row["correct"] for row in rows]).all():
            right, wrong = spread(rows), []
        else:
            right = spread([row for row in rows if row["correct"] == 1])
            wrong = spread([row for row in rows if row["correct"] < 1])
        return cls(
            benchmark.name, benchmark.title, benchmark.protocol, benchmark.summarize(rows), right, wrong
        )


def spread(rows: Sequence[Row], count: int = EXAMPLES) -> list[Row]:
    """At most `count` rows, taking turns between the tasks so that each is seen."""
    by_task: dict[str, list[Row]] = {}
    for row in rows:
        by_task.setdefault(row["task"], []).append(row)
    turns = max((len(members) for members in by_task.values()), default=0)
    mixed = [members[turn] for turn in range(turns) for members in by_task.values() if turn < len(members)]
    return sorted(mixed[:count], key=lambda row: str(row["case_id"]))


def scores_to_json(scores: Mapping[str, Score]) -> dict[str, dict[str, Any]]:
    """Each score's number with its controls, and the paper's where there is one."""
    return {
        name: score.to_dict() | {"paper_on_another_scale": PAPER.get(name)} for name, score in scores.items()
    }


def flat_metrics(results: Sequence[Result], controls: bool = False) -> dict[str, float]:
    """`family/metric: value`; with `controls` also `.../low`, `.../high`, `.../floor`, `.../ceiling`."""
    metrics: dict[str, float] = {}
    for result in results:
        for name, score in result.scores.items():
            metrics[name] = score.value
            if controls:
                beside = {
                    "low": score.low,
                    "high": score.high,
                    "floor": score.floor,
                    "ceiling": score.ceiling,
                }
                metrics |= {f"{name}/{key}": value for key, value in beside.items() if value is not None}
    return metrics


HEADER = ["score", "value", "95 % interval", "n", "floor", "ceiling", "paper (another scale)"]


def score_table(result: Result) -> list[list[str]]:
    """The scores as text, the first row being the header."""
    rows = [HEADER]
    for name, score in result.scores.items():
        floor = number(score.floor) + (f" ({score.floor_is})" if score.floor_is else "")
        rows.append(
            [
                name, number(score.value), f"{number(score.low)} to {number(score.high)}", str(score.n),
                floor, number(score.ceiling), PAPER.get(name, ""),
            ]
        )  # fmt: skip
    return rows


def number(value: float | None) -> str:
    """Three significant decimals for shares, one for large numbers, nothing for None."""
    if value is None:
        return ""
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def row_pictures(row: Row) -> list[Image.Image]:
    """The row's pictures in reading order: source, output, target; those there are."""
    return [Image.fromarray(rgb_array(row[key])) for key in ("source", "image", "target") if row[key]]


def row_text(row: Row) -> str:
    """What was asked, what came out and what the scorer says, in one line."""
    parts = [row["prompt"], f"-> {row['output']}" if row["output"] else "", row["reason"]]
    return " | ".join(part for part in parts if part)


def example_sheet(result: Result) -> Image.Image | None:
    """A contact sheet of successes and failures for a card; None where no row has a picture."""
    pictures, titles = [], []
    for verdict, rows in (("right", result.successes), ("wrong", result.failures)):
        for row in rows:
            found = row_pictures(row)
            if found:
                pictures.append(_side_by_side(found))
                judged = not np.isnan(row["correct"])
                titles.append(f"{verdict}: {row_text(row)}" if judged else row_text(row) or row["task"])
    return grid(pictures, titles, columns=4, cell_px=192) if pictures else None


def _side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    height = images[0].height
    gap = max(1, height // 16)
    sheet = Image.new("RGB", (sum(image.width + gap for image in images) - gap, height), "white")
    x = 0
    for image in images:
        sheet.paste(image, (x, 0))
        x += image.width + gap
    return sheet
