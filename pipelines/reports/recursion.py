"""What the tokens are, as pictures: x_0 over time, prefixes (Fig. 8), where tokens act, exchange (Fig. 6).

Each beside the spatial reference's, `ddt.eval.regions`. Shapes: N cases, M times, Q quarters, C cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ddt.eval.benchmark import Row, ordered
from ddt.eval.drawn_from_parts import prefix_counts, tiles
from ddt.eval.recursion import MOST_DRAWN, taken
from ddt.eval.report.pictures import grid, rgb_array
from ddt.eval.token_looks import CELLS, QUARTERS, TIMES, Arrays
from pipelines.reports.pictures import axes, figure_image

SHOWN, SHOWN_PREFIXES = 4, 2  # pictures in the strips
TILE_PX = 80
TOKENS, REGIONS = "#1f4e91", "#c2701c"
READ = {"background": "background", "placed": "objects in colour and place", "kept": "with their shape too"}


def recursion_pictures(rows: Sequence[Row]) -> dict[str, Image.Image]:
    """Plots and strips by title, from the rows of the benchmark `recursion`."""
    every, drawn = taken(rows)
    strips = [tiles(rgb_array(row["image"])) for row in ordered(rows)[: min(MOST_DRAWN, SHOWN)]]
    num_tokens = every["codes"].shape[1]
    counts = prefix_counts(num_tokens)
    pictures = {"Any time: x_0 from x_t and the prefix": _over_time(every)} if "with_tokens" in every else {}
    return pictures | {
        "Expanding prefix: pictures drawn from the first tokens": _prefix_strip(strips, counts),
        "Expanding prefix: what is recovered by the number of tokens": _prefix_plot(drawn, counts),
        "Where each quarter of the tokens acts": _heat_maps(every, num_tokens),
        "Exchange: half of the tokens of another picture": _exchange_strip(strips, num_tokens),
    }


def _over_time(every: Arrays) -> Image.Image:
    figure, ax = axes()
    lines = (
        ("with_tokens", "with its prefix of tokens", TOKENS, "-"),
        ("region_with_tokens", "the same drawing as regions, k(t) of them", REGIONS, "-"),
        ("without_tokens", "without tokens", "#6b7075", "--"),
        ("linear_guess", "best linear guess", "#6b7075", ":"),
    )
    for name, label, color, style in lines:
        ax.plot(TIMES, every[name].mean(0), style, color=color, label=label, marker=".")
    worst = int(every["with_tokens"].mean(0).argmin())
    ax.plot(TIMES[worst], every["with_tokens"][:, worst].mean(), "o", mfc="none", color=TOKENS, ms=11)
    ax.set_xlabel("t (0: the picture, 1: noise); ring: the worst time, which is the figure")
    ax.set_ylabel("PSNR of x_0, dB")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    return figure_image(figure)


def _prefix_strip(strips: Sequence[list[list[np.ndarray]]], counts: Sequence[int]) -> Image.Image:
    """For each picture a row of the tokenizer's drawings, and one of the reference's."""
    shown, titles = [], []
    for rows in strips[:SHOWN_PREFIXES]:
        for row, what in zip(rows, ("token", "region"), strict=True):
            shown += row[: 1 + len(counts)]
            titles += ["picture", *[f"{n} {what}{'s' if n > 1 else ''}" for n in counts]]
    return grid(shown, titles, 1 + len(counts), TILE_PX)


def _prefix_plot(drawn: Arrays, counts: Sequence[int]) -> Image.Image:
    """PSNR, and on scenes what the detector finds, over the number of tokens."""
    read = [name for name in READ if f"prefix_{name}" in drawn]
    figure, found = axes(width=5 * (1 + bool(read)), columns=1 + bool(read))
    panels = np.atleast_1d(found)
    _curve(panels[0], drawn, "psnr", counts, "-", "tokens")
    panels[0].axhline(drawn["grey_psnr"].mean(), color="#6b7075", linestyle=":", label="plain grey")
    panels[0].set_ylabel("PSNR, dB")
    for name, style in zip(read, ("-", "--", ":"), strict=False):
        _curve(panels[1], drawn, name, counts, style, READ[name])
    if read:
        panels[1].set_ylabel("share recovered")
        panels[1].set_title("blue: tokens, orange: regions", fontsize=9)
        panels[1].set_ylim(-0.03, 1.03)
    for panel in panels:
        panel.set_xscale("log", base=2)
        panel.set_xticks(counts, [str(n) for n in counts], fontsize=8)
        panel.set_xlabel("tokens given, V_1 first")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    return figure_image(figure)


def _curve(ax: Any, drawn: Arrays, name: str, counts: Sequence[int], style: str, label: str) -> None:
    ax.plot(counts, drawn[f"prefix_{name}"].mean(0), style, color=TOKENS, label=label, marker=".")
    regions = "the same drawing as regions" if label == "tokens" else None
    ax.plot(counts, drawn[f"region_prefix_{name}"].mean(0), style, color=REGIONS, label=regions, marker=".")


def _heat_maps(every: Arrays, num_tokens: int) -> Image.Image:
    """Over cells, the share of a quarter's damage that each has; white: none, dark: the most of any map."""
    rows = (("", "tokens"), ("region_", "regions"))
    shares = {what: _shares(every[f"{prefix}quarter_damage"]) for prefix, what in rows}
    most = max(float(share_QC.max()) for share_QC in shares.values())
    figure, panels = axes(width=8, height=2.2, rows=len(rows), columns=QUARTERS)
    for panel_row, (what, share_QC) in zip(panels, shares.items(), strict=True):
        for quarter, (ax, share_C) in enumerate(zip(panel_row, share_QC, strict=True)):
            first, last = (num_tokens * end // QUARTERS for end in (quarter, quarter + 1))
            cells = share_C.reshape(CELLS, CELLS)
            ax.imshow(cells, cmap="Blues", vmin=0, vmax=most)
            for (y, x), share in np.ndenumerate(cells):
                color = "white" if share > 0.6 * most else "black"
                ax.text(x, y, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=color)
            ax.set_title(f"{what} {first + 1} to {last}", fontsize=9)
            ax.set_xticks([])
            ax.set_yticks([])
    figure.suptitle(
        "Error that another picture's tokens add, % of it in each cell (of no place: "
        f"{100 / CELLS**2:.0f} everywhere)", fontsize=9,
    )  # fmt: skip
    return figure_image(figure)


def _shares(damage_NQC: np.ndarray) -> np.ndarray:
    """Share of each quarter's whole damage in each cell [Q, C]; 0 for a quarter that does none."""
    damage_QC = damage_NQC.sum(0).clip(min=0)
    return damage_QC / np.maximum(damage_QC.sum(1, keepdims=True), 1e-12)


def _exchange_strip(strips: Sequence[list[list[np.ndarray]]], num_tokens: int) -> Image.Image:
    """For each picture and its partner the two mixtures, by tokens and as CutMix."""
    half = num_tokens // 2
    shown, titles = [], []
    for tokens, regions in strips:
        shown += [tokens[0], *tokens[-3:-1], *regions[-3:-1], tokens[-1]]
        titles += [
            "picture A", f"tokens 1 to {half} of B", f"tokens {half + 1} to {num_tokens} of B",
            "CutMix, upper half", "CutMix, lower half", "picture B",
        ]  # fmt: skip
    return grid(shown, titles, 6, 128)
