"""What becomes of pictures when their tokens are given in part, exchanged or rolled, in one pass.

Each number of the tokens has a twin `region_…`: the same of the spatial reference (`ddt.eval.regions`).
Shapes: B batch, T tokens, C H W pixels in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ddt.baselines.kinds import ImageTokenizer
from ddt.eval.regions import Regions
from ddt.tokenizer import DDTTokenizer
from ddt.tokenizer.flow import add_noise, best_guess
from ddt.tokenizer.inspect import swap_codes

TIMES = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0)
CELLS = 4  # a side, over which it is looked where tokens act
QUARTERS = 4  # of the tokens
MOST_DB = 60.0  # equal pictures have infinite PSNR, which no mean survives
Arrays = dict[str, np.ndarray]
Exchange = Callable[[int, int], Tensor]  # tokens `start` to `stop` of the other picture -> images


class TokenLooks:
    """Decodings of one batch, with `other_BT` the codes of the pictures that tokens are exchanged with."""

    def __init__(
        self,
        tokenizer: ImageTokenizer,
        own_BCHW: Tensor,
        codes_BT: Tensor,
        other_BT: Tensor,
        seeds: Sequence[int],
    ) -> None:
        self.tokenizer, self.seeds = tokenizer, seeds
        self.own_BCHW, self.codes_BT, self.other_BT = own_BCHW, codes_BT, other_BT
        self.num_tokens = codes_BT.shape[1]
        self.regions = Regions(self.num_tokens, own_BCHW.shape[-1])
        self.drawn_BCHW, self.other_drawn_BCHW = self._one_step(codes_BT), self._one_step(other_BT)
        self.error_BHW = self._error(self.drawn_BCHW)

    def at_any_time(self) -> Arrays:
        """PSNR [B, times] of x_0 predicted at each time; nothing for a tokenizer without times.

        The spatial reference has its first k(t) regions, and elsewhere what is predicted without tokens.
        """
        if not isinstance(self.tokenizer, DDTTokenizer):
            return {}
        found: dict[str, list[np.ndarray]] = {}
        for t in TIMES:
            seen = int(self.tokenizer.schedule.visible(torch.tensor([t])).sum())
            without_BCHW = self._estimate(t, 0)
            guesses = {
                "with_tokens": self._estimate(t, None),
                "without_tokens": without_BCHW,
                "linear_guess": self._linear_guess(t),
                "region_with_tokens": self.regions.swap(without_BCHW, self.drawn_BCHW, 0, seen),
            }
            for name, guess_BCHW in guesses.items():
                found.setdefault(name, []).append(_db(self._error(guess_BCHW.clamp(-1, 1))))
        return {name: np.stack(values, axis=1) for name, values in found.items()}

    def by_token(self) -> Arrays:
        """For each token what its exchange for another picture's costs in dB, and where: [B, T] each."""
        own_db_B, side = _db(self.error_BHW), self.own_BCHW.shape[-1]
        height_H = (torch.arange(side) + 0.5) / side
        found: dict[str, list[np.ndarray]] = {}
        for prefix, exchange in self._exchanges():
            for i in range(self.num_tokens):
                error_BHW = self._error(exchange(i, i + 1))
                more_BH = (error_BHW - self.error_BHW).clamp(min=0).mean(2)
                height_B = (more_BH * height_H).sum(1) / more_BH.sum(1).clamp(min=1e-12)
                found.setdefault(f"{prefix}token_loss_db", []).append(own_db_B - _db(error_BHW))
                found.setdefault(f"{prefix}token_damage", []).append(more_BH.mean(1).numpy())
                found.setdefault(f"{prefix}token_height", []).append(height_B.numpy())
        return {name: np.stack(values, axis=1) for name, values in found.items()}

    def by_cell(self) -> Arrays:
        """Squared error that tokens of another picture add in each cell.

        All of them and the first half [B, cells], and each quarter [B, quarters, cells].
        """
        found: Arrays = {}
        ends = [self.num_tokens * quarter // QUARTERS for quarter in range(QUARTERS + 1)]
        for prefix, exchange in self._exchanges():
            found[f"{prefix}whole_damage"] = self._damage(exchange(0, self.num_tokens))
            found[f"{prefix}half_damage"] = self._damage(exchange(0, self.num_tokens // 2))
            quarters = [
                self._damage(exchange(start, stop)) for start, stop in zip(ends, ends[1:], strict=False)
            ]
            found[f"{prefix}quarter_damage"] = np.stack(quarters, axis=1)
        return found

    def rolled(self) -> Arrays:
        """For each roll and each shift of the sequence the share of equal codes: [B, rolls, T − 1]."""
        side, found = self.own_BCHW.shape[-1], {}
        for prefix, tokenizer in (("", self.tokenizer), ("region_", self.regions)):
            codes_BT, moved = tokenizer.encode(self.own_BCHW).cpu(), []
            for axis in (-2, -1):
                for by in (side // 4, side // 8):
                    rolled_BT = tokenizer.encode(self.own_BCHW.roll(by, axis)).cpu()
                    equal = [rolled_BT.roll(-shift, 1) == codes_BT for shift in range(1, self.num_tokens)]
                    moved.append(torch.stack(equal).float().mean(2).T)
            found[f"{prefix}moved"] = torch.stack(moved, dim=1).numpy()
        return found

    def _exchanges(self) -> list[tuple[str, Exchange]]:
        def of_tokens(start: int, stop: int) -> Tensor:
            return self._one_step(swap_codes(self.codes_BT, self.other_BT, start, stop))

        def of_regions(start: int, stop: int) -> Tensor:
            return self.regions.swap(self.drawn_BCHW, self.other_drawn_BCHW, start, stop)

        return [("", of_tokens), ("region_", of_regions)]

    def _damage(self, images_BCHW: Tensor) -> np.ndarray:
        more_BHW = self._error(images_BCHW) - self.error_BHW
        return adaptive_avg_pool2d(more_BHW[:, None], CELLS).flatten(1).numpy()

    def _estimate(self, t: float, count: int | None) -> Tensor:
        assert isinstance(self.tokenizer, DDTTokenizer)
        noise = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        return self.tokenizer.estimate(self.own_BCHW, self.codes_BT, t, count, noise).cpu()

    def _linear_guess(self, t: float) -> Tensor:
        """The best linear guess that knows each picture's own deviation from grey."""
        guesses = []
        for image_CHW, seed in zip(self.own_BCHW, self.seeds, strict=True):
            noise_CHW = torch.randn(image_CHW.shape, generator=torch.Generator().manual_seed(seed))
            noisy_1CHW = add_noise(image_CHW[None], noise_CHW[None], torch.tensor([t]))
            deviation = float(image_CHW.square().mean().sqrt())
            guesses.append(best_guess(noisy_1CHW, torch.tensor([t]), deviation))
        return torch.cat(guesses)

    def _one_step(self, codes_BT: Tensor) -> Tensor:
        noise = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        return self.tokenizer.decode(codes_BT, 1, generator=noise).cpu()

    def _error(self, images_BCHW: Tensor) -> Tensor:
        return ((images_BCHW - self.own_BCHW) / 2).square().mean(1)


def _db(error_BHW: Tensor) -> np.ndarray:
    return (-10 * torch.log10(error_BHW.flatten(1).mean(1).clamp(min=10 ** (-MOST_DB / 10)))).numpy()
