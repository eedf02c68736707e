"""Pictures of the tokens' recursion: the heat maps' numbers, and what is there for scenes and photographs."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ddt.eval.drawn_from_parts import prefix_counts
from ddt.eval.recursion import Recursion, taken
from ddt.tokenizer import DDTTokenizer, presets
from pipelines.reports.recursion import _shares, recursion_pictures
from tests.eval.transform import SIDE_PX, photos, raster


@pytest.fixture(scope="module")
def rows_of_places():
    benchmark = Recursion(3, 3, SIDE_PX, 1, photos=photos(3))
    return benchmark.run(SimpleNamespace(image_tokenizer=raster()), benchmark.cases(), 3)


def test_a_quarter_of_the_cells_in_raster_order_is_a_row_of_the_map(rows_of_places) -> None:
    every, _ = taken(rows_of_places)
    for prefix in ("", "region_"):
        share_QYX = _shares(every[f"{prefix}quarter_damage"]).reshape(4, 4, 4)
        assert share_QYX.sum(2) == pytest.approx(np.eye(4), abs=1e-6)


def test_tokens_that_do_nothing_have_an_empty_map() -> None:
    assert not _shares(np.zeros((2, 4, 16))).any()


def test_photographs_have_all_pictures_but_the_one_over_time(rows_of_places) -> None:
    titles = list(recursion_pictures(rows_of_places))
    assert [title.split(":")[0] for title in titles] == [
        "Expanding prefix", "Expanding prefix", "Where each quarter of the tokens acts", "Exchange",
    ]  # fmt: skip


def test_scenes_through_a_ddt_tokenizer_have_every_picture() -> None:
    torch.manual_seed(0)
    tokenizer = DDTTokenizer(presets()["debug"]).eval()
    benchmark = Recursion(2, 3, SIDE_PX, 1)
    rows = benchmark.run(SimpleNamespace(image_tokenizer=tokenizer), benchmark.cases(), 2)
    pictures = recursion_pictures(rows)
    assert len(pictures) == 5 and list(pictures)[0].startswith("Any time")
    for image in pictures.values():
        assert len(np.unique(np.asarray(image))) > 20  # something is drawn
    columns = 1 + len(prefix_counts(tokenizer.config.num_tokens))
    assert pictures["Expanding prefix: pictures drawn from the first tokens"].width > 80 * columns
