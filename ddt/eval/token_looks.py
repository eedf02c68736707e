"""Decodings of pictures from all that can be done to their tokens: given in part, exchanged, rolled.

Shapes: B batch, T tokens, C H W pixels in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ddt.baselines.kinds import ImageTokenizer
from ddt.eval.report.pictures import rgb_array
from ddt.mllm.pictures import to_images
from ddt.tokenizer import DDTTokenizer
from ddt.tokenizer.flow import add_noise, best_guess
from ddt.tokenizer.inspect import swap_codes

TIMES = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0)
CELLS = 4  # a side, over which it is looked where tokens act
MOST_DB = 60.0  # equal pictures have infinite PSNR, which no mean survives
Arrays = dict[str, np.ndarray]


class TokenLooks:
    """Decodings of one batch from all that can be done to its tokens."""

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
        self.error_BHW = self._error(self._one_step(codes_BT))

    def at_any_time(self) -> Arrays:
        """PSNR [B, times] of x_0 predicted at each time; nothing for a tokenizer without times."""
        if not isinstance(self.tokenizer, DDTTokenizer):
            return {}
        found: dict[str, list[np.ndarray]] = {"with_tokens": [], "without_tokens": [], "linear_guess": []}
        noise_BCHW = torch.stack([_noise(self.own_BCHW[0], seed) for seed in self.seeds])
        spread = float(self.own_BCHW.std())
        for t in TIMES:
            for name, count in (("with_tokens", None), ("without_tokens", 0)):
                noise = [torch.Generator().manual_seed(seed) for seed in self.seeds]
                guess = self.tokenizer.estimate(self.own_BCHW, self.codes_BT, t, count, noise).cpu()
                found[name].append(self._psnr(guess))
            t_B = torch.full((len(self.own_BCHW),), t)
            found["linear_guess"].append(
                self._psnr(best_guess(add_noise(self.own_BCHW, noise_BCHW, t_B), t_B, spread))
            )
        return {name: np.stack(values, axis=1) for name, values in found.items()}

    def by_token(self) -> Arrays:
        """For each token what its exchange for another picture's costs in dB, and where: [B, T] each."""
        own_db_B = _db(self.error_BHW)
        loss, damage, height = [], [], []
        rows_H = (torch.arange(self.own_BCHW.shape[-2]) + 0.5) / self.own_BCHW.shape[-2]
        for i in range(self.num_tokens):
            error_BHW = self._error(self._one_step(swap_codes(self.codes_BT, self.other_BT, i, i + 1)))
            more_BH = (error_BHW - self.error_BHW).clamp(min=0).mean(2)
            loss.append(own_db_B - _db(error_BHW))
            damage.append(more_BH.mean(1).numpy())
            height.append(((more_BH * rows_H).sum(1) / more_BH.sum(1).clamp(min=1e-12)).numpy())
        names = ("token_loss_db", "token_damage", "token_height")
        return {n: np.stack(v, axis=1) for n, v in zip(names, (loss, damage, height), strict=True)}

    def by_cell(self) -> Arrays:
        """Squared error that half of the tokens, and all of them, of another picture add in each cell."""
        half_BT = swap_codes(self.codes_BT, self.other_BT, 0, self.num_tokens // 2)
        found = {}
        for name, codes_BT in (("half_damage", half_BT), ("whole_damage", self.other_BT)):
            more_BHW = self._error(self._one_step(codes_BT)) - self.error_BHW
            cells_BYX = adaptive_avg_pool2d(more_BHW[:, None], CELLS)
            found[name] = cells_BYX.flatten(1).numpy()
        return found

    def rolled(self) -> Arrays:
        """For each roll and each shift of the sequence the share of equal codes: [B, rolls, T − 1]."""
        side, shifts, moved = self.own_BCHW.shape[-1], range(1, self.num_tokens), []
        for axis in (-2, -1):
            for by in (side // 4, side // 8):
                codes_BT = self.tokenizer.encode(self.own_BCHW.roll(by, axis)).cpu()
                equal = [codes_BT.roll(-shift, 1) == self.codes_BT for shift in shifts]
                moved.append(torch.stack(equal).float().mean(2).T)
        return {"moved": torch.stack(moved, dim=1).numpy()}

    def prefixes(self, num_steps: int | None) -> list[list[np.ndarray]]:
        """Pictures drawn from a quarter, a half, three quarters and all of the tokens."""
        counts = [max(1, self.num_tokens * quarter // 4) for quarter in (1, 2, 3, 4)]
        return [self._drawn(self.codes_BT, num_steps, count) for count in counts]

    def exchanged(self, num_steps: int | None) -> list[np.ndarray]:
        """Pictures drawn with the first half of the tokens from another picture."""
        return self._drawn(swap_codes(self.codes_BT, self.other_BT, 0, self.num_tokens // 2), num_steps, None)

    def _drawn(self, codes_BT: Tensor, num_steps: int | None, count: int | None) -> list[np.ndarray]:
        noise = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        images_BCHW = self.tokenizer.decode(codes_BT, num_steps, count, noise)
        return [rgb_array(image) for image in to_images(images_BCHW)]

    def _one_step(self, codes_BT: Tensor) -> Tensor:
        return self.tokenizer.decode(codes_BT, 1).cpu()

    def _error(self, images_BCHW: Tensor) -> Tensor:
        return ((images_BCHW - self.own_BCHW) / 2).square().mean(1)

    def _psnr(self, images_BCHW: Tensor) -> np.ndarray:
        return _db(self._error(images_BCHW.clamp(-1, 1)))


def _db(error_BHW: Tensor) -> np.ndarray:
    return (-10 * torch.log10(error_BHW.flatten(1).mean(1).clamp(min=10 ** (-MOST_DB / 10)))).numpy()


def _noise(image_CHW: Tensor, seed: int) -> Tensor:
    return torch.randn(image_CHW.shape, generator=torch.Generator().manual_seed(seed))
