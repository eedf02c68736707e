"""The ceiling through the tokenizer: what a model scores that draws ground truth by its own tokens."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from ddt.eval.benchmark import Score, column
from ddt.eval.report.compare import _scaled
from ddt.eval.report.plots import bar
from ddt.eval.report.results import HEADER, score_table
from ddt.eval.scenes.edit import Editing
from ddt.eval.scenes.geneval import GenEval
from ddt.eval.scenes.t2i import T2I
from ddt.mllm.pictures import to_images, to_pixels
from ddt.scenes.world import COLOR_RGB, TONE_RGB
from tests.eval.oracle import LosslessTokenizer, Oracle

SIDE_PX, STEPS = 32, 3
DRAWN = (GenEval, T2I, Editing)


PALETTE_K3 = torch.tensor([*COLOR_RGB.values(), *TONE_RGB.values()]) / 127.5 - 1


class WithoutTextures(LosslessTokenizer):
    """Gives back the second tone of a colour as the first. Keeps how it was asked to draw."""

    def __init__(self):
        super().__init__()
        self.drawn_with = []

    def decode(self, codes_BT, num_steps=None, generator=None):
        self.drawn_with.append((num_steps, [each.initial_seed() for each in generator]))
        pixels_BHWC = super().decode(codes_BT).movedim(1, 3)
        distance, nearest = (pixels_BHWC[..., None, :] - PALETTE_K3).norm(dim=-1).min(-1)
        plain_BHWC = PALETTE_K3[nearest % len(COLOR_RGB)]
        is_tone = (nearest >= len(COLOR_RGB)) & (distance < 0.1)
        return torch.where(is_tone[..., None], plain_BHWC, pixels_BHWC).movedim(3, 1)


class ByTokens(Oracle):
    """Draws the ground truth as its tokenizer gives it back."""

    def __init__(self, benchmark):
        super().__init__(benchmark)
        self.image_tokenizer = WithoutTextures()

    def generate_image(self, prompts, seed, num_steps=None):
        return self._through(super().generate_image(prompts, seed), seed, num_steps)

    def edit_image(self, images, instructions, seed, num_steps=None):
        return self._through(super().edit_image(images, instructions, seed), seed, num_steps)

    def _through(self, images: list[Image.Image], seeds, num_steps):
        codes_BT = self.image_tokenizer.encode(to_pixels(images, SIDE_PX))
        noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        return to_images(self.image_tokenizer.decode(codes_BT, num_steps, noise))


def outcome(cls, model):
    benchmark = cls(24, 7, SIDE_PX, STEPS)
    made = model(benchmark)
    rows = benchmark.run(made, benchmark.cases(), batch_size=10)
    return benchmark.summarize(rows), rows, made


@pytest.mark.parametrize("cls", DRAWN)
def test_it_is_the_score_of_ground_truth_by_tokens(cls):
    scores, rows, model = outcome(cls, ByTokens)
    assert len(scores) >= 5
    for name, score in scores.items():
        assert score.tokenized_ceiling == pytest.approx(score.value, abs=1e-12), name
    assert column(rows, "tokenized") == [row["correct"] for row in rows]
    # Drawn as the model's own pictures were: with the same steps, and noise of the same seeds.
    mine, ceilings = model.image_tokenizer.drawn_with[::2], model.image_tokenizer.drawn_with[1::2]
    assert mine == ceilings and [steps for steps, _ in mine] == [STEPS] * len(mine)
    assert [seed for _, seeds in mine for seed in seeds] == [row["seed"] for row in rows]


def test_texture_is_lost_and_the_raw_ceiling_does_not_tell():
    scores, _, _ = outcome(T2I, ByTokens)
    texture, color = scores["t2i/texture"], scores["t2i/color"]
    assert texture.ceiling == color.ceiling == 1
    assert texture.tokenized_ceiling == 0 and color.tokenized_ceiling == 1


@pytest.mark.parametrize("cls", DRAWN)
def test_a_tokenizer_that_loses_nothing_reaches_the_raw_ceiling(cls):
    scores, _, _ = outcome(cls, Oracle)
    assert {name: score.tokenized_ceiling for name, score in scores.items()} == {
        name: score.ceiling for name, score in scores.items()
    }


def test_tables_plots_and_scales_have_it():
    score = Score(0.02, 0.0, 0.1, 40, ceiling=1.0, floor=0.0, tokenized_ceiling=0.0312)
    without = replace(score, tokenized_ceiling=None)
    assert score_table({"a": score, "b": without}) == [
        HEADER,
        ["a", "0.020", "0.000 to 0.100", "40", "0.000", "1.000", "0.031"],
        ["b", "0.020", "0.000 to 0.100", "40", "0.000", "1.000", ""],
    ]
    assert bar(score).count("<line") == bar(without).count("<line") + 1
    assert "ground truth through the tokenizer: 0.0312" in bar(score)
    assert _scaled(score, 128.0) == Score(2.56, 0.0, 12.8, 40, 128.0, 0.0, tokenized_ceiling=0.0312 * 128)
    assert _scaled(without, 100.0).tokenized_ceiling is None
    assert json.loads(json.dumps(score.to_dict()))["tokenized_ceiling"] == 0.0312


def test_rows_of_another_version_are_told():
    benchmark = GenEval(6, 7, SIDE_PX, STEPS)
    rows = benchmark.run(Oracle(benchmark), benchmark.cases(), 6)
    for row in rows:
        values = json.loads(row["values"])
        del values["tokenized"]
        row["values"] = json.dumps(values)
    with pytest.raises(ValueError, match="rows have no 'tokenized': made by another version; run `ddt eval"):
        benchmark.summarize(rows)
