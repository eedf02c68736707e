"""Small plots as inline SVG: one line of numbers on one axis."""

from __future__ import annotations

import html
from collections.abc import Mapping

from ddt.eval.benchmark import Score
from ddt.eval.report.compare import Line, Measured

MARGIN_PX = 6
OFFICIAL, OWN, PAPER, OTHERS = "#1f4e91", "#c2701c", "#1c1e21", "#b9bec4"


class Axis:
    """Pixels of numbers between a lowest and a highest one."""

    def __init__(self, values: list[float], width_px: int) -> None:
        self.low, self.high, self.width_px = min(values), max(values), width_px

    def x(self, value: float) -> float:
        span = self.high - self.low
        share = (value - self.low) / span if span else 0.5
        return MARGIN_PX + share * (self.width_px - 2 * MARGIN_PX)


def bar(score: Score, width_px: int = 150) -> str:
    """Floor to ceiling as a bar, the score as a dot over its interval; empty without both ends.

    The ceiling through the tokenizer is a tick, and so is the baseline.
    """
    if score.floor is None or score.ceiling is None or score.floor == score.ceiling:
        return ""
    beside = {
        "ground truth through the tokenizer": score.tokenized_ceiling,
        score.baseline_is: score.baseline,
    }
    ticks = {name: value for name, value in beside.items() if value is not None}
    axis = Axis([score.floor, score.ceiling, score.low, score.high, *ticks.values()], width_px)
    left, right = sorted((axis.x(score.floor), axis.x(score.ceiling)))
    return _svg(
        width_px,
        "floor, score and ceiling",
        f"<rect x='{left:.1f}' y='5' width='{right - left:.1f}' height='4' fill='#e3e6e9'/>",
        *[_tick(axis, value, name) for name, value in ticks.items()],
        _interval(axis, score, OFFICIAL),
        f"<circle cx='{axis.x(score.value):.1f}' cy='7' r='4' fill='{OFFICIAL}'/>",
    )


def strip(line: Line, width_px: int = 260) -> str:
    """A column of the paper: other methods as ticks, the paper's model as a ring, this model as dots."""
    measured = [*line.official, *([line.own] if line.own else [])]
    values = [line.paper, *line.others.values()]
    values += [end for each in measured for end in (each.score.low, each.score.high, each.score.value)]
    axis = Axis(values, width_px)
    return _svg(
        width_px,
        f"{line.column.title}: the paper's methods and this model",
        *[_tick(axis, value, name) for name, value in line.others.items()],
        f"<circle cx='{axis.x(line.paper):.1f}' cy='7' r='4' fill='none' stroke='{PAPER}' stroke-width='1.5'>"
        f"<title>DDT-LLaMA in the paper: {line.number(line.paper)}</title></circle>",
        *[_dot(axis, line, each, OFFICIAL) for each in line.official],
        *([_diamond(axis, line, line.own)] if line.own else []),
    )


def legend() -> Mapping[str, str]:
    """What the marks of `strip` mean, each drawn alone."""
    return {
        "other methods of the paper": _svg(14, "tick", _tick(Axis([0, 1], 14), 0.5, "")),
        "DDT-LLaMA in the paper": _svg(
            14, "ring", f"<circle cx='7' cy='7' r='4' fill='none' stroke='{PAPER}' stroke-width='1.5'/>"
        ),
        "this model, official files": _svg(14, "dot", f"<circle cx='7' cy='7' r='4' fill='{OFFICIAL}'/>"),
        "this model, its own data (another scale)": _svg(
            14, "diamond", f"<path d='M7 2 L12 7 L7 12 L2 7 Z' fill='{OWN}'/>"
        ),
    }


def _svg(width_px: int, label: str, *parts: str) -> str:
    return (
        f"<svg width='{width_px}' height='14' role='img' aria-label='{html.escape(label, quote=True)}'>"
        f"{''.join(parts)}</svg>"
    )


def _interval(axis: Axis, score: Score, color: str) -> str:
    return (
        f"<line x1='{axis.x(score.low):.1f}' x2='{axis.x(score.high):.1f}' y1='7' y2='7' stroke='{color}' "
        "stroke-width='1.5'/>"
    )


def _tick(axis: Axis, value: float, name: str) -> str:
    x = axis.x(value)
    return (
        f"<line x1='{x:.1f}' x2='{x:.1f}' y1='2' y2='12' stroke='{OTHERS}' stroke-width='1.5'>"
        f"<title>{html.escape(name)}: {value:g}</title></line>"
    )


def _dot(axis: Axis, line: Line, measured: Measured, color: str) -> str:
    return (
        f"{_interval(axis, measured.score, color)}"
        f"<circle cx='{axis.x(measured.score.value):.1f}' cy='7' r='4' fill='{color}'>"
        f"<title>{html.escape(measured.name)}: {line.text(measured)}</title></circle>"
    )


def _diamond(axis: Axis, line: Line, measured: Measured) -> str:
    x = axis.x(measured.score.value)
    return (
        f"{_interval(axis, measured.score, OWN)}"
        f"<path d='M{x:.1f} 2 L{x + 5:.1f} 7 L{x:.1f} 12 L{x - 5:.1f} 7 Z' fill='{OWN}'>"
        f"<title>own data, {html.escape(measured.name)}: {line.text(measured)}</title></path>"
    )
