"""What the tokens are: of the diffusion's times or of places (paper sections 3.1 and 5, figures 6 and 8).

A DDT token makes up for what x_t has lost at its time, so x_t with its prefix V_1..V_k(t) rebuilds x_0 at any
time, and no token belongs to a place. Shapes: B batch, T tokens, C H W pixels in [-1, 1].
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ddt.eval.benchmark import Case, Row, Score, column, make_row, mean_score, ordered
from ddt.eval.held_out_pictures import HeldOutPictures
from ddt.eval.metrics import psnr
from ddt.eval.report.pictures import png_bytes
from ddt.eval.scenes.mixtures import read_mixtures
from ddt.eval.statistics import bootstrap, mean_of
from ddt.eval.token_looks import CELLS, MOST_DB, TIMES, Arrays, TokenLooks
from ddt.mllm.pictures import to_pixels

MOST_CASES = 64  # each is decoded some T times
COUNTS_DB = 0.2  # a token whose exchange costs less carries nothing


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
        "`prefix_*`: drawn from a quarter, half, three quarters and all of the tokens. "
        f"`tokens_that_count`: tokens whose exchange for another picture's costs {COUNTS_DB:g} dB or more."
        " `exchange_valid`: with V_1..V_(T/2) of another picture, results in which the background and "
        "every object found is of one of the two pictures; floor: the upper half of one over the lower "
        "half of the other. Single tokens and halves are exchanged in one step; prefixes and "
        "`exchange_valid` are drawn by the sampler in use."
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

    def run_batch(self, model: Any, cases: Sequence[Case]) -> list[Row]:
        tokenizer, every = model.image_tokenizer, self.cases()
        places = {case["case_id"]: place for place, case in enumerate(every)}
        others = [every[(places[case["case_id"]] + 1) % len(every)] for case in cases]
        pictures, partners = ([self.picture(case) for case in part] for part in (cases, others))
        own_BCHW, other_BCHW = (_pixels(part, self.image_size) for part in (pictures, partners))
        codes_BT, other_BT = tokenizer.encode(own_BCHW).cpu(), tokenizer.encode(other_BCHW).cpu()
        looks = TokenLooks(tokenizer, own_BCHW, codes_BT, other_BT, [case["seed"] for case in cases])
        prefixes = looks.prefixes(self.decode_steps)
        exchanged_BHWC = looks.exchanged(self.decode_steps)
        values = [{"codes": codes_T} for codes_T in codes_BT.tolist()]
        for found in (looks.at_any_time(), looks.by_token(), looks.by_cell(), looks.rolled()):
            for row, (name, value_B) in ((row, item) for row in range(len(cases)) for item in found.items()):
                values[row][name] = value_B[row].tolist()
        rows = []
        for i, (case, picture, partner) in enumerate(zip(cases, pictures, partners, strict=True)):
            drawn = [images[i] for images in prefixes]
            values[i]["prefix_psnr"] = [min(psnr(image, picture), MOST_DB) for image in drawn]
            if self.photos is None:
                values[i] |= read_mixtures(picture, partner, drawn, exchanged_BHWC[i])
            strip = np.concatenate([picture, *drawn, exchanged_BHWC[i], partner], axis=1)
            rows.append(make_row(case, image=png_bytes(strip), values=values[i]))
        return rows

    def summarize(self, rows: Sequence[Row]) -> dict[str, Score]:
        rows = ordered(rows)
        taken = {name: np.array(column(rows, name)) for name in _names(rows)}
        scores: dict[str, Score] = {}
        if "with_tokens" in taken:
            scores["recursion/any_time_psnr"] = self._any_time(taken)
        scores |= self._placeless(taken) | self._tokens(taken)
        for place, quarter in enumerate((25, 50, 75, 100)):
            psnr_N = taken["prefix_psnr"][:, place]
            scores[f"recursion/prefix_{quarter}_psnr"] = mean_score(
                psnr_N, seed=self.seed, span=(0.0, MOST_DB)
            )
            for name in ("background", "placed", "kept") if self.photos is None else ():
                value_N = taken[f"prefix_{name}"][:, place]
                scores[f"recursion/prefix_{quarter}_{name}"] = mean_score(value_N, seed=self.seed)
        if self.photos is None:
            floors = {"the upper half of one picture over the lower of another": taken["cut_valid"]}
            scores["recursion/exchange_valid"] = mean_score(
                taken["exchange_valid"], taken["picture_valid"], floors, seed=self.seed,
                tokenized=taken["own_valid"],
            )  # fmt: skip
        return scores

    def _any_time(self, taken: Arrays) -> Score:
        """The worst time, which each resample chooses anew; floors at the time that the data have."""
        with_NM = taken["with_tokens"]
        worst = int(with_NM.mean(0).argmin())
        bounds = bootstrap(
            lambda indices: with_NM[indices].mean(1).min(-1), len(with_NM), self.seed, (0.0, MOST_DB)
        )
        floors = {"without tokens": taken["without_tokens"], "the best linear guess": taken["linear_guess"]}
        means = {name: float(value_NM[:, worst].mean()) for name, value_NM in floors.items()}
        best = max(means, key=lambda name: means[name])
        value = float(with_NM[:, worst].mean())
        bounds = min(bounds[0], value), max(bounds[1], value)
        return Score(value, *bounds, len(with_NM), MOST_DB, means[best], f"{best}, t = {TIMES[worst]:g}")

    def _placeless(self, taken: Arrays) -> dict[str, Score]:
        gain_NC, whole_NC = taken["half_damage"], taken["whole_damage"]

        def unevenness(indices_Rn: np.ndarray) -> np.ndarray:
            share_RC = gain_NC[indices_Rn].sum(1) / np.maximum(whole_NC[indices_Rn].sum(1), 1e-12)
            return share_RC.std(-1) / np.maximum(np.abs(share_RC.mean(-1)), 1e-12)

        moved_NKS = taken["moved"]

        def excess(indices_Rn: np.ndarray) -> np.ndarray:
            share_RKS = moved_NKS[indices_Rn].mean(1)
            return (share_RKS.max(-1) - np.median(share_RKS, -1)).max(-1)

        damage_NT, height_NT = taken["token_damage"], taken["token_height"]

        def by_height(indices_Rn: np.ndarray) -> np.ndarray:
            weight_RT = damage_NT[indices_Rn].sum(1)
            height_RT = (damage_NT * height_NT)[indices_Rn].sum(1) / np.maximum(weight_RT, 1e-12)
            return np.array([abs(spearman(height_T)) for height_T in height_RT])

        return {
            "recursion/place_unevenness": self._lower(
                unevenness, len(gain_NC), "the upper half of a picture"
            ),
            "recursion/roll_excess": self._lower(excess, len(moved_NKS), "codes that move with the picture"),
            "recursion/order_by_height": self._lower(by_height, len(damage_NT), "row by row"),
        }

    def _lower(self, statistic: Callable[[np.ndarray], np.ndarray], count: int, floor_is: str) -> Score:
        """A score that is 0 at best and 1 for tokens of places."""
        value = float(statistic(np.arange(count)[None])[0])
        low, high = bootstrap(statistic, count, self.seed, None)
        # The extremes of few cases lie further out than that of all: the value may be outside its resamples.
        low, high = min(low, value), max(high, value)
        return Score(value, low, high, count, 0.0, 1.0, floor_is, higher_is_better=False)

    def _tokens(self, taken: Arrays) -> dict[str, Score]:
        loss_NT = taken["token_loss_db"]

        def counting(indices_Rn: np.ndarray) -> np.ndarray:
            return (loss_NT[indices_Rn].mean(1) >= COUNTS_DB).mean(-1)

        value = float(counting(np.arange(len(loss_NT))[None])[0])
        low, high = bootstrap(counting, len(loss_NT), self.seed, None)
        low, high = min(low, value), max(high, value)
        least = loss_NT[:, loss_NT.mean(0).argmin()]
        return {
            "recursion/tokens_that_count": Score(value, low, high, len(loss_NT), 1.0, 0.0, "no token"),
            "recursion/least_token_db": Score(
                float(least.mean()), *bootstrap(mean_of(least), len(least), self.seed, None), len(least)
            ),
        }


def _names(rows: Sequence[Row]) -> list[str]:
    return [name for name in json.loads(rows[0]["values"]) if name != "codes"]


def _pixels(pictures: Sequence[np.ndarray], side_px: int) -> Tensor:
    return to_pixels([Image.fromarray(picture) for picture in pictures], side_px)


def spearman(value_T: np.ndarray) -> float:
    """Spearman's rank correlation of values, none of them equal, with their order."""
    ranks_T = np.argsort(np.argsort(value_T, kind="stable"), kind="stable").astype(np.float64)
    order_T = np.arange(len(value_T), dtype=np.float64)
    return float(np.corrcoef(ranks_T, order_T)[0, 1]) if len(value_T) > 1 else 0.0
