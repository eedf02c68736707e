"""Writes what a crawl leaves: img2dataset-style tars of jpg, txt and json with planted faults, and edits for
instruction tuning. Everything is a function of (seed, shard index).

No picture shows a scene that is kept for evaluation, and none is drawn twice in a shard, nor in two shards
whose numbers differ by less than `len(TRAINING_PARTS)`; edits are drawn apart and may repeat.

The json of a sample has questions about the picture with their answers under "questions", and under "planted"
what was planted in it, so that curation can be measured.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddt.scenes.edits import sample_edit
from ddt.scenes.photo import jpeg_bytes
from ddt.scenes.render import render
from ddt.scenes.sample import pick, sample_scene
from ddt.scenes.text import questions, short_caption
from ddt.scenes.world import TRAINING_PARTS, Scene, content

FAULTS: tuple[str, ...] = (
    "wrong_caption", "vague_caption", "empty_caption", "corrupt", "tiny", "duplicate", "near_duplicate",
)  # fmt: skip
COPIES: tuple[str, ...] = ("duplicate", "near_duplicate")
PLANTED: tuple[str, ...] = ("clean", *FAULTS)
TINY_PX = 8

_VAGUE = (
    "image", "a picture", "photo", "click to see more", "untitled", "download now", "IMG_{n}.JPG",
    "DSC0{n}", "picture of the day", "free shipping on all orders", "see description", "image {n}",
    "stock photo", "wallpaper hd", "my new post", "thumbnail",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CrawlSample:
    """One sample of a shard: bytes of `<key>.jpg`, text of `<key>.txt`, dict of `<key>.json`."""

    key: str
    image: bytes
    caption: str
    meta: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Original:
    """A clean sample that later rows may copy."""

    key: str
    scene: Scene
    picture_HWC: np.ndarray
    image: bytes
    caption: str
    questions: list[dict[str, str]]


def check_faults(faults: Mapping[str, float]) -> None:
    """ValueError unless all keys are known faults and the shares are in 0..1 with a sum of at most 1."""
    for name, share in faults.items():
        if name not in FAULTS:
            raise ValueError(f"faults: unknown {name!r}, allowed are {', '.join(FAULTS)}")
        if not 0 <= share <= 1:
            raise ValueError(f"faults.{name}: got {share}, must be 0 to 1")
    if sum(faults.values()) > 1:
        raise ValueError(f"faults: shares add up to {sum(faults.values()):.3f}, must be at most 1")


def _plan(rows: int, faults: Mapping[str, float], rng: np.random.Generator) -> list[str]:
    """What is planted in each row: exact numbers of each fault (rounded), in random order."""
    names = [name for name in FAULTS for _ in range(round(faults.get(name, 0.0) * rows))]
    plan = (["clean"] * max(0, rows - len(names)) + names)[:rows]
    plan = [plan[i] for i in rng.permutation(rows)]
    # a copy needs something to copy: the first clean row goes before everything else
    if "clean" in plan:
        first = plan.index("clean")
        plan[0], plan[first] = plan[first], plan[0]
    return plan


def different_scene(scene: Scene, rng: np.random.Generator) -> Scene:
    """A scene that shares no (color, shape), no shape and no number of objects with `scene`."""
    shapes = {item.shape for item in scene.objects}
    while True:
        other = sample_scene(rng)
        if len(other.objects) != len(scene.objects) and not shapes & {item.shape for item in other.objects}:
            return other


def _corrupted(image: bytes, rng: np.random.Generator) -> bytes:
    """Bytes that no decoder accepts: cut short, noise, a web page, or nothing."""
    way = int(rng.random() * 4)
    if way == 0:
        return image[: int(len(image) * (0.3 + 0.4 * rng.random()))]
    if way == 1:
        return rng.bytes(len(image))
    return b"<!DOCTYPE html><title>404 Not Found</title>" if way == 2 else b""


def _nearly(image_HWC: np.ndarray, rng: np.random.Generator) -> bytes:
    """The same picture saved again: lower quality, moved by a pixel, or a little brighter."""
    way = int(rng.random() * 3)
    if way == 0:
        return jpeg_bytes(image_HWC, quality=82)
    if way == 1:
        shift = max(1, image_HWC.shape[0] // 64)
        moved = np.concatenate([image_HWC[:, :1].repeat(shift, axis=1), image_HWC[:, :-shift]], axis=1)
        return jpeg_bytes(moved)
    return jpeg_bytes(np.clip(image_HWC.astype(np.int16) + 6, 0, 255).astype(np.uint8))


def _copy(original: _Original, near: bool, rng: np.random.Generator) -> tuple[bytes, str]:
    """The same bytes, or nearly the same picture; half of the time with the text of another page."""
    image = _nearly(original.picture_HWC, rng) if near else original.image
    caption = original.caption if rng.random() < 0.5 else short_caption(original.scene, rng)
    return image, caption


def _spoiled(original: _Original, planted: str, rng: np.random.Generator) -> tuple[bytes, str]:
    """Image and caption of `original` with the fault `planted` in one of the two."""
    image, caption = original.image, original.caption
    if planted == "wrong_caption":
        caption = short_caption(different_scene(original.scene, rng), rng)
    elif planted == "vague_caption":
        caption = pick(rng, _VAGUE).format(n=1000 + int(rng.random() * 9000))
    elif planted == "empty_caption":
        caption = pick(rng, ("", " ", "\n"))
    elif planted == "corrupt":
        image = _corrupted(image, rng)
    elif planted == "tiny":
        small = render(original.scene, 2 * TINY_PX).reshape(TINY_PX, 2, TINY_PX, 2, 3).mean(axis=(1, 3))
        image = jpeg_bytes(small.astype(np.uint8))
    return image, caption


def _asked(scene: Scene, rng: np.random.Generator) -> list[dict[str, str]]:
    return [{"question": asked.question, "answer": asked.answer} for asked in questions(scene, rng)]


def _meta(key: str, image: bytes, caption: str, side_px: int, planted: str) -> dict[str, Any]:
    """What img2dataset writes beside an image, plus what was planted."""
    side = TINY_PX if planted == "tiny" else side_px
    return {
        "key": key,
        "url": f"https://scenes.example/{key}.jpg",
        "caption": caption,
        "status": "success",
        "error_message": None,
        "width": side,
        "height": side,
        "original_width": side,
        "original_height": side,
        "sha256": hashlib.sha256(image).hexdigest(),
        "planted": planted,
    }


def _new_scene(rng: np.random.Generator, shard: int, drawn: set[str]) -> Scene:
    """A scene of the shard's part whose content is not in `drawn` yet; it is then."""
    parts = (TRAINING_PARTS[shard % len(TRAINING_PARTS)],)
    while content(scene := sample_scene(rng, parts=parts)) in drawn:
        pass
    drawn.add(content(scene))
    return scene


def shard_samples(
    index: int, rows: int, seed: int, side_px: int, faults: Mapping[str, float]
) -> Iterator[CrawlSample]:
    """The samples of a shard, in order. faults: share of the rows for each of `FAULTS`; the rest is clean."""
    check_faults(faults)
    rng = np.random.default_rng([seed, index])
    rng_questions = np.random.default_rng([seed, index, 3])  # 2 is the held-out pictures' own
    drawn: set[str] = set()
    originals: list[_Original] = []
    for row, planted in enumerate(_plan(rows, faults, rng)):
        key = f"{index:05d}{row:04d}"
        copy_of = None
        if planted in COPIES and originals:
            original = pick(rng, originals)
            copy_of = original.key
            image, caption = _copy(original, planted == "near_duplicate", rng)
        else:
            planted = "clean" if planted in COPIES else planted  # no clean row that it could copy
            scene = _new_scene(rng, index, drawn)
            picture = render(scene, side_px)
            caption, asked = short_caption(scene, rng), _asked(scene, rng_questions)
            original = _Original(key, scene, picture, jpeg_bytes(picture), caption, asked)
            image, caption = _spoiled(original, planted, rng)
            if planted == "clean":
                originals.append(original)
        meta = _meta(key, image, caption, side_px, planted) | {"questions": original.questions}
        yield CrawlSample(key, image, caption, meta | ({"copy_of": copy_of} if copy_of else {}))


def write_shard(
    path: str | Path, index: int, rows: int, seed: int, side_px: int, faults: Mapping[str, float]
) -> dict[str, int]:
    """Write shard `index` as an uncompressed tar and return how many rows of each kind were planted.

    faults: share of the rows for each of `FAULTS`. The bytes depend on the arguments only. ValueError for
    unknown faults or shares that add up to more than 1.
    """
    counts = dict.fromkeys(PLANTED, 0)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in shard_samples(index, rows, seed, side_px, faults):
            counts[sample.meta["planted"]] += 1
            text = json.dumps(sample.meta, sort_keys=True)
            for ending, data in (
                ("jpg", sample.image), ("txt", sample.caption.encode()), ("json", text.encode()),
            ):  # fmt: skip
                info = tarfile.TarInfo(
                    f"{sample.key}.{ending}"
                )  # owner and time stay 0: same bytes each time
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return counts


def edit_rows(index: int, rows: int, seed: int, side_px: int = 32) -> list[dict[str, Any]]:
    """Edits for instruction tuning: {image, instruction, target}, the pictures as JPEG.

    A function of (seed, index), apart from the pictures of `shard_samples`.
    """
    rng = np.random.default_rng([seed, index, 1])
    return [_edit_row(rng, side_px) for _ in range(rows)]


def _edit_row(rng: np.random.Generator, side_px: int) -> dict[str, Any]:
    edit = sample_edit(rng, parts=TRAINING_PARTS)
    source, target = (jpeg_bytes(render(scene, side_px)) for scene in (edit.source, edit.target))
    return {"image": source, "instruction": edit.instruction, "target": target}
