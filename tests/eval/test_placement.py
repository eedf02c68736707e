"""Matching of wanted and found objects: one find for one object, as many as possible."""

from itertools import permutations

import numpy as np

from ddt.eval.placement import Wanted, placed
from ddt.scenes.detect import Detection

SIDE_PX = 32


def found(x: float, y: float, color: str = "red", shape: str = "circle") -> Detection:
    """A find centred there, in image sides."""
    return Detection(shape, color, "plain", "small", (32 * x - 3, 32 * y - 3, 32 * x + 3, 32 * y + 3), 0.9)


def test_one_find_does_not_answer_for_two_objects() -> None:
    twice = [Wanted("red", "circle", 0.5, 0.5), Wanted("red", "circle", 0.52, 0.5)]
    assert sum(placed(twice, [found(0.5, 0.5)], SIDE_PX, 0.1)) == 1
    assert sum(placed(twice, [found(0.5, 0.5), found(0.55, 0.5)], SIDE_PX, 0.1)) == 2


def test_colour_shape_and_place_count() -> None:
    here = [found(0.5, 0.5)]
    assert placed([Wanted("red", "circle", 0.59, 0.41)], here, SIDE_PX, 0.1) == [True]
    assert placed([Wanted("red", "circle", 0.62, 0.5)], here, SIDE_PX, 0.1) == [False]
    assert placed([Wanted("blue", "circle", 0.5, 0.5)], here, SIDE_PX, 0.1) == [False]
    assert placed([Wanted("red", "square", 0.5, 0.5)], here, SIDE_PX, 0.1) == [False]
    assert placed([Wanted("red", None, 0.5, 0.5)], here, SIDE_PX, 0.1) == [True]
    assert placed([], here, SIDE_PX, 0.1) == []


def test_as_many_as_any_assignment_gives() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        wanted = [Wanted("red", None, *rng.uniform(0, 0.5, 2)) for _ in range(rng.integers(1, 5))]
        finds = [found(*rng.uniform(0, 0.5, 2)) for _ in range(4)]
        near = [[placed([w], [f], SIDE_PX, 0.15)[0] for f in finds] for w in wanted]
        best = max(
            sum(near[i][j] for i, j in enumerate(order)) for order in permutations(range(4), len(wanted))
        )
        assert sum(placed(wanted, finds, SIDE_PX, 0.15)) == best
