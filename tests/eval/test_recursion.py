"""The recursion benchmark on tokenizers whose tokens are known: of places, of no place, and of times."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ddt.eval.drawn_from_parts import draw_from_parts, prefix_counts, tiles
from ddt.eval.recursion import MOST_DRAWN, Recursion, taken
from ddt.eval.recursion_scores import spearman
from ddt.eval.regions import Regions
from ddt.eval.report.pictures import BLANK_GREY
from ddt.eval.report.results import score_table
from ddt.eval.token_looks import TIMES
from ddt.tokenizer import DDTTokenizer, presets
from tests.eval.transform import SIDE_PX, TOKENS, Transform, photos, placeless, raster


def rows_of(tokenizer, cases=40, **options):
    benchmark = Recursion(cases, 3, SIDE_PX, 1, **options)
    rows = benchmark.run(SimpleNamespace(image_tokenizer=tokenizer), benchmark.cases(), batch_size=16)
    assert len({row["case_id"] for row in rows}) == cases
    return benchmark, rows


def scores_of(tokenizer, cases=40, **options):
    benchmark, rows = rows_of(tokenizer, cases, **options)
    return benchmark.summarize(rows)


@pytest.fixture(scope="module")
def rows_of_places():
    return rows_of(raster(), photos=photos(40))


@pytest.fixture(scope="module")
def of_places(rows_of_places):
    benchmark, rows = rows_of_places
    return benchmark.summarize(rows)


@pytest.fixture(scope="module")
def of_no_place():
    return scores_of(placeless(), photos=photos(40))


@pytest.fixture(scope="module")
def debug_tokenizer():
    torch.manual_seed(0)
    tokenizer = DDTTokenizer(presets()["debug"]).eval()
    with torch.no_grad():
        for parameter in tokenizer.decoder.parameters():  # adaLN-zero predicts nothing
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return tokenizer


@pytest.fixture(scope="module")
def of_times(debug_tokenizer):
    return scores_of(debug_tokenizer, cases=4)


def test_cells_in_raster_order_are_places(of_places) -> None:
    assert of_places["recursion/place_unevenness"].value == pytest.approx(1, abs=0.05)
    assert of_places["recursion/order_by_height"].value > 0.9  # four in a row act at one height
    assert of_places["recursion/roll_excess"].value > 0.6  # all but the row or column that comes in again


def test_the_ideal_tokenizer_of_places_is_the_baseline(of_places) -> None:
    """Its tokens are the reference's regions: each number must be the one beside it."""
    for name, score in of_places.items():
        # Grey levels in 64 steps are equal by chance where pixels are not; hidden cells are grey to a level.
        room = 0.12 if name.endswith("roll_excess") else 0.01
        assert score.value == pytest.approx(score.baseline, abs=room), name
        assert score.low <= score.value <= score.high and score.floor is not None, name


def test_coefficients_of_a_transform_are_of_no_place(of_no_place) -> None:
    for name in ("place_unevenness", "order_by_height", "roll_excess"):
        score = of_no_place[f"recursion/{name}"]
        assert score.value < 0.5 * score.baseline, name
    # Half of each cell's variance is in any half of the coefficients; the rest is chance, of 40 pairs.
    assert of_no_place["recursion/place_unevenness"].value < 0.35
    assert of_no_place["recursion/place_unevenness"].baseline == pytest.approx(1, abs=1e-6)


def test_every_token_of_a_transform_counts_and_prefixes_grow(of_places, of_no_place) -> None:
    for scores in (of_places, of_no_place):
        assert scores["recursion/tokens_that_count"].value == 1
        by_prefix = [scores[f"recursion/prefix_{quarter}_psnr"].value for quarter in (25, 50, 75, 100)]
        assert by_prefix == sorted(by_prefix) and by_prefix[3] > by_prefix[0] + 10
        assert "recursion/any_time_psnr" not in scores  # it has no times
        assert not any("valid" in name or "kept" in name for name in scores)  # photographs have no objects


def test_a_prefix_of_an_orthogonal_transform_has_its_share_of_the_energy(of_no_place) -> None:
    """Parseval: of cells that are independent, n of T coefficients leave (T − n) / T of the squared error."""
    grey = of_no_place["recursion/prefix_50_psnr"].floor
    for quarter, left in ((25, 3 / 4), (50, 1 / 2), (75, 1 / 4)):
        found = of_no_place[f"recursion/prefix_{quarter}_psnr"].value
        assert found == pytest.approx(grey - 10 * np.log10(left), abs=0.7), quarter


def test_a_token_that_carries_nothing_is_found() -> None:
    class Idle(Transform):
        def decode(self, codes_BT, *args, **options):
            return super().decode(torch.cat([codes_BT[:, :-1], codes_BT[:, -1:] * 0], 1), *args, **options)

    scores = scores_of(Idle(torch.eye(TOKENS), 1.0), photos=photos(40))
    assert scores["recursion/tokens_that_count"].value == 15 / 16
    assert scores["recursion/least_token_db"].value == 0


def test_estimates_at_a_time_are_the_decoder_s_own(debug_tokenizer) -> None:
    tokenizer = debug_tokenizer
    images_BCHW = torch.rand(3, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codes_BT = tokenizer.encode(images_BCHW)
    noise = [torch.Generator().manual_seed(i) for i in range(3)]
    whole = tokenizer.estimate(images_BCHW, codes_BT, 1.0, generator=noise)
    noise = [torch.Generator().manual_seed(i) for i in range(3)]
    torch.testing.assert_close(whole, tokenizer.decode(codes_BT, 1, generator=noise), rtol=0, atol=1e-5)
    # At t = 0 no token is visible: which codes are given makes no difference.
    other_BT = (codes_BT + 1) % tokenizer.config.codebook_size
    at_0 = tokenizer.estimate(images_BCHW, codes_BT, 0.0)
    assert torch.equal(at_0, tokenizer.estimate(images_BCHW, other_BT, 0.0))
    assert not torch.equal(
        tokenizer.estimate(images_BCHW, codes_BT, 0.6), tokenizer.estimate(images_BCHW, other_BT, 0.6)
    )


def test_the_worst_time_is_told_with_its_floor(of_times) -> None:
    worst = of_times["recursion/any_time_psnr"]
    assert worst.floor_is.rpartition("t = ")[2] in {f"{t:g}" for t in TIMES}
    assert worst.low <= worst.value <= worst.high


def test_scenes_are_read_and_every_score_has_its_controls(of_times) -> None:
    assert {"recursion/exchange_valid", "recursion/prefix_25_kept"} <= set(of_times)
    for name, score in of_times.items():
        assert score.floor is not None and score.baseline is not None, name
        assert score.low <= score.value <= score.high, name
    names = score_table(of_times)[0]
    assert names[-1] == "baseline"
    # What is drawn of all tokens is one drawing, whatever a token stands for.
    for name in ("psnr", "background", "placed", "kept"):
        score = of_times[f"recursion/prefix_100_{name}"]
        assert score.value == score.baseline


def test_a_row_does_not_depend_on_its_batch(debug_tokenizer) -> None:
    benchmark = Recursion(4, 3, SIDE_PX, 2)
    model = SimpleNamespace(image_tokenizer=debug_tokenizer)
    together, alone = (benchmark.run(model, benchmark.cases(), size) for size in (4, 1))
    for one, other in zip(together, alone, strict=True):
        one, other = json.loads(one["values"]), json.loads(other["values"])
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=2e-3, err_msg=name)


def test_the_first_pictures_alone_are_drawn_by_the_sampler(rows_of_places) -> None:
    benchmark, rows = rows_of_places
    every, drawn = taken(rows)
    assert len(every["codes"]) == 40 and len(drawn["prefix_psnr"]) == MOST_DRAWN
    with pytest.raises(ValueError, match="none of the first pictures is among the rows"):
        benchmark.summarize(rows[MOST_DRAWN:])


def test_rows_of_another_version_are_told(rows_of_places) -> None:
    benchmark, rows = rows_of_places
    values = json.loads(rows[1]["values"])
    del values["region_moved"]
    with pytest.raises(ValueError, match="rows have no 'region_moved': made by another version"):
        benchmark.summarize([rows[0], rows[1] | {"values": json.dumps(values)}])


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_pictures_to_exchange_tokens_are_refused(count) -> None:
    with pytest.raises(ValueError, match=f"got {count} picture.* expected 2 or more"):
        Recursion(40, 3, SIDE_PX, 1, photos=photos(2)[:count])
    with pytest.raises(ValueError, match=f"got {count} picture.* expected 2 or more"):
        Recursion(count, 3, SIDE_PX, 1)


def test_too_few_tokens_are_refused() -> None:
    tokenizer = SimpleNamespace(config=SimpleNamespace(num_tokens=3))
    benchmark = Recursion(2, 3, SIDE_PX, 1)
    with pytest.raises(ValueError, match="num_tokens = 3, expected 4 or more"):
        benchmark.run(SimpleNamespace(image_tokenizer=tokenizer), benchmark.cases(), 2)


@pytest.mark.parametrize("num_tokens, grid", [(32, (8, 4)), (16, (4, 4)), (480, (24, 20)), (7, (7, 1))])
def test_regions_are_a_partition_in_raster_order(num_tokens, grid) -> None:
    regions = Regions(num_tokens, 96)
    assert (regions.rows, regions.columns) == grid
    numbers, counts = np.unique(regions.token_HW, return_counts=True)
    assert numbers.tolist() == list(range(num_tokens)) and counts.max() <= 1.5 * counts.min()
    assert regions.token_HW[0, 0] == 0 and regions.token_HW[-1, -1] == num_tokens - 1


def test_exchanged_regions_are_a_cut_and_encode_tells_which_are_equal() -> None:
    regions, (own_BCHW, other_BCHW) = Regions(32, 32), torch.rand(2, 2, 3, 32, 32)
    cut = regions.swap(own_BCHW, other_BCHW, 0, 16)
    assert torch.equal(cut, torch.cat([other_BCHW[:, :, :16], own_BCHW[:, :, 16:]], 2))
    equal_BT = regions.encode(cut) == regions.encode(own_BCHW)
    assert equal_BT.tolist() == [[False] * 16 + [True] * 16] * 2
    # Rolled by one row of regions, the codes are the same, four further on.
    rolled = regions.encode(own_BCHW.roll(4, -2))
    assert torch.equal(rolled, regions.encode(own_BCHW).roll(4, 1))
    picture = np.full((32, 32, 3), 200, np.uint8)
    assert regions.first(picture, 8)[:8].min() == 200 and regions.first(picture, 8)[8:].max() == BLANK_GREY


def test_prefixes_are_drawn_from_doubled_counts_and_quarters() -> None:
    assert prefix_counts(32) == [1, 2, 4, 8, 16, 24, 32]
    assert prefix_counts(6) == [1, 2, 3, 4, 6]


def test_a_strip_is_cut_into_its_pictures_again() -> None:
    tokenizer = raster()
    codes_BT = torch.randint(0, 64, (2, TOKENS), generator=torch.Generator().manual_seed(0))
    (drawn, _) = draw_from_parts(tokenizer, codes_BT, codes_BT.flip(0), [1, 2], 1)
    picture, partner = np.zeros((2, SIDE_PX, SIDE_PX, 3), np.uint8)
    of_tokens, of_regions = tiles(drawn.strip(picture, partner))
    assert len(of_tokens) == len(of_regions) == 1 + len(prefix_counts(TOKENS)) + 2 + 1
    for found, wanted in zip(of_tokens[1:-1], [*drawn.prefixes, *drawn.mixtures], strict=True):
        assert np.array_equal(found, wanted)
    for found, wanted in zip(of_regions[1:-1], [*drawn.region_prefixes, *drawn.region_mixtures], strict=True):
        assert np.array_equal(found, wanted)
    # Cells in raster order are regions: mixtures of tokens are cuts of the drawings, to the level of grey.
    for mixture, cut in zip(drawn.mixtures, drawn.region_mixtures, strict=True):
        assert np.array_equal(mixture, cut)


def test_spearman_of_known_orders() -> None:
    assert spearman(np.array([1.0, 5.0, 9.0])) == pytest.approx(1)
    assert spearman(np.array([9.0, 5.0, 1.0])) == pytest.approx(-1)
    assert spearman(np.array([2.0, 1.0, 4.0, 3.0])) == pytest.approx(0.6)
    assert spearman(np.array([1.0, 1.0, 2.0, 2.0])) == pytest.approx(2 / 5**0.5)  # equal ones share a rank
    assert spearman(np.array([3.0, 3.0, 3.0])) == 0
