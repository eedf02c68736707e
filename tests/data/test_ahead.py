"""What is read ahead: all of it in order, one batch more than is used, errors where they belong."""

import threading

import pytest

from ddt.data.ahead import ahead

BATCHES = [[0, 1, 2], [3, 4], [5]]


@pytest.mark.parametrize("threads", [1, 4])
def test_all_in_order(threads):
    assert list(ahead(lambda x: -x, BATCHES, threads)) == [[0, -1, -2], [-3, -4], [-5]]
    assert list(ahead(lambda x: -x, [], threads)) == []


def test_the_next_batch_is_read_while_one_is_used_and_no_more():
    read, third = [], threading.Event()

    def reading(item):
        read.append(item)
        if item == 4:
            third.set()
        return item

    batches = ahead(reading, BATCHES, 1)
    assert next(batches) == [0, 1, 2]
    assert third.wait(60), "nobody asked for it yet"
    assert 5 not in read
    batches.close()
    assert read == [0, 1, 2, 3, 4]


def test_an_error_comes_with_its_batch_and_the_rest_is_not_read():
    read = []

    def reading(item):
        if item == 1:
            raise ValueError("broken")
        read.append(item)
        return item

    batches = ahead(reading, [[0], [1, 2], [3], [4]], 1)
    assert next(batches) == [0]
    with pytest.raises(ValueError, match="broken"):
        next(batches)
    assert 4 not in read and not [t for t in threading.enumerate() if t.name.startswith("ahead")]
