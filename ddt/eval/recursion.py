"""What the tokens are: of the diffusion's times or of places (paper sections 3.1 and 5, figures 6 and 8).

A DDT token makes up for what x_t has lost at its time, so x_t with its prefix V_1..V_k(t) rebuilds x_0 at any
time, and no token belongs to a place. Shapes: N cases, B batch, T tokens, C H W pixels in [-1, 1].
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ddt.eval.benchmark import Case, Row, Score, make_row, ordered
from ddt.eval.drawn_from_parts import DrawnFromParts, draw_from_parts
from ddt.eval.held_out_pictures import HeldOutPictures
from ddt.eval.metrics import psnr
from ddt.eval.recursion_scores import COUNTS_DB, REGIONS, recursion_scores
from ddt.eval.report.pictures import BLANK_GREY, png_bytes
from ddt.eval.scenes.mixtures import read_mixtures
from ddt.eval.token_looks import CELLS, MOST_DB, QUARTERS, TIMES, Arrays, TokenLooks
from ddt.mllm.pictures import to_pixels

MOST_CASES = 64  # each is decoded some T times
MOST_DRAWN = 32  # of them, the first ones, are drawn by the sampler from each prefix
# One measure of each kind, of which rows of another version may have none.
NEEDED = ("codes", "region_token_loss_db", "region_quarter_damage", "region_moved")


class Recursion(HeldOutPictures):
    """Any time, placeless, expanding prefix, exchange: the four properties of a recursive prefix code."""

    name = "recursion"
    title = "What the tokens are: of times or of places"
    needs_scenes = False
    protocol = (
        "`any_time_psnr`: x_0 predicted in one pass from x_t and V_1..V_k(t), the lowest mean PSNR over "
        f"times {TIMES[0]:g} to 1; floor: without tokens, or the best linear guess, at that time. "
        "`place_unevenness`: half of the tokens are another picture's; the share of the damage that this "
        f"does in each of {CELLS} x {CELLS} cells, its standard deviation over its mean (0: no place, 1: "
        "one half of the picture). `roll_excess`: the picture is rolled by a quarter and by an eighth of "
        "its side; how many more codes are equal at the best shift of the sequence than at the median "
        "one. `order_by_height`: |Spearman's rho| of a token's number and the height at which it acts. "
        "`prefix_*`: drawn from a quarter, half, three quarters and all of the tokens; floor: plain grey. "
        f"`tokens_that_count`: tokens whose exchange for another picture's costs {COUNTS_DB:g} dB or more."
        " `exchange_valid`: with V_1..V_(T/2) of another picture, results in which the background and "
        "every object found is of one of the two pictures; floor: the upper half of one over the lower "
        "half of the other. Single tokens, halves and quarters are exchanged in one step; prefixes and "
        f"`exchange_valid` are drawn by the sampler in use, of the first {MOST_DRAWN} pictures. The baseline "
        "of each number is an ideal tokenizer of places that draws exactly as well: the same drawing handed "
        f"out as {REGIONS}, so that a prefix is its upper part and an exchange is CutMix."
    )

    def __init__(
        self,
        cases: int,
        seed: int,
        image_size: int,
        decode_steps: int | None = None,
        photos: Sequence[bytes] | None = None,
    ) -> None:
        super().__init__(min(cases, MOST_CASES), seed, image_size, decode_steps, photos)
        count = self.num_cases if photos is None else min(self.num_cases, len(photos))
        if count < 2:
            raise ValueError(
                f"recursion: got {count} picture{'s' if count != 1 else ''}, expected 2 or more, since it "
                "exchanges tokens between pictures (evaluate.cases, held-out pictures)"
            )

    def run_batch(self, model: Any, cases: Sequence[Case]) -> list[Row]:
        tokenizer, every = model.image_tokenizer, self.cases()
        check_tokens(tokenizer.config.num_tokens)
        places = {case["case_id"]: place for place, case in enumerate(every)}
        others = [every[(places[case["case_id"]] + 1) % len(every)] for case in cases]
        pictures, partners = ([self.picture(case) for case in part] for part in (cases, others))
        own_BCHW, other_BCHW = (_pixels(part, self.image_size) for part in (pictures, partners))
        codes_BT, other_BT = tokenizer.encode(own_BCHW).cpu(), tokenizer.encode(other_BCHW).cpu()
        seeds = [case["seed"] for case in cases]
        looks = TokenLooks(tokenizer, own_BCHW, codes_BT, other_BT, seeds)
        found = looks.at_any_time() | looks.by_token() | looks.by_cell() | looks.rolled()
        drawn = [i for i, case in enumerate(cases) if places[case["case_id"]] < MOST_DRAWN]
        parts = dict(zip(drawn, self._draw(tokenizer, codes_BT, other_BT, seeds, drawn), strict=True))
        rows = []
        for i, (case, picture, partner) in enumerate(zip(cases, pictures, partners, strict=True)):
            values = {name: value_B[i].tolist() for name, value_B in found.items()}
            values["codes"] = codes_BT[i].tolist()
            strip = np.concatenate([picture, partner], axis=1)
            if i in parts:
                values |= self._parts_read(picture, partner, parts[i])
                strip = parts[i].strip(picture, partner)
            rows.append(make_row(case, image=png_bytes(strip), values=values))
        return rows

    def _draw(
        self, tokenizer: Any, codes_BT: Tensor, other_BT: Tensor, seeds: Sequence[int], drawn: Sequence[int]
    ) -> list[DrawnFromParts]:
        if not drawn:
            return []
        chosen = [seeds[i] for i in drawn]
        return draw_from_parts(tokenizer, codes_BT[drawn], other_BT[drawn], chosen, self.decode_steps)

    def _parts_read(self, picture: np.ndarray, partner: np.ndarray, drawn: DrawnFromParts) -> dict[str, Any]:
        values: dict[str, Any] = {
            name: [min(psnr(image, picture), MOST_DB) for image in images]
            for name, images in (
                ("prefix_psnr", drawn.prefixes),
                ("region_prefix_psnr", drawn.region_prefixes),
                ("grey_psnr", [np.full_like(picture, BLANK_GREY)]),
            )
        }
        return values if self.photos is not None else values | read_mixtures(picture, partner, drawn)

    def summarize(self, rows: Sequence[Row]) -> dict[str, Score]:
        return recursion_scores(*taken(rows), seed=self.seed)


def taken(rows: Sequence[Row]) -> tuple[Arrays, Arrays]:
    """What was measured of all cases, and of those that were drawn by the sampler: name -> [cases, ...].

    ValueError for rows of another version, or where none was drawn.
    """
    values = [json.loads(row["values"]) for row in ordered(rows)]
    drawn = [each for each in values if "prefix_psnr" in each]
    if not drawn:
        raise ValueError("recursion: none of the first pictures is among the rows; run `ddt evaluate`")
    common = [name for name in values[0] if all(name in each for each in values)]
    for name in NEEDED:
        if name not in common:
            raise ValueError(f"recursion: rows have no {name!r}: made by another version; make them again")
    return _stacked(values, common), _stacked(drawn, list(drawn[0]))


def _stacked(values: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Arrays:
    return {name: np.array([each[name] for each in values]) for name in names}


def check_tokens(num_tokens: int) -> None:
    """ValueError for a tokenizer of too few tokens to be exchanged by quarters."""
    if num_tokens < QUARTERS:
        raise ValueError(
            f"recursion: the tokenizer has num_tokens = {num_tokens}, expected {QUARTERS} or more, since "
            "they are exchanged by quarters"
        )


def _pixels(pictures: Sequence[np.ndarray], side_px: int) -> Tensor:
    return to_pixels([Image.fromarray(picture) for picture in pictures], side_px)
