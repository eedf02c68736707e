"""A model for benchmarks: draws a colour of the prompt, answers from a table, counts what it was asked.

About a plain grey picture it says `blind` to everything, and counts the question apart.
"""

from __future__ import annotations

import zlib
from types import SimpleNamespace

from PIL import Image

from ddt.eval.benchmark import batches
from ddt.eval.official.run import COMPLETE_FILES
from ddt.eval.report.pictures import BLANK_GREY

GREY = (BLANK_GREY,) * 3


def color_of(text):
    return tuple(zlib.crc32(text.encode()).to_bytes(4, "big")[:3])


class FakeModel:
    image_tokenizer = SimpleNamespace(config=SimpleNamespace(image_size=16))

    def __init__(self, answers=None, stop_after=None, blind="no"):
        self.answers, self.asked, self.stop_after = answers or {}, [], stop_after
        self.blind, self.guessed = blind, []

    def _take(self, texts):
        if self.stop_after is not None and len(self.asked) + len(texts) > self.stop_after:
            raise KeyboardInterrupt
        self.asked += texts

    def generate_image(self, prompts, seed):
        self._take(list(prompts))
        keys = [f"{prompt} {each}" for prompt, each in zip(prompts, seed, strict=True)]
        return [Image.new("RGB", (16, 16), color_of(key)) for key in keys]

    def edit_image(self, images, instructions, seed):
        self._take(list(instructions))
        return [image.point(lambda value: 255 - value) for image in images]

    def answer(self, images, questions):
        if all(image.getextrema() == tuple((value, value) for value in GREY) for image in images):
            self.guessed += questions
            return [self.blind] * len(questions)
        self._take(list(questions))
        return [next(a for q, a in self.answers.items() if q in question) for question in questions]

    def caption(self, images):
        self._take([str(image.getpixel((0, 0))) for image in images])
        return [self.answers[image.getpixel((0, 0))] for image in images]


def generate(benchmark, model, outputs, batch_size):
    """Makes what is missing, as `ddt benchmark` does by units on Ray; how much that was."""
    benchmark.with_inputs().refuse(COMPLETE_FILES)
    made = 0
    for part in benchmark.rounds():
        wanted = {case.id for case in part}
        missing = [case for case in benchmark.missing(outputs) if case.id in wanted]
        for batch in batches(missing, batch_size):
            results = benchmark.make(model, batch, outputs)
            benchmark.place(outputs, {case.id: each for case, each in zip(batch, results, strict=True)})
        made += len(missing)
    benchmark.finish(outputs)
    return made


def save_image(path, color, size=(16, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
