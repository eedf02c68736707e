"""Photographs through the workers of curation and evaluation: upright, and one at a time at their full size.

Ray's actors are left out: the same workers run here one after the other.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ddt.data.decode import decode_image, decode_rgb
from ddt.eval.reconstruct import Reconstruct
from ddt.manifest import Commit
from ddt.params import load_params
from ddt.records import RECORD_SCHEMA, read_shard, write_shard
from ddt.store import open_store
from pipelines.evaluate import load_photographs
from tests.data.pictures import TURN, encode, exif

ROOT = Path(__file__).resolve().parents[2]
PHOTOGRAPH = (4000, 3000)
FULL_MB = 4000 * 3000 * 4 / 2**20  # of one as Pillow holds it


class Curation:
    """`recaption` and `score` with the models of the scenes world and the default batches."""

    def __init__(self, folder: Path) -> None:
        from pipelines.recaption import RecaptionWorker
        from pipelines.score import ScoreWorker

        params = load_params(ROOT / "params.yaml")
        self.folder, self.store, self.runs = folder, open_store(folder / "store"), 0
        place = ("f" * 64, self.store.root_uri)
        self.recaption = RecaptionWorker("recaption", *place, {"params": params.recaption})
        self.score = ScoreWorker("score", *place, {"params": params.score})

    def __call__(self, images: list[bytes]) -> list[dict]:
        """What the two make of each image."""
        self.runs += 1
        key, unit, path = f"{self.runs}.arrow", f"{self.runs:032x}", self.folder / "records.arrow"
        row = dict.fromkeys(RECORD_SCHEMA.names, "") | {"width": 1, "height": 1, "caption": "a red circle"}
        write_shard(
            path, [row | {"sample_id": str(i), "image": data} for i, data in enumerate(images)], RECORD_SCHEMA
        )
        self.store.put_file(key, path)
        captions = Commit(**self.recaption({"unit": unit, "records": key, "shard": unit}))
        scores = Commit(**self.score({"unit": unit, "records": key, "captions": captions.key}))
        tables = (read_shard(self.store.fetch(made.key)).to_pylist() for made in (captions, scores))
        return [a | b for a, b in zip(*tables, strict=True)]


def scene() -> Image.Image:
    """A red circle above a blue square; sideways it is beside it."""
    image = Image.new("RGB", (96, 96), (200, 200, 200))
    draw = ImageDraw.Draw(image)
    draw.ellipse((36, 10, 60, 34), fill=(220, 30, 30))
    draw.rectangle((36, 60, 60, 84), fill=(30, 60, 220))
    return image


def check(folder: Path) -> None:
    """In a process of its own, so that its peak of memory is known."""
    curate = Curation(folder)
    sideways = scene().transpose(Image.Transpose.ROTATE_90)
    upright, turned, as_stored = curate(
        [encode(scene()), encode(sideways, exif=exif(TURN)), encode(sideways)]
    )
    measured = ("native_score", "generated_score", "descriptor")
    assert [upright[name] for name in measured] == [turned[name] for name in measured]
    assert all(upright[name] != as_stored[name] for name in measured)
    assert upright["long_caption"] == turned["long_caption"]

    photograph = encode(Image.new("RGB", PHOTOGRAPH, "red"), compress_level=1)  # a JPEG would be read smaller
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(curate([photograph] * 7)) == 7
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1024)


def test_curation_sees_photographs_upright_and_one_at_a_time(tmp_path: Path) -> None:
    code = "import sys, pathlib, tests.pipelines.test_photographs as t; t.check(pathlib.Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # as many are decoded at once as an actor has cores
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 3 * FULL_MB, "seven are decoded; there are a few copies of one"


def test_photographs_to_evaluate_on_are_kept_as_the_squares_that_are_used(tmp_path: Path) -> None:
    sideways = Image.linear_gradient("L").resize((300, 200)).convert("RGB")
    data = encode(sideways, exif=exif(TURN))
    row = dict.fromkeys(RECORD_SCHEMA.names, "") | {"width": 1, "height": 1, "image": data}
    write_shard(tmp_path / "records.arrow", [row | {"caption": name} for name in "abc"], RECORD_SCHEMA)
    store = open_store(tmp_path / "store")
    store.put_file("records.arrow", tmp_path / "records.arrow")
    photographs = load_photographs(store, ["records.arrow"], 2, 32)
    assert photographs is not None and photographs.captions == ["a", "b"]
    benchmark = Reconstruct(2, 0, 32, photos=photographs.images)
    for kept, case in zip(photographs.images, benchmark.cases(), strict=True):
        assert decode_rgb(kept).size == (32, 32)
        assert np.array_equal(benchmark.picture(case), decode_image(data, 32))
