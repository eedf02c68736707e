"""Reconstruction of held-out pictures, scenes or photographs: PSNR, SSIM and how the codebook is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ddt.eval.benchmark import (
    Case,
    Row,
    Score,
    column,
    grouped_scores,
    make_row,
    mean_score,
    ordered,
    seen_groups,
    with_floor,
)
from ddt.eval.held_out_pictures import HeldOutPictures
from ddt.eval.metrics import psnr, ssim
from ddt.eval.metrics.image import mse
from ddt.eval.report.pictures import png_bytes, rgb_array
from ddt.eval.round_trip import round_trip
from ddt.eval.scenes.placement import Wanted, around, center, placed
from ddt.eval.statistics import bootstrap, mean_of, shuffled_partners
from ddt.scenes.detect import Detection, detect

PSNR_OF_EQUAL = 60.0  # dB; equal pictures have infinite PSNR, which no mean survives
ONE_CODE = "one code for all tokens"


class Reconstruct(HeldOutPictures):
    """Encode to codes, decode, compare."""

    name = "reconstruct"
    title = "Reconstruction by the tokenizer"
    needs_scenes = False
    protocol = (
        "Mean over images of PSNR and of Wang's SSIM, as papers report them; `psnr_pooled` is the PSNR of "
        "the pooled squared error (another, lower number). `codebook_used` is the share of the codes that "
        "occur among all these images; it has no interval, since a resample has fewer distinct images. On "
        "scenes, `objects_placed` is the share of a picture's objects that "
        "the analytic detector finds again in their colour and place, `objects_kept` with their shape too. "
        "Floors: other pictures' reconstructions, and for PSNR and SSIM the mean of all pictures. The "
        "sampler in use draws; `one_step_*` is the mean of the pictures that the tokens describe, "
        "`t_steps_*` the paper's sampler with as many steps as tokens (an ideal one loses 3 dB against "
        "the mean)."
    )

    def run_batch(self, model: Any, cases: Sequence[Case]) -> list[Row]:
        pictures = [self.picture(case) for case in cases]
        tokenizer, shown = model.image_tokenizer, [Image.fromarray(picture) for picture in pictures]
        codes_BT, images = round_trip(tokenizer, shown, [case["seed"] for case in cases], self.decode_steps)
        seeds, samplers = [case["seed"] for case in cases], {"one_step": 1, "t_steps": codes_BT.shape[1]}
        others = {name: round_trip(tokenizer, shown, seeds, steps)[1] for name, steps in samplers.items()}
        rows = []
        for i, (case, picture, codes_T) in enumerate(zip(cases, pictures, codes_BT.tolist(), strict=True)):
            result = rgb_array(images[i])
            values: dict[str, Any] = {
                "psnr": min(psnr(result, picture), PSNR_OF_EQUAL),
                "ssim": ssim(result, picture),
                "codes": codes_T,
                "codebook_size": tokenizer.config.codebook_size,
            }
            for name, drawn in others.items():
                other = rgb_array(drawn[i])
                values[f"{name}_psnr"] = min(psnr(other, picture), PSNR_OF_EQUAL)
                if self.photos is None:
                    found = _share_kept(detect(picture), detect(other), self.image_size, with_shape=True)
                    values[f"{name}_objects_kept"] = found
            rows.append(make_row(case, image=png_bytes(result), target=png_bytes(picture), values=values))
        return rows

    def summarize(self, rows: Sequence[Row]) -> dict[str, Score]:
        rows = ordered(rows)
        results = [rgb_array(row["image"]) for row in rows]
        targets = [rgb_array(row["target"]) for row in rows]
        mean_picture = np.mean(targets, axis=0).round().astype(np.uint8)
        others = [results[other] for other in shuffled_partners(len(rows), self.seed)]

        def measured(measure: Any, images: Sequence[np.ndarray]) -> np.ndarray:
            pairs = zip(images, targets, strict=True)
            return np.array([min(measure(image, target), PSNR_OF_EQUAL) for image, target in pairs])

        scores: dict[str, Score] = {}
        for name, measure, best in (("psnr", psnr, PSNR_OF_EQUAL), ("ssim", ssim, 1.0)):
            values = np.array(column(rows, name))
            floors = {
                "the mean picture": measured(measure, [mean_picture] * len(rows)),
                "other reconstructions": measured(measure, others),
            }
            groups = seen_groups(rows, f"reconstruct/{name}")
            ceiling = np.full(len(rows), best)
            scores |= grouped_scores(groups, values, ceiling, floors, seed=self.seed, span=(0.0, best))

        def errors(images: Sequence[np.ndarray]) -> list[float]:
            return [mse(image, target) for image, target in zip(images, targets, strict=True)]

        baselines = {"the mean picture": [mean_picture] * len(rows), "other reconstructions": others}
        theirs = {name: errors(images) for name, images in baselines.items()}
        scores["reconstruct/psnr_pooled"] = pooled_score(errors(results), self.seed, theirs)
        for sampler in ("one_step", "t_steps"):
            scores |= self._sampled(rows, sampler, measured(psnr, [mean_picture] * len(rows)))
        if self.photos is None:
            scores |= self._objects(rows, results, targets)
        return scores | self._codebook(rows)

    def _sampled(self, rows: Sequence[Row], sampler: str, mean_picture: np.ndarray) -> dict[str, Score]:
        """PSNR and, of scenes, the objects kept by another sampler than the one in use."""
        floors, best = {"the mean picture": mean_picture}, np.full(len(rows), PSNR_OF_EQUAL)
        decibels = column(rows, f"{sampler}_psnr")
        scores = {
            f"reconstruct/{sampler}_psnr": mean_score(
                decibels, best, floors, seed=self.seed, span=(0.0, PSNR_OF_EQUAL)
            )
        }
        if self.photos is None:
            kept = column(rows, f"{sampler}_objects_kept")
            nothing = {"nothing drawn": np.zeros(len(rows))}
            score = mean_score(kept, np.ones(len(rows)), nothing, seed=self.seed)
            scores[f"reconstruct/{sampler}_objects_kept"] = score
        return scores

    def _objects(
        self, rows: Sequence[Row], results: list[np.ndarray], targets: list[np.ndarray]
    ) -> dict[str, Score]:
        asked, found = [detect(image) for image in targets], [detect(image) for image in results]
        others = [found[other] for other in shuffled_partners(len(rows), self.seed)]

        def kept(finds: Sequence[list[Detection]], with_shape: bool) -> np.ndarray:
            pairs = zip(asked, finds, strict=True)
            return np.array([_share_kept(a, f, self.image_size, with_shape) for a, f in pairs])

        scores: dict[str, Score] = {}
        for name, with_shape in (("objects_placed", False), ("objects_kept", True)):
            floors = {"other reconstructions": kept(others, with_shape)}
            groups = seen_groups(rows, f"reconstruct/{name}")
            ceiling = np.ones(len(rows))
            scores |= grouped_scores(groups, kept(found, with_shape), ceiling, floors, seed=self.seed)
        return scores

    def _codebook(self, rows: Sequence[Row]) -> dict[str, Score]:
        codes_NT = np.array(column(rows, "codes"))
        size = column(rows, "codebook_size")[0]
        counts = np.bincount(codes_NT.ravel(), minlength=size)
        used, most = float(np.count_nonzero(counts) / size), float(counts.max() / counts.sum())
        # A resample has fewer distinct images, so its usage is lower: no interval, the number is of this set.
        return {
            "reconstruct/codebook_used": Score(used, used, used, len(rows), 1.0, 1 / size, ONE_CODE),
            "reconstruct/codebook_largest_share": Score(
                most, most, most, len(rows), 1 / size, 1.0, ONE_CODE, higher_is_better=False
            ),
        }


def pooled_score(
    errors: Sequence[float], seed: int = 0, floors: Mapping[str, Sequence[float]] | None = None
) -> Score:
    """PSNR of the mean over pictures of one size of their mean squared errors (`mse`).

    `floors` are the errors of baselines.
    """

    def decibel(error: Any) -> Any:
        return -10 * np.log10(np.maximum(error, 10 ** (-PSNR_OF_EQUAL / 10)))

    errors_N = np.asarray(errors, dtype=np.float64)
    mean = mean_of(errors_N)
    low, high = bootstrap(lambda indices: decibel(mean(indices)), len(errors_N), seed, (0.0, PSNR_OF_EQUAL))
    score = Score(float(decibel(errors_N.mean())), low, high, len(errors_N), ceiling=PSNR_OF_EQUAL)
    for name, theirs in (floors or {}).items():
        score = with_floor(score, float(decibel(np.asarray(theirs).mean())), name)
    return score


def _share_kept(
    asked: Sequence[Detection], found: Sequence[Detection], side_px: int, with_shape: bool
) -> float:
    """Share of the objects asked for that were found in colour and place, and in shape where it counts."""
    wanted = [
        Wanted(item.color, item.shape if with_shape else None, around(*center(item, side_px)))
        for item in asked
    ]
    return sum(placed(wanted, found, side_px)) / max(len(wanted), 1)
