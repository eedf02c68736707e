"""Matching of wanted and found objects: one find for one object, as many as possible."""

from itertools import permutations

import numpy as np

from ddt.eval.scenes.placement import IN_PLACE, Wanted, around, placed
from ddt.scenes.detect import Detection
from ddt.scenes.world import GRID

SIDE_PX = 32


def wanted(x: float, y: float, color: str = "red", shape: str | None = "circle") -> Wanted:
    """An object that should be there."""
    return Wanted(color, shape, around(x, y))


def found(x: float, y: float, color: str = "red", shape: str = "circle") -> Detection:
    """A find centred there, in image sides."""
    return Detection(shape, color, "plain", "small", (32 * x - 3, 32 * y - 3, 32 * x + 3, 32 * y + 3), 0.9)


def test_one_find_does_not_answer_for_two_objects() -> None:
    twice = [wanted(0.5, 0.5), wanted(0.52, 0.5)]
    assert sum(placed(twice, [found(0.5, 0.5)], SIDE_PX)) == 1
    assert sum(placed(twice, [found(0.5, 0.5), found(0.55, 0.5)], SIDE_PX)) == 2


def test_colour_shape_size_and_place_count() -> None:
    here = [found(0.5, 0.5)]
    assert placed([wanted(0.59, 0.41)], here, SIDE_PX) == [True]
    assert placed([wanted(0.62, 0.5)], here, SIDE_PX) == [False]
    assert placed([wanted(0.5, 0.5, "blue")], here, SIDE_PX) == [False]
    assert placed([wanted(0.5, 0.5, shape="square")], here, SIDE_PX) == [False]
    assert placed([wanted(0.5, 0.5, shape=None)], here, SIDE_PX) == [True]
    sizes = [Wanted("red", "circle", around(0.5, 0.5), size) for size in ("small", "large")]
    assert [placed([item], here, SIDE_PX) for item in sizes] == [[True], [False]]
    assert placed([], here, SIDE_PX) == []


def test_a_step_of_the_grid_is_never_in_place() -> None:
    """Nor does it take the detector's fraction of a pixel to tell."""
    error = 0.5 / SIDE_PX
    assert error < IN_PLACE < 1 / GRID - error


def test_as_many_as_any_assignment_gives() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        asked = [wanted(*rng.uniform(0, 0.35, 2), shape=None) for _ in range(rng.integers(1, 5))]
        finds = [found(*rng.uniform(0, 0.35, 2)) for _ in range(4)]
        near = [[placed([w], [f], SIDE_PX)[0] for f in finds] for w in asked]
        best = max(
            sum(near[i][j] for i, j in enumerate(order)) for order in permutations(range(4), len(asked))
        )
        assert sum(placed(asked, finds, SIDE_PX)) == best
