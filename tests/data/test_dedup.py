"""Duplicates: copies are found, different pictures are not merged, and the order of rows does not matter."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ddt.data.dedup import (
    DESCRIPTOR_BYTES,
    DUPLICATE,
    KEEP,
    NEAR_DUPLICATE,
    NEAR_LEVELS,
    candidates,
    descriptor,
    distance,
    find_duplicates,
)


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
    descriptors = np.frombuffer(b"".join(descriptor(i) for i in images), np.uint8).reshape(len(images), -1)
    hashes = b"".join(hashlib.sha256(i.tobytes() + repr(i.size).encode()).digest() for i in images)
    ids = b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(len(images)))
    sha256, ids = (np.frombuffer(data, np.uint8).reshape(-1, 32) for data in (hashes, ids))
    return sha256, descriptors, np.asarray(scores, dtype=np.float32), ids


@pytest.mark.parametrize("way", COPIES)
def test_copies_are_found_and_the_best_is_kept(way):
    originals = [picture(seed) for seed in range(60)]
    copies = [COPIES[way](image) for image in originals[:20]]
    generator = np.random.default_rng(0)
    verdicts, kept_instead = find_duplicates(*rows(originals + copies, generator.random(80)))
    scores = np.asarray(np.random.default_rng(0).random(80), dtype=np.float32)
    pairs = np.stack([verdicts[:20], verdicts[60:]], axis=1)
    found = (np.sort(pairs, axis=1) == [KEEP, NEAR_DUPLICATE]).all(1)
    assert found.mean() >= 0.9
    better = np.where(scores[:20] > scores[60:], pairs[:, 0], pairs[:, 1])
    assert (better[found] == KEEP).all()
    partner = np.r_[60:80, 20:60, :20]
    dropped = verdicts != KEEP
    assert np.array_equal(kept_instead[dropped], partner[dropped]), (
        "a copy and its original stand for each other"
    )
    assert np.array_equal(kept_instead[~dropped], np.flatnonzero(~dropped))
    assert (verdicts[20:60] == KEEP).all(), "different pictures are not merged"


def test_equal_bytes_keep_the_best_score_then_the_lowest_id():
    images = [picture(0), picture(1), picture(0), picture(0), picture(1)]
    for near in (True, False):
        verdicts, kept_instead = find_duplicates(*rows(images, [0.1, 0.5, 0.9, 0.2, 0.5]), near=near)
        ids = rows(images, [0] * 5)[3]
        first = min((1, 4), key=lambda i: ids[i].tobytes())
        want = [
            DUPLICATE,
            KEEP if first == 1 else DUPLICATE,
            KEEP,
            DUPLICATE,
            KEEP if first == 4 else DUPLICATE,
        ]
        assert verdicts.tolist() == want
        assert kept_instead.tolist() == [2, first, 2, 2, first]
    near_copy = [picture(0), brighter(picture(0))]
    found = find_duplicates(*rows(near_copy, [1, 0]))
    assert found.verdicts.tolist() == [KEEP, NEAR_DUPLICATE] and found.kept_instead.tolist() == [0, 0]
    found = find_duplicates(*rows(near_copy, [1, 0]), near=False)
    assert found.verdicts.tolist() == [KEEP, KEEP] and found.kept_instead.tolist() == [0, 1]


def test_order_of_rows_does_not_matter():
    ways = (lambda i: i, lambda i: i, *COPIES.values())
    images = [way(picture(seed)) for seed in range(15) for way in ways]
    table = rows(images, np.random.default_rng(0).random(len(images)).round(1))
    want = find_duplicates(*table)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(images))
        found = find_duplicates(*(column[order] for column in table))
        assert np.array_equal(found.verdicts, want.verdicts[order])
        assert np.array_equal(order[found.kept_instead], want.kept_instead[order])


def test_many_that_look_alike_leave_one():
    """A hundred copies of one page, each with other bytes: more than a bucket's window."""
    pages = []
    for index in range(100):
        page = np.array(picture(1))
        page[0, index % 64, index // 64] ^= 1
        pages.append(Image.fromarray(page))
    scores = np.random.default_rng(0).random(101)
    verdicts, kept_instead = find_duplicates(*rows([*pages, picture(3)], scores))
    assert (verdicts[:100] == KEEP).sum() == 1 and (verdicts == NEAR_DUPLICATE).sum() == 99
    best = int(np.argmax(scores[:100]))
    assert verdicts[best] == KEEP and verdicts[100] == KEEP
    assert kept_instead.tolist() == [best] * 100 + [100], "the winners of the first windows lost to the best"


def test_an_exact_copy_of_a_near_duplicate_leads_to_the_row_that_is_kept():
    copy = brighter(picture(0))
    scores = [0.3, 0.2, 0.9, 0.5]
    verdicts, kept_instead = find_duplicates(*rows([copy, copy, picture(0), picture(3)], scores))
    assert verdicts.tolist() == [NEAR_DUPLICATE, DUPLICATE, KEEP, KEEP]
    assert kept_instead.tolist() == [2, 2, 2, 3]


def test_of_a_chain_of_small_changes_only_the_neighbour_is_dropped():
    """Each half a step from the next: the third is too far from the first and stays."""

    def moved(cells):
        side = 32 * 8
        image = Image.new("RGB", (side, side), (200, 200, 200))
        ImageDraw.Draw(image).ellipse((60 + cells * 8, 90, 140 + cells * 8, 170), fill=(80, 0, 80))
        return image

    chain = [moved(cells) for cells in (0, 1, 2.5)]
    table = rows(chain, [0.9, 0.5, 0.4])
    near = distance(table[1][[0, 1, 0]], table[1][[1, 2, 2]]) <= NEAR_LEVELS
    assert near.tolist() == [True, True, False]
    verdicts, kept_instead = find_duplicates(*table)
    assert verdicts.tolist() == [KEEP, NEAR_DUPLICATE, KEEP] and kept_instead.tolist() == [0, 0, 2]


def test_a_small_object_of_another_colour_is_another_picture():
    def scene(color):
        image = Image.new("RGB", (64, 64), (180, 180, 180))
        ImageDraw.Draw(image).ellipse((30, 30, 42, 42), fill=color)
        return image

    images = [scene(color) for color in ("red", "orange", "green", "blue", "purple", "black")]
    assert (find_duplicates(*rows(images, np.zeros(6))).verdicts == KEEP).all()


def test_distance_is_zero_for_the_same_and_large_for_others_both_ways():
    table = rows([picture(seed) for seed in range(20)], np.zeros(20))[1]
    assert np.abs(distance(table, table)).max() == 0
    forth, back = distance(table[:10], table[10:]), distance(table[10:], table[:10])
    assert min(forth.min(), back.min()) > NEAR_LEVELS


def test_candidates_are_few_and_hold_the_copies():
    originals = [picture(seed) for seed in range(400)]
    copies = [jpeg(image, 70) for image in originals[:50]]
    descriptors = rows(originals + copies, np.zeros(450))[1]
    pairs = candidates(descriptors)
    assert len(pairs) < 450 * 449 / 2 / 50
    found = set(map(tuple, pairs.tolist()))
    assert sum((i, 400 + i) in found for i in range(50)) >= 48


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_any_mode_and_size(mode):
    assert len(descriptor(picture(0, side=70).convert(mode))) == DESCRIPTOR_BYTES
    assert len(descriptor(Image.new(mode, (3, 500)))) == DESCRIPTOR_BYTES


def test_small_tables():
    assert find_duplicates(*rows([picture(0)], [1])).verdicts.tolist() == [KEEP]
    assert find_duplicates(*rows([picture(0), picture(1)], [1, np.nan])).verdicts.tolist() == [KEEP, KEEP]
    empty = np.empty((0, 32), np.uint8)
    none = find_duplicates(empty, np.empty((0, DESCRIPTOR_BYTES), np.uint8), np.empty(0, np.float32), empty)
    assert none.verdicts.tolist() == [] and none.kept_instead.tolist() == []
