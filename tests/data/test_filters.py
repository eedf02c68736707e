"""Filters of sound pictures: each alone, at its threshold, on pictures that have what it looks for."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ddt.data.boilerplate import is_boilerplate
from ddt.data.decode import check_image, is_animated
from ddt.data.filters import check_filters, contrast_and_colour
from ddt.data.readers import read_source
from ddt.data.readers.facts import facts_of
from ddt.data.takedown import Takedown
from ddt.params import load_params
from ddt.records import FACTS, Reject
from tests.data.test_readers import CONFIG, split, write_tar

NONE = load_params("params.yaml").ingest.filters
NO_FACTS = dict.fromkeys(field.name for field in FACTS)


def picture(width: int = 64, height: int = 48) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reason(data: bytes, facts: dict | None = None, **thresholds) -> str | None:
    filters = dataclasses.replace(NONE, **thresholds)
    try:
        check_filters(data, check_image(data, 10**6, 1), NO_FACTS | (facts or {}), filters)
    except Reject as reject:
        return reject.reason
    return None


def test_nothing_is_asked_by_default():
    assert reason(encode(Image.new("L", (400, 2))), {"nsfw": 1.0, "watermark": 1.0}) is None


def test_aspect_ratio_is_of_the_upright_picture():
    for size in ((90, 30), (30, 90)):
        assert reason(encode(picture(*size)), max_aspect_ratio=3.0) is None
    for size in ((91, 30), (30, 91)):
        assert reason(encode(picture(*size)), max_aspect_ratio=3.0) == "aspect_ratio"


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animation(kind):
    frames = [picture().resize((32, 24)).rotate(turn) for turn in (0, 90)]
    moving = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    assert is_animated(moving) and not is_animated(encode(frames[0], kind))
    assert reason(moving, drop_animated=True) == "animated" and reason(moving) is None
    assert reason(encode(frames[0], kind), drop_animated=True) is None


def test_a_gif_damaged_behind_its_first_frame_is_a_still_one():
    frames = [picture().resize((32, 24)).rotate(turn) for turn in (0, 90)]
    moving = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    for cut in range(len(moving) // 2 + 40, len(moving), 7):
        is_animated(moving[:cut])  # whatever it says, it raises nothing
    assert not is_animated(encode(picture(), "MPO", save_all=True, append_images=[picture()]))


def test_blank_and_grey():
    blank, grey = Image.new("RGB", (64, 64), (200, 120, 30)), picture().convert("L")
    assert reason(encode(blank), min_contrast=2.0) == "blank"
    assert reason(encode(blank, "JPEG"), min_contrast=2.0) == "blank"
    assert reason(encode(grey), min_colour=1.0) == "grey"
    assert reason(encode(grey, "JPEG"), min_colour=1.0) == "grey"
    assert reason(encode(picture()), min_contrast=2.0, min_colour=1.0) is None
    contrast, colour = contrast_and_colour(Image.fromarray(np.array([[[0, 0, 0], [20, 0, 10]]], np.uint8)))
    assert (contrast, colour) == (10.0, 10.0)


def test_scores_of_the_source_decide_where_it_has_them():
    data = encode(picture())
    for name, key in (("nsfw", "max_nsfw"), ("watermark", "max_watermark")):
        assert reason(data, {name: 0.5}, **{key: 0.5}) is None
        assert reason(data, {name: 0.51}, **{key: 0.5}) == name
        assert reason(data, {name: None}, **{key: 0.0}) is None


def test_facts_under_the_names_of_laion_coyo_and_img2dataset():
    laion = {"URL": "http://x/a", "NSFW": "UNSURE", "similarity": 0.31, "WIDTH": 640, "HEIGHT": 480}
    assert facts_of(laion | {"pwatermark": 0.8}) == {
        "url": "http://x/a", "nsfw": 0.5, "watermark": 0.8, "similarity": 0.31,
        "original_width": 640, "original_height": 480,
    }  # fmt: skip
    assert facts_of({"NSFW": "NSFW", "punsafe": 0.1})["nsfw"] == 0.1  # a probability says more than a label
    coyo = {
        "nsfw_score_opennsfw2": "0.25",
        "watermark_score": 0.5,
        "clip_similarity_vitb32": 0.2,
        "width": 9.0,
    }
    found = facts_of(coyo)
    assert (found["nsfw"], found["watermark"], found["similarity"], found["original_width"]) == (
        0.25,
        0.5,
        0.2,
        9,
    )
    odd = {"url": 7, "punsafe": float("nan"), "pwatermark": True, "width": -1, "height": 10**12, "nsfw": "??"}
    assert facts_of(odd) == NO_FACTS


def test_facts_come_from_tars_and_parquet_alike(tmp_path):
    meta = {"url": "https://x/1", "punsafe": 0.9, "pwatermark": 0.1, "original_width": 640}
    image = encode(picture())
    members = [("a.png", image), ("a.txt", b"text"), ("a.json", json.dumps(meta).encode())]
    tar = write_tar(tmp_path / "0.tar", members)
    pq.write_table(pa.table({"image": [image], "text": ["text"], **{k: [v] for k, v in meta.items()}}),
                   tmp_path / "0.parquet")  # fmt: skip
    for path in (tar, tmp_path / "0.parquet"):
        (row,) = read_source(path, path.name, CONFIG)
        assert {name: row[name] for name in meta if name in row} == {
            "url": "https://x/1",
            "original_width": 640,
        }
        assert (row["nsfw"], row["watermark"], row["similarity"]) == (0.9, 0.1, None)
        filters = dataclasses.replace(NONE, max_nsfw=0.5)
        good, (bad,) = split(read_source(path, path.name, CONFIG, True, filters))
        assert good == [] and bad.reason == "nsfw" and bad.picture == image


@pytest.mark.parametrize(
    "caption", ["IMG_1234.JPG", "DSC 0034", "2019-07-04", "https://x.org/a?b=c", "Click here to enlarge",
                "photo 12", "Image not available", "Free shipping on all orders!", "untitled", "",
                "© 2020 The Herald", "..."]
)  # fmt: skip
def test_boilerplate(caption):
    assert is_boilerplate(caption)


@pytest.mark.parametrize(
    "caption", ["a photo of a dog", "logo of a red fox", "an image of two cats",
                "wallpaper with green stripes", "download of a song", "7 red apples",
                "read the book by the window", "免费图片", "собака"]
)  # fmt: skip
def test_what_says_something_is_no_boilerplate(caption):
    assert not is_boilerplate(caption)


def test_a_takedown_list_and_what_is_none(tmp_path):
    path = tmp_path / "list"
    path.write_text(f"{'A' * 64} # one\nhttps://a.org/x?y=[1]#z\n*.example.com/*\n\n# none\n")
    found = Takedown.read(path)
    assert found.digests == {"a" * 64}
    urls = [
        "https://a.org/x?y=[1]#z",
        "https://a.org/xxy=1#z",
        "http://WWW.example.com/b",
        "http://example.com",
        None,
    ]
    assert found.has_urls(urls).tolist() == [True, False, True, False, False]
    assert found.names(["a" * 64, "b" * 64]).tolist() == [True, False]
    for text, told in (
        ("abc", "line 1: 'abc': expected 64 hex digits"),
        ("\n**", "line 2"),
        ("# none", "no entry"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=told):
            Takedown.read(path)
