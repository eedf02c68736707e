"""One picture of what a model does: draws, edits, captions and answers, right and wrong as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image

from ddt.eval.benchmark import Row
from ddt.eval.report.pictures import grid
from ddt.eval.report.results import row_pictures, side_by_side, spread, task_of

SHOWN = ("geneval", "edit", "caption", "vqa")
COLUMNS, CELL_PX = 6, 192


def tasks_sheet(rows: Mapping[str, Sequence[Row]]) -> Image.Image | None:
    """A line of cases a benchmark of SHOWN: the first of each of its tasks, whatever became of them.

    An edit is shown as given and as it came out. None unless all of SHOWN are among `rows`.
    """
    if not all(rows.get(name) for name in SHOWN):
        return None
    lines = [_line(rows[name]) for name in SHOWN]
    sheet = Image.new("RGB", (max(line.width for line in lines), sum(line.height for line in lines)), "white")
    top = 0
    for line in lines:
        sheet.paste(line, (0, top))
        top += line.height
    return sheet


def _line(rows: Sequence[Row]) -> Image.Image:
    shown = spread(rows, task_of, COLUMNS)
    pictures = [side_by_side(row_pictures({**row, "target": b""})) for row in shown]
    return grid(pictures, [_title(row) for row in shown], COLUMNS, CELL_PX)


def _title(row: Row) -> str:
    verdict = "right" if row["correct"] == 1 else "wrong"
    words = [row["prompt"], row["output"].strip(), f"({verdict})"]
    return " ".join(word for word in words if word)
