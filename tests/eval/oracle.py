"""A "model" that answers every case of the scenes benchmarks with its ground truth, or with a mistake."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from ddt.mllm.pictures import to_images, to_pixels
from ddt.scenes.render import render
from ddt.scenes.world import scene_from_dict


class LosslessTokenizer:
    """Codes are an index into the images seen: decoding gives them back exactly."""

    def __init__(self, codebook_size=8, image_size=32):
        self.config = SimpleNamespace(codebook_size=codebook_size, image_size=image_size)
        self.images = []

    def encode(self, images_BCHW):
        start = len(self.images)
        self.images += to_images(images_BCHW)
        return torch.tensor(
            [[start + i, (start + i) % self.config.codebook_size] for i in range(len(images_BCHW))]
        )

    def decode(self, codes_BT, num_steps=None, generator=None):
        images = [self.images[int(code)] for code in codes_BT[:, 0]]
        return to_pixels(images, images[0].width)


class Oracle:
    """Knows the cases it will be asked, by prompt and seed."""

    def __init__(self, benchmark):
        self.benchmark = benchmark
        self.by_key = {(case["prompt"], case["seed"]): case for case in benchmark.cases()}
        self.image_tokenizer = LosslessTokenizer(image_size=benchmark.image_size)

    def _cases(self, prompts, seeds):
        return [self.by_key[key] for key in zip(prompts, seeds, strict=True)]

    def generate_image(self, prompts, seed, num_steps=None):
        return [Image.fromarray(self.benchmark.target(case)) for case in self._cases(prompts, seed)]

    def edit_image(self, images, instructions, seed, num_steps=None):
        cases = self._cases(instructions, seed)
        targets = [scene_from_dict(json.loads(case["data"])["target"]) for case in cases]
        return [Image.fromarray(render(target, self.benchmark.image_size)) for target in targets]

    def caption(self, images, seed):
        by_seed = {case["seed"]: json.loads(case["data"])["sixth"] for case in self.by_key.values()}
        return [by_seed.get(each, "a red circle") for each in seed]

    def answer(self, images, questions, seed):
        cases = self._cases(questions, seed)
        blank = [np.ptp(np.asarray(image)) == 0 for image in images]
        return ["yes" if b else case["expected"] for case, b in zip(cases, blank, strict=True)]
