"""Crawl shards: readable as img2dataset's, the same bytes for the same seed, each planted fault as told."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from ddt.scenes import render, sample_scene
from ddt.scenes.crawl import FAULTS, edit_rows, shard_samples, write_shard
from ddt.scenes.photo import jpeg_bytes, photograph
from ddt.scenes.world import EVALUATION_PARTS

SHARES = {
    "wrong_caption": 0.1, "vague_caption": 0.05, "empty_caption": 0.05, "corrupt": 0.1,
    "tiny": 0.05, "duplicate": 0.05, "near_duplicate": 0.05,
}  # fmt: skip
ROWS = 200
JPEG_START = b"\xff\xd8"


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture(scope="module")
def samples():
    return list(shard_samples(3, ROWS, seed=7, side_px=32, faults=SHARES))


def of(samples, planted):
    return [sample for sample in samples if sample.meta["planted"] == planted]


def test_pictures_are_jpeg(samples):
    assert all(sample.image[:2] == JPEG_START for sample in of(samples, "clean"))


def test_shard_reads_back_as_img2dataset_writes_it(tmp_path, samples):
    counts = write_shard(tmp_path / "00003.tar", 3, ROWS, 7, 32, SHARES)
    assert counts == {name: round(SHARES[name] * ROWS) for name in FAULTS} | {"clean": 110}
    with tarfile.open(tmp_path / "00003.tar") as tar:
        content = {member.name: tar.extractfile(member).read() for member in tar}
    assert len(content) == 3 * ROWS
    for sample in samples:
        meta = json.loads(content[f"{sample.key}.json"])
        assert content[f"{sample.key}.jpg"] == sample.image
        assert content[f"{sample.key}.txt"].decode() == sample.caption == meta["caption"]
        assert meta["sha256"] == hashlib.sha256(sample.image).hexdigest() and meta["status"] == "success"


def test_no_scene_twice_and_none_of_the_evaluation():
    shards = [list(shard_samples(index, 400, seed=7, side_px=32, faults={})) for index in range(8)]
    images = [sample.image for shard in shards for sample in shard]
    assert len(images) == len(set(images)) == 8 * 400
    rng = np.random.default_rng(0)
    shown = {jpeg_bytes(render(sample_scene(rng, parts=EVALUATION_PARTS), 32)) for _ in range(2000)}
    assert not shown & set(images)


def test_a_photograph_is_what_a_reader_of_the_crawl_sees():
    scene = sample_scene(np.random.default_rng(1))
    seen = photograph(scene, 32)
    assert np.array_equal(seen, decoded(jpeg_bytes(render(scene, 32))))
    assert 0 < np.abs(seen.astype(int) - render(scene, 32)).max() <= 6


def test_bytes_depend_on_seed_and_index_only(tmp_path):
    digests = []
    for n, (index, seed) in enumerate([(0, 0), (0, 0), (1, 0), (0, 1)]):
        write_shard(tmp_path / f"{n}.tar", index, 20, seed, 32, SHARES)
        digests.append(hashlib.sha256((tmp_path / f"{n}.tar").read_bytes()).hexdigest())
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_corrupt_images_do_not_decode_and_all_others_do(samples):
    for sample in samples:
        if sample.meta["planted"] == "corrupt":
            with pytest.raises((OSError, SyntaxError)):
                decoded(sample.image)
        else:
            side = 8 if sample.meta["planted"] == "tiny" else 32
            assert decoded(sample.image).shape == (side, side, 3)


def test_copies_are_copies(samples):
    by_key = {sample.key: sample for sample in samples}
    assert len(of(samples, "duplicate")) == len(of(samples, "near_duplicate")) == 10
    for sample in of(samples, "duplicate"):
        original = by_key[sample.meta["copy_of"]]
        assert original.key < sample.key and original.image == sample.image
    for sample in of(samples, "near_duplicate"):
        original = by_key[sample.meta["copy_of"]]
        assert original.image != sample.image
        difference = decoded(original.image).astype(float) - decoded(sample.image)
        assert np.abs(difference).mean() < 12


def test_captions_are_wrong_vague_or_empty_as_told(samples):
    for sample in of(samples, "empty_caption"):
        assert not sample.caption.strip()
    world = ("circle", "square", "triangle", "cross", "ring", "diamond")
    for sample in of(samples, "vague_caption"):
        assert sample.caption and not any(shape in sample.caption for shape in world)
    for sample in of(samples, "wrong_caption") + of(samples, "clean"):
        assert any(shape in sample.caption for shape in world)


def test_wrong_captions_name_shapes_that_the_picture_lacks(samples):
    from ddt.scenes.detect import detect

    world = ("circle", "square", "triangle", "cross", "ring", "diamond")
    right = 0
    for sample in of(samples, "wrong_caption") + of(samples, "clean"):
        shown = {item.shape for item in detect(decoded(sample.image))}
        named = {shape for shape in world if shape in sample.caption}
        if sample.meta["planted"] == "clean":
            right += shown == named
        else:
            assert not shown & named
    assert right >= 0.98 * len(of(samples, "clean"))


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"blurry": 0.1}, "faults: unknown 'blurry', allowed are wrong_caption"),
        ({"tiny": -0.1}, "faults.tiny: got -0.1, must be 0 to 1"),
        ({"tiny": 0.6, "corrupt": 0.5}, "faults: shares add up to 1.100"),
    ],
)
def test_bad_faults_are_refused(tmp_path, faults, message):
    with pytest.raises(ValueError, match=message):
        write_shard(tmp_path / "x.tar", 0, 10, 0, 32, faults)


def test_edits_show_two_pictures():
    rows = edit_rows(0, 60, seed=3)
    assert rows == edit_rows(0, 60, seed=3) != edit_rows(1, 60, seed=3)
    for row in rows:
        assert decoded(row["image"]).shape == (32, 32, 3) and row["instruction"]
        # what tuning and benchmarks show is stored as pre-training's pictures are
        assert row["image"][:2] == row["target"][:2] == JPEG_START
        assert not np.array_equal(decoded(row["image"]), decoded(row["target"]))


def test_questions_are_about_the_picture_whatever_its_caption_says(samples):
    """The background is grey, beige or cyan, and its colour tells which."""
    answers = {"grey": (146, 148, 152), "beige": (216, 200, 170), "cyan": (158, 210, 222)}
    by_key = {sample.key: sample for sample in samples}
    for sample in samples:
        asked = {each["question"]: each["answer"] for each in sample.meta["questions"]}
        assert len(asked) >= 5
        if sample.meta["planted"] in ("clean", "wrong_caption", "vague_caption"):
            corner = decoded(sample.image)[0, 0].astype(int)
            seen = min(answers, key=lambda name: np.abs(corner - answers[name]).sum())
            assert asked["What color is the background?"] == seen
        if "copy_of" in sample.meta:
            assert sample.meta["questions"] == by_key[sample.meta["copy_of"]].meta["questions"]
