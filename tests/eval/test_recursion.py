"""The recursion benchmark on tokenizers whose tokens are known: of places, of no place, and of times."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ddt.eval.recursion import Recursion, spearman
from ddt.eval.token_looks import TIMES
from ddt.tokenizer import DDTTokenizer, presets

SIDE_PX, TOKENS, LEVELS = 16, 16, 64


class Transform:
    """An orthogonal transform of the 4 x 4 cells' grey levels; a token is a coefficient in LEVELS steps."""

    def __init__(self, basis_TL: torch.Tensor, reach: float) -> None:
        self.basis_TL, self.reach = basis_TL, reach
        self.config = SimpleNamespace(num_tokens=TOKENS, codebook_size=LEVELS)

    def encode(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        cells_BL = torch.nn.functional.adaptive_avg_pool2d(images_BCHW.mean(1), 4).flatten(1)
        value_BT = cells_BL @ self.basis_TL.T / self.reach
        return ((value_BT.clamp(-1, 1) + 1) / 2 * (LEVELS - 1)).round().long()

    def decode(self, codes_BT, num_steps=None, num_tokens=None, generator=None) -> torch.Tensor:
        value_BT = (codes_BT.float() / (LEVELS - 1) * 2 - 1) * self.reach
        if num_tokens is not None:
            value_BT = torch.where(torch.arange(TOKENS) < num_tokens, value_BT, 0)
        cells_BGG = (value_BT @ self.basis_TL).unflatten(1, (4, 4))
        pixels = cells_BGG.repeat_interleave(SIDE_PX // 4, 1).repeat_interleave(SIDE_PX // 4, 2)
        return pixels[:, None].expand(-1, 3, -1, -1).clamp(-1, 1)


def hadamard() -> torch.Tensor:
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5
    four = torch.kron(two, two)
    return torch.kron(four, four)


def photos(count: int) -> list[bytes]:
    """Coarse noise: every cell of every picture is independent of all others."""
    from PIL import Image

    from ddt.eval.report.pictures import png_bytes

    rng = np.random.default_rng(0)
    cells = rng.integers(60, 196, (count, 4, 4, 1), dtype=np.uint8)
    pictures = np.broadcast_to(cells, (count, 4, 4, 3)).repeat(SIDE_PX // 4, 1).repeat(SIDE_PX // 4, 2)
    return [png_bytes(Image.fromarray(picture)) for picture in pictures]


def scores_of(tokenizer, **options):
    benchmark = Recursion(40, 3, SIDE_PX, 1, **options)
    rows = benchmark.run(SimpleNamespace(image_tokenizer=tokenizer), benchmark.cases(), batch_size=16)
    assert len({row["case_id"] for row in rows}) == 40
    return benchmark.summarize(rows)


@pytest.fixture(scope="module")
def raster():
    return scores_of(Transform(torch.eye(TOKENS), 1.0), photos=photos(40))


@pytest.fixture(scope="module")
def placeless():
    return scores_of(Transform(hadamard(), 2.0), photos=photos(40))


def test_cells_in_raster_order_are_places(raster) -> None:
    assert raster["recursion/place_unevenness"].value == pytest.approx(1, abs=0.05)
    assert raster["recursion/order_by_height"].value > 0.9  # four in a row act at one height
    assert raster["recursion/roll_excess"].value > 0.6  # all but the row or column that comes in again


def test_coefficients_of_a_transform_are_of_no_place(placeless, raster) -> None:
    assert placeless["recursion/place_unevenness"].value < 0.35
    assert placeless["recursion/order_by_height"].value < 0.6
    assert placeless["recursion/roll_excess"].value < raster["recursion/roll_excess"].value / 3


def test_every_token_of_a_transform_counts_and_prefixes_grow(raster, placeless) -> None:
    for scores in (raster, placeless):
        assert scores["recursion/tokens_that_count"].value == 1
        by_prefix = [scores[f"recursion/prefix_{quarter}_psnr"].value for quarter in (25, 50, 75, 100)]
        assert by_prefix == sorted(by_prefix) and by_prefix[3] > by_prefix[0] + 10
        assert "recursion/any_time_psnr" not in scores  # it has no times


def test_a_token_that_carries_nothing_is_found() -> None:
    class Idle(Transform):
        def decode(self, codes_BT, *args, **options):
            return super().decode(torch.cat([codes_BT[:, :-1], codes_BT[:, -1:] * 0], 1), *args, **options)

    scores = scores_of(Idle(torch.eye(TOKENS), 1.0), photos=photos(40))
    assert scores["recursion/tokens_that_count"].value == 15 / 16
    assert scores["recursion/least_token_db"].value == 0


def test_estimates_at_a_time_are_the_decoder_s_own() -> None:
    torch.manual_seed(0)
    tokenizer = DDTTokenizer(presets()["debug"]).eval()
    with torch.no_grad():
        for parameter in tokenizer.decoder.parameters():  # adaLN-zero predicts nothing
            parameter.add_(0.05 * torch.randn(parameter.shape))
    images_BCHW = torch.rand(3, 3, SIDE_PX, SIDE_PX) * 2 - 1
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


def test_the_worst_time_is_told_with_its_floor() -> None:
    torch.manual_seed(0)
    scores = scores_of(DDTTokenizer(presets()["debug"]).eval())
    worst = scores["recursion/any_time_psnr"]
    assert worst.floor_is.rpartition("t = ")[2] in {f"{t:g}" for t in TIMES}
    assert worst.low <= worst.value <= worst.high


def test_spearman_of_known_orders() -> None:
    assert spearman(np.array([1.0, 5.0, 9.0])) == pytest.approx(1)
    assert spearman(np.array([9.0, 5.0, 1.0])) == pytest.approx(-1)
    assert spearman(np.array([2.0, 1.0, 4.0, 3.0])) == pytest.approx(0.6)
