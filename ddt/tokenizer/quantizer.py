"""The quantizer: nearest code by cosine, moved by an exponential average (paper section 3.2, "quantizer").

Distances, averages and codes are float32 (float64 in a model that is) whatever autocast says. No tensor of
B·T × K is ever held: the lookup goes through chunks of rows, counts and sums are scattered. All ranks hold
the same codebook, and it is the one that a single process would hold: it moves once a step, by the vectors of
all ranks and micro-batches, and random choices are drawn from gathered outputs by a generator seeded with the
step. `lookup` finds the nearest code, `kmeans` places the first codes, `dead_codes` restarts those that
nothing matches.
Shapes: B batch, T tokens, d code dimensions, K codes, N = B·T vectors (over all ranks where said).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor, nn

from ddt.tokenizer.codebook_metrics import codebook_metrics
from ddt.tokenizer.dead_codes import restart_dead_codes
from ddt.tokenizer.kmeans import add_up, count, spherical_kmeans
from ddt.tokenizer.layers import at_least_float32
from ddt.tokenizer.lookup import nearest, unit
from ddt.tokenizer.position_norm import PositionNorm
from ddt.tokenizer.ranks import gather_rows, sum_over_ranks, world_size
from ddt.tokenizer.usage_entropy import usage_entropy_loss


@dataclass
class Quantized:
    """What the decoder and the loss get. `codes_BT` is None while training is still unquantized."""

    vectors_BTd: Tensor  # unit vectors; gradients pass straight through to the encoder
    codes_BT: Tensor | None
    commitment_BT: Tensor  # squared distance to the code, mean over d
    entropy_loss: Tensor


@dataclass
class StepVectors:
    """What this process quantized since the codebook last moved: an entry a micro-batch."""

    step: int
    z_Nd: list[Tensor] = field(default_factory=list)  # what was looked up, noise included
    outputs_Nd: list[Tensor] = field(default_factory=list)  # before the noise: where dead codes restart
    codes_BT: list[Tensor] = field(default_factory=list)


class Quantizer(nn.Module):
    """K unit codes of d dimensions; the codebook is a buffer, it has no gradient."""

    codebook_Kd: Tensor
    sums_Kd: Tensor
    hits_K: Tensor
    ready: Tensor

    def __init__(
        self,
        codebook_size: int,
        code_dim: int,
        *,
        normalise_positions: int = 0,
        ema_decay: float,
        dead_threshold: float,
        unquantized_steps: int,
        entropy_floor: float = 0.0,
        noise: float = 0.0,
    ) -> None:
        super().__init__()
        self.ema_decay = ema_decay
        self.dead_threshold = dead_threshold
        self.unquantized_steps = unquantized_steps
        self.entropy_floor = entropy_floor
        self.noise = noise
        self.norm = PositionNorm(normalise_positions, code_dim, ema_decay) if normalise_positions else None
        codebook_Kd = unit(torch.randn(codebook_size, code_dim))
        self.register_buffer("codebook_Kd", codebook_Kd)
        self.register_buffer("sums_Kd", codebook_Kd.clone())  # EMA of the sum of vectors matched per step
        self.register_buffer("hits_K", torch.ones(codebook_size))  # EMA of the number matched per step
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))  # k-means has run
        self._ready_read: tuple[Tensor, int, bool] | None = None
        self._vectors = StepVectors(-1)

    def forward(
        self, z_BTd: Tensor, step: int, entropy: bool = False, generator: torch.Generator | None = None
    ) -> Quantized:
        """Encoder outputs as codes; in training mode `finish_step` then moves the codebook by them.

        Before `unquantized_steps` the unit vectors pass through; in that step of a training k-means places
        the codes, as soon as its micro-batches have as many vectors as there are codes. In training mode
        vectors are first moved by noise of length about `noise`, drawn by `generator`.
        """
        with torch.autocast(z_BTd.device.type, enabled=False):
            z_BTd = self._on_sphere(z_BTd, self.training)
            outputs_Nd = z_BTd.detach().flatten(0, 1)
            if self.training and self.noise:
                z_BTd = self._disturb(z_BTd, generator)
            zero = z_BTd.new_zeros(())
            if self._vectors.step != step:
                self._vectors = StepVectors(step)
            flat_Nd = z_BTd.detach().flatten(0, 1)
            if step < self.unquantized_steps or not self._has_codes(flat_Nd, step):
                return Quantized(z_BTd, None, z_BTd.new_zeros(z_BTd.shape[:2]), zero)
            codes_BT = nearest(flat_Nd, self.codebook_Kd).view(z_BTd.shape[:2])
            codes_BTd = self.codebook_Kd[codes_BT]
            commitment_BT = (z_BTd - codes_BTd).square().mean(-1)
            entropy_loss = (
                usage_entropy_loss(z_BTd, self.codebook_Kd, self.hits_K, self.entropy_floor)
                if entropy
                else zero
            )
            straight_through_BTd = z_BTd + (codes_BTd - z_BTd).detach()
        if self.training:
            self._vectors.z_Nd.append(flat_Nd)
            self._vectors.outputs_Nd.append(outputs_Nd)
            self._vectors.codes_BT.append(codes_BT)
        return Quantized(straight_through_BTd, codes_BT, commitment_BT, entropy_loss)

    @torch.no_grad()
    def finish_step(self, step: int) -> dict[str, Tensor]:
        """Moves the codebook by all that was quantized in training mode in this step, on all ranks.

        EMA of hits and sums; dead codes restart at random outputs of the encoder. Returns usage, perplexity
        and the like of the step's codes over all ranks; nothing while training is unquantized. Raises
        ValueError if the vectors of step `unquantized_steps` are fewer than the codes.
        """
        vectors, self._vectors = self._vectors, StepVectors(-1)
        if step < self.unquantized_steps:
            return {}
        if not self._is_ready():
            raise ValueError(
                f"codebook_size = {len(self.codebook_Kd)}: k-means needs as many vectors, "
                f"a step gives {world_size() * sum(map(len, vectors.z_Nd))}; "
                "use a larger batch or fewer codes"
            )
        codes_BT, z_Nd = torch.cat(vectors.codes_BT), torch.cat(vectors.z_Nd)
        sums_Kd = sum_over_ranks(add_up(z_Nd, codes_BT.flatten(), len(self.codebook_Kd)))
        codes_BT = gather_rows(codes_BT)
        hits_K = count(codes_BT.flatten(), len(self.codebook_Kd))
        self.hits_K.lerp_(hits_K, 1 - self.ema_decay)
        self.sums_Kd.lerp_(sums_Kd, 1 - self.ema_decay)
        restart_dead_codes(
            self.sums_Kd,
            self.hits_K,
            torch.cat(vectors.outputs_Nd),
            threshold=self.dead_threshold,
            seed=step,
        )
        # The direction of the sum is the direction of the mean: no division by hits, no smoothing.
        self.codebook_Kd.copy_(unit(self.sums_Kd))
        return codebook_metrics(codes_BT, hits_K)

    def train(self, mode: bool = True) -> Self:
        """As of any module; what an interrupted step left does not count."""
        self._vectors = StepVectors(-1)
        return super().train(mode)

    @torch.no_grad()
    def lookup(self, z_BTd: Tensor) -> Tensor:
        """int64 codes [B, T] with the largest cosine to z [B, T, d]."""
        with torch.autocast(z_BTd.device.type, enabled=False):
            return nearest(self._on_sphere(z_BTd, False).flatten(0, 1), self.codebook_Kd).view(
                z_BTd.shape[:2]
            )

    def _is_ready(self) -> bool:
        """`ready`, read again only where it was written or moved: reading it waits for the device."""
        read, version = self._ready_read, self.ready._version
        if read is None or read[0] is not self.ready or read[1] != version:
            read = self._ready_read = self.ready, version, bool(self.ready)
        return read[2]

    def _has_codes(self, z_Nd: Tensor, step: int) -> bool:
        """Whether the codes are placed, or these vectors of a training complete what it takes to do so."""
        return self._is_ready() or (self.training and self._place_codes(z_Nd, step))

    def _on_sphere(self, z_BTd: Tensor, use_batch: bool) -> Tensor:
        z_BTd = at_least_float32(z_BTd)
        return unit(z_BTd if self.norm is None else self.norm(z_BTd, use_batch))

    def _disturb(self, z_BTd: Tensor, generator: torch.Generator | None) -> Tensor:
        # Not in the paper. Without it codes also depended on far objects and on noise that no eye sees.
        drawn_on = generator.device if generator is not None else z_BTd.device
        noise_BTd = torch.randn(z_BTd.shape, generator=generator, device=drawn_on).to(z_BTd.device)
        return unit(z_BTd + self.noise * z_BTd.shape[-1] ** -0.5 * noise_BTd)

    @torch.no_grad()
    def _place_codes(self, z_Nd: Tensor, step: int) -> bool:
        """K-means on the step's vectors so far, of all ranks; False while they are fewer than the codes."""
        self._vectors.z_Nd.append(z_Nd)
        z_Nd = gather_rows(torch.cat(self._vectors.z_Nd))
        if len(z_Nd) < len(self.codebook_Kd):
            return False
        self._vectors.z_Nd.clear()
        codes_Kd, hits_K, sums_Kd = spherical_kmeans(z_Nd, len(self.codebook_Kd), seed=step)
        self.codebook_Kd.copy_(codes_Kd)
        empty_K = hits_K == 0
        self.hits_K.copy_(hits_K)
        self.sums_Kd.copy_(torch.where(empty_K[:, None], codes_Kd, sums_Kd))
        self.ready.fill_(True)
        return True
