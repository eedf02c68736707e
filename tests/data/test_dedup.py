"""Duplicates: copies are found, different pictures are not merged, and the order of rows does not matter."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ddt.data.dedup import (
    BANDS,
    DUPLICATE,
    KEEP,
    NEAR_DUPLICATE,
    NEAR_ENTRY,
    STANDS_FOR_CLEAN,
    deal,
    find_duplicates,
    find_in_deal,
)
from ddt.data.descriptor import DESCRIPTOR_BYTES, descriptor, distance
from ddt.data.topk import tie_hash


def picture(seed, side=64):
    """Two or three coloured boxes and discs on a plain ground, away from the border, with smooth edges."""
    generator = np.random.default_rng(seed)
    image = Image.new("RGB", (4 * side, 4 * side), tuple(generator.integers(120, 230, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(int(generator.integers(2, 4))):
        x, y = generator.integers(4, side - 28, 2).tolist()
        size = int(generator.integers(10, 24))
        color = tuple(generator.choice([0, 80, 255], 3).tolist())
        shape = draw.ellipse if generator.random() < 0.5 else draw.rectangle
        shape((4 * x + 2, 4 * y + 1, 4 * (x + size), 4 * (y + size)), fill=color)
    return image.resize((side, side), Image.Resampling.BICUBIC)


def jpeg(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue()))


def shifted(image):
    return Image.fromarray(np.roll(np.asarray(image), 1, 1))


def brighter(image):
    return Image.fromarray((np.asarray(image).astype(int) + 6).clip(0, 255).astype(np.uint8))


COPIES = {
    "re-encoded": lambda image: jpeg(image, 70),
    "shifted": shifted,
    "brighter": brighter,
    "resized": lambda image: image.resize((96, 96), Image.Resampling.BICUBIC),
}


def rows(images, scores):
    """Entries with ids by their place."""
    hashes = [hashlib.sha256(i.tobytes() + repr(i.size).encode()).digest() for i in images]
    ids = [hashlib.sha256(str(i).encode()).digest() for i in range(len(images))]
    entries = np.zeros(len(images), NEAR_ENTRY)
    entries["sha256"] = np.array([list(h) for h in hashes], np.uint8).reshape(-1, 32)
    entries["descriptor"] = descriptors_of(images)
    entries["score"] = scores
    entries["tie"] = tie_hash(np.array([list(i) for i in ids], np.uint8).reshape(-1, 32), 0)
    return entries


def descriptors_of(images):
    found = b"".join(descriptor(image) for image in images)
    return np.frombuffer(found, np.uint8).reshape(len(images), DESCRIPTOR_BYTES)


@pytest.mark.parametrize("way", COPIES)
def test_copies_are_found_and_the_best_is_kept(way):
    originals = [picture(seed) for seed in range(60)]
    copies = [COPIES[way](image) for image in originals[:20]]
    scores = np.random.default_rng(0).random(80)
    verdicts = find_duplicates(rows(originals + copies, scores))
    pairs = np.stack([verdicts[:20], verdicts[60:]], axis=1)
    found = (np.sort(pairs, axis=1) == [KEEP, NEAR_DUPLICATE]).all(1)
    assert found.mean() >= 0.9
    better = np.where(scores[:20] > scores[60:], pairs[:, 0], pairs[:, 1])
    assert (better[found] == KEEP).all()
    assert (verdicts[20:60] == KEEP).all(), "different pictures are not merged"


def test_equal_bytes_keep_the_best_score_then_the_lowest_hash_then_the_first_place():
    images = [picture(0), picture(1), picture(0), picture(0), picture(1)]
    for near in (True, False):
        entries = rows(images, [0.1, 0.5, 0.9, 0.2, 0.5])
        verdicts = find_duplicates(entries, near)
        first, second = sorted((1, 4), key=lambda i: entries["tie"][i])
        assert np.flatnonzero(verdicts == KEEP).tolist() == sorted([first, 2])
        assert verdicts[second] == DUPLICATE and (verdicts[[0, 3]] == DUPLICATE).all()
        entries["tie"] = 0
        assert np.flatnonzero(find_duplicates(entries, near) == KEEP).tolist() == [1, 2]
    near_copy = [picture(0), brighter(picture(0))]
    assert find_duplicates(rows(near_copy, [1, 0])).tolist() == [KEEP, NEAR_DUPLICATE]
    assert find_duplicates(rows(near_copy, [1, 0]), near=False).tolist() == [KEEP, KEEP]


def test_neither_the_order_of_rows_nor_how_they_are_dealt_matters():
    ways = (lambda i: i, lambda i: i, *COPIES.values())
    images = [way(picture(seed)) for seed in range(12) for way in ways]
    table = rows(images, np.random.default_rng(0).random(len(images)).round(1))
    want = find_duplicates(table)
    table["row"] = np.arange(len(table))
    assert {*want.tolist()} == {KEEP, DUPLICATE, NEAR_DUPLICATE}
    for seed, count in ((0, 1), (1, 3), (2, 50)):
        order = np.random.default_rng(seed).permutation(len(table))
        dealt = list(deal(table[order], len(table), count, near=True))
        assert len(dealt) == BANDS * count and sum(map(len, dealt)) == BANDS * len(table)
        found = np.concatenate([find_in_deal(part, near=True) for part in dealt])
        verdicts = np.full(len(table), KEEP)
        for kind in (NEAR_DUPLICATE, DUPLICATE):
            verdicts[found["row"][found["kind"] == kind]] = kind
        assert np.array_equal(verdicts, want)


def test_many_that_look_alike_leave_one():
    """A hundred copies of one page, each with other bytes: more than a bucket's window."""
    pages = []
    for index in range(100):
        page = np.array(picture(1))
        page[0, index % 64, index // 64] ^= 1
        pages.append(Image.fromarray(page))
    scores = np.random.default_rng(0).random(101)
    verdicts = find_duplicates(rows([*pages, picture(3)], scores))
    assert (verdicts == NEAR_DUPLICATE).sum() == 99
    assert np.flatnonzero(verdicts == KEEP).tolist() == [int(np.argmax(scores[:100])), 100]


def test_who_stays_in_the_stead_of_a_clean_row_is_told():
    """An exact copy of a near copy: what it stood for goes on to the row that is kept."""
    copy = brighter(picture(0))
    for clean, want in (([0, 1, 0, 1], {2}), ([0, 0, 1, 1], set())):
        entries = rows([copy, copy, picture(0), picture(3)], [0.3, 0.2, 0.9, 0.5])
        entries["clean"], entries["row"] = clean, np.arange(4)
        found = [find_in_deal(part, near=True) for part in deal(entries, 4, 1, near=True)]
        found = np.concatenate([part for part in found if NEAR_DUPLICATE in part["kind"]])
        assert {*found["row"][found["kind"] == NEAR_DUPLICATE].tolist()} == {0}
        assert {*found["row"][found["kind"] == DUPLICATE].tolist()} == {1}
        assert {*found["row"][found["kind"] == STANDS_FOR_CLEAN].tolist()} == want


def test_a_chain_of_small_changes_leaves_its_best():
    """Each half a step from the next: the third is far from the first, but a better row is near it."""

    def moved(cells):
        side = 32 * 8
        image = Image.new("RGB", (side, side), (200, 200, 200))
        ImageDraw.Draw(image).ellipse((60 + cells * 8, 90, 140 + cells * 8, 170), fill=(80, 0, 80))
        return image

    chain = rows([moved(cells) for cells in (0, 1, 2.5)], [0.9, 0.5, 0.4])
    looks = chain["descriptor"]
    assert (distance(looks[[0, 1, 0]], looks[[1, 2, 2]]) <= 1).tolist() == [True, True, False]
    assert find_duplicates(chain).tolist() == [KEEP, NEAR_DUPLICATE, NEAR_DUPLICATE]


def test_a_small_object_of_another_colour_is_another_picture():
    def scene(color):
        image = Image.new("RGB", (64, 64), (180, 180, 180))
        ImageDraw.Draw(image).ellipse((30, 30, 42, 42), fill=color)
        return image

    images = [scene(color) for color in ("red", "orange", "green", "blue", "purple", "black")]
    assert (find_duplicates(rows(images, np.zeros(6))) == KEEP).all()


def test_distance_is_zero_for_the_same_and_large_for_others_both_ways():
    table = descriptors_of([picture(seed) for seed in range(20)])
    assert np.abs(distance(table, table)).max() == 0
    forth, back = distance(table[:10], table[10:]), distance(table[10:], table[:10])
    assert min(forth.min(), back.min()) > 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_any_mode_and_size(mode):
    assert len(descriptor(picture(0, side=70).convert(mode))) == DESCRIPTOR_BYTES
    assert len(descriptor(Image.new(mode, (3, 500)))) == DESCRIPTOR_BYTES


def test_small_tables():
    assert find_duplicates(rows([picture(0)], [1])).tolist() == [KEEP]
    assert find_duplicates(rows([picture(0), picture(1)], [1, np.nan])).tolist() == [KEEP, KEEP]
    assert find_duplicates(np.empty(0, NEAR_ENTRY)).tolist() == []
