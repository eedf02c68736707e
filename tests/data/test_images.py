"""The order of training images: a permutation each epoch, the same for any number of workers."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ddt.data.images import ImageDataset, to_float
from ddt.records import RECORD_SCHEMA, write_shard

SIDE = 4


def png(index):
    """A picture whose every pixel tells its row."""
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (index % 256, index // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def row(index):
    empty = {name: "" for name in RECORD_SCHEMA.names}
    return empty | {"image": png(index), "width": SIDE, "height": SIDE}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Shards of 7, 0, 30, 1, 12 rows."""
    folder, rows, paths, start = tmp_path_factory.mktemp("shards"), [7, 0, 30, 1, 12], [], 0
    for number, count in enumerate(rows):
        paths.append(folder / f"{number}.arrow")
        write_shard(paths[-1], (row(start + i) for i in range(count)), RECORD_SCHEMA)
        start += count
    return paths, rows


def numbers(images_BCHW):
    pixels = ((images_BCHW + 1) * 127.5).round().long()
    return (pixels[:, 0, 0, 0] + 256 * pixels[:, 1, 0, 0]).tolist()


def test_batches_are_the_pictures_in_order(shards):
    data = ImageDataset(*shards, image_side_px=SIDE, seed=1)
    images = data.batch(step=0, batch_size=50)
    assert images.shape == (50, 3, SIDE, SIDE) and images.dtype == torch.float32 and images.is_contiguous()
    assert images.min() >= -1 and images.max() <= 1
    assert numbers(images) == data.order(0, 50).tolist()
    assert sorted(numbers(images)) == list(range(50)), "an epoch is a permutation"


@pytest.mark.parametrize("block_rows", [1, 10, 10_000])
def test_every_epoch_is_another_permutation(shards, block_rows):
    data = ImageDataset(*shards, image_side_px=SIDE, seed=1, block_rows=block_rows)
    epochs = [tuple(data.order(e, 50)) for e in range(4)]
    assert all(sorted(e) == list(range(50)) for e in epochs) and len(set(epochs)) == 4
    other_seed = ImageDataset(*shards, image_side_px=SIDE, seed=2, block_rows=block_rows)
    assert tuple(other_seed.order(0, 50)) != epochs[0]


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_ranks_share_the_global_batch(shards, world, cache_bytes):
    """20 steps of 16 over 50 rows: batches cross the ends of epochs."""
    alone = ImageDataset(*shards, image_side_px=SIDE, seed=1, block_rows=10)
    ranks = [
        ImageDataset(*shards, image_side_px=SIDE, seed=1, block_rows=10, cache_bytes=cache_bytes)
        for _ in range(world)
    ]
    for step in range(20):
        slices = [data.batch(step, 16, rank, world) for rank, data in enumerate(ranks)]
        assert torch.equal(torch.cat(slices), alone.batch(step, 16))


@settings(max_examples=30)
@given(st.lists(st.integers(0, 400), min_size=1, max_size=20), st.integers(1, 60))
def test_order_does_not_depend_on_what_was_asked_before(shards, index, block_rows):
    want = ImageDataset(*shards, image_side_px=SIDE, seed=5, block_rows=block_rows).locate(np.arange(401))
    data = ImageDataset(*shards, image_side_px=SIDE, seed=5, block_rows=block_rows)
    assert np.array_equal(data.locate(np.array(index)), want[index])


def test_a_block_touches_few_shards(shards, tmp_path):
    """The first block of a shuffled epoch needs its own shards only: the others are not fetched."""
    paths, rows = shards
    fetched = []

    def fetch(key):
        fetched.append(key)
        return paths[int(key)]

    data = ImageDataset(
        [str(i) for i in range(5)], rows, SIDE, seed=1, fetch=fetch, block_rows=1, cache_bytes=0
    )
    first = next(
        i for i, row in enumerate(rows) if row and sum(rows[:i]) <= data.order(0, 1)[0] < sum(rows[: i + 1])
    )
    data.pixels(data.locate(np.arange(rows[first])))
    assert fetched == [str(first)]


def test_decoding_in_threads_gives_the_same(shards):
    one, many = (
        ImageDataset(*shards, image_side_px=SIDE, seed=1, decode_threads=n, cache_bytes=0) for n in (1, 3)
    )
    assert torch.equal(one.batch(3, 40), many.batch(3, 40))


def test_decoded_images_are_cached(shards, tmp_path):
    paths, rows = shards
    data = ImageDataset(paths, rows, SIDE, seed=1)
    want = data.batch(0, 50)
    data._tables.clear()
    data._fetch = lambda key: pytest.fail(f"{key} is read again")
    assert sorted(numbers(data.batch(1, 50))) == sorted(numbers(want))


def test_to_float_range():
    edges = to_float(np.array([[[[0, 255, 128]]]], dtype=np.uint8)).flatten()
    assert torch.allclose(edges, torch.tensor([-1.0, 1.0, 1 / 255]), atol=1e-6)


def test_clear_errors(shards):
    paths, rows = shards
    with pytest.raises(ValueError, match="at least one row"):
        ImageDataset([paths[1]], [0], SIDE, 0)
    with pytest.raises(ValueError, match="want a multiple of the 3 workers"):
        ImageDataset(paths, rows, SIDE, 0).batch(0, 16, 0, 3)
    with pytest.raises(ValueError, match="0.arrow: has 7 rows, its commit says 9"):
        ImageDataset(paths[:1], [9], SIDE, 0).batch(0, 4)
