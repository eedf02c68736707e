"""The quantizer: nearest code by cosine, moved by an exponential average (paper section 3.2, "quantizer").

Distances, averages and codes are float32 whatever autocast says. No tensor of B·T × K is ever held: the
lookup goes through chunks of rows, counts and sums are scattered. All ranks hold the same codebook, and it is
the one that a single process would hold: it moves once a step, by the vectors of all ranks and micro-batches,
and random choices are drawn from gathered outputs by a generator seeded with the step.
Shapes: B batch, T tokens, d code dimensions, K codes, N = B·T vectors (over all ranks where said).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ddt.tokenizer.position_norm import PositionNorm

# Similarities held at once. An accelerator has the memory for more, and is busy only with many rows.
LOOKUP_ELEMENTS = 1 << 24  # 64 MiB in float32
ACCELERATOR_LOOKUP_ELEMENTS = 1 << 27  # 512 MiB; the paper's batch in 8 pieces
KMEANS_ITERATIONS = 10
ENTROPY_ROWS = 4096  # rows of the entropy term: its similarities carry gradients, so they are held whole
ENTROPY_SHARPNESS = 10.0  # softmax(10 · cosine), as Selftok


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
        code_distance: float = 0.0,
    ) -> None:
        super().__init__()
        self.ema_decay = ema_decay
        self.dead_threshold = dead_threshold
        self.unquantized_steps = unquantized_steps
        self.entropy_floor = entropy_floor
        self.noise = noise
        self.code_distance = code_distance
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

        Before `unquantized_steps` the unit vectors pass through; in that step k-means places the codes, as
        soon as its micro-batches have as many vectors as there are codes. In training mode vectors are first
        moved by noise of length about `noise`, drawn by `generator`.
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
            if step < self.unquantized_steps or not (self._is_ready() or self._place_codes(flat_Nd, step)):
                return Quantized(z_BTd, None, z_BTd.new_zeros(z_BTd.shape[:2]), zero)
            codes_BT = nearest(flat_Nd, self.codebook_Kd).view(z_BTd.shape[:2])
            codes_BTd = self.codebook_Kd[codes_BT]
            commitment_BT = (z_BTd - codes_BTd).square().mean(-1)
            entropy_loss = self._entropy_loss(z_BTd) if entropy else zero
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
                f"a step gives {_world_size() * sum(map(len, vectors.z_Nd))}; "
                "use a larger batch or fewer codes"
            )
        codes_BT, z_Nd = torch.cat(vectors.codes_BT), torch.cat(vectors.z_Nd)
        sums_Kd = _all_reduce(add_up(z_Nd, codes_BT.flatten(), len(self.codebook_Kd)))
        codes_BT = _gather_rows(codes_BT)
        hits_K = count(codes_BT.flatten(), len(self.codebook_Kd))
        self.hits_K.lerp_(hits_K, 1 - self.ema_decay)
        self.sums_Kd.lerp_(sums_Kd, 1 - self.ema_decay)
        self._reset_dead(torch.cat(vectors.outputs_Nd), step)
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

    def _on_sphere(self, z_BTd: Tensor, use_batch: bool) -> Tensor:
        z_BTd = z_BTd.float()
        return unit(z_BTd if self.norm is None else self.norm(z_BTd, use_batch))

    def _disturb(self, z_BTd: Tensor, generator: torch.Generator | None) -> Tensor:
        # Not in the paper. Without it codes also depended on far objects and on noise that no eye sees.
        drawn_on = generator.device if generator is not None else z_BTd.device
        noise_BTd = torch.randn(z_BTd.shape, generator=generator, device=drawn_on).to(z_BTd.device)
        return unit(z_BTd + self.noise * z_BTd.shape[-1] ** -0.5 * noise_BTd)

    def _reset_dead(self, outputs_Nd: Tensor, step: int) -> None:
        """Dead is a code matched too rarely or, with `code_distance`, too near one that is matched more."""
        limit = self.dead_threshold * len(outputs_Nd) * _world_size() / len(self.codebook_Kd)
        dead_K = self.hits_K < limit
        if self.code_distance:
            dead_K |= self._crowded()
            dead_K[self.hits_K.argmax()] = False  # one stays whatever the threshold
        if dead_K.device.type == "cpu" and not dead_K.any():
            return  # an accelerator would have to be waited for to know
        outputs_Nd = _gather_rows(outputs_Nd)
        if self.code_distance:
            live_Kd = unit(self.sums_Kd[~dead_K])
            outputs_Nd = outputs_Nd[largest_cosine(outputs_Nd, live_Kd) < self._near]
            # A code for which there is no room waits opposite the most frequent one, where no vector comes.
            self.sums_Kd[dead_K] = -live_Kd[self.hits_K[~dead_K].argmax()]
            self.hits_K[dead_K] = 0
        self._restart(dead_K, outputs_Nd, limit, step)

    def _restart(self, dead_K: Tensor, outputs_Nd: Tensor, limit: float, step: int) -> None:
        """Gives each dead code another random output, as far as there are some: the n-th the n-th drawn.

        Done for all codes and kept for the dead, since how many these are only the device knows.
        """
        if not len(outputs_Nd):
            return
        drawn_Kd = _random_rows(outputs_Nd, len(dead_K), step)
        nth_K = dead_K.cumsum(0) - 1
        restarts_K = dead_K & (nth_K < len(drawn_Kd))
        restarted_Kd = drawn_Kd[nth_K.clamp(0, len(drawn_Kd) - 1)] * limit
        self.sums_Kd.copy_(torch.where(restarts_K[:, None], restarted_Kd, self.sums_Kd))
        self.hits_K.masked_fill_(restarts_K, limit)

    @property
    def _near(self) -> float:
        """The cosine of unit vectors `code_distance` apart."""
        return 1 - self.code_distance**2 / 2

    def _crowded(self) -> Tensor:
        """[K] whether a code with more hits is nearer than `code_distance`.

        Not in the paper. Averages alone put many codes where many vectors are: in flat backgrounds, whose
        codes then changed with one grey level, and which the language model had to learn by heart.
        """
        codes_Kd = unit(self.sums_Kd)
        rows = _rows_at_once(codes_Kd)
        crowded = [
            ((chunk_Kd @ codes_Kd.T > self._near) & (self.hits_K > hits_K[:, None])).any(1)
            for chunk_Kd, hits_K in zip(codes_Kd.split(rows), self.hits_K.split(rows), strict=True)
        ]
        return torch.cat(crowded)

    @torch.no_grad()
    def _place_codes(self, z_Nd: Tensor, step: int) -> bool:
        """K-means on the step's vectors so far, of all ranks; False while they are fewer than the codes."""
        self._vectors.z_Nd.append(z_Nd)
        z_Nd = _gather_rows(torch.cat(self._vectors.z_Nd))
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

    def _entropy_loss(self, z_BTd: Tensor) -> Tensor:
        """log K − entropy of the mean soft assignment, while codes are used less than the floor."""
        share_K = self.hits_K / self.hits_K.sum()
        if perplexity(share_K) >= self.entropy_floor * len(share_K):
            return z_BTd.new_zeros(())
        z_Nd = z_BTd.flatten(0, 1)
        z_Nd = z_Nd[:: -(-len(z_Nd) // ENTROPY_ROWS)]
        mean_K = (ENTROPY_SHARPNESS * z_Nd @ self.codebook_Kd.T).softmax(-1).mean(0)
        return torch.log(z_BTd.new_tensor(len(share_K))) + (mean_K * (mean_K + 1e-10).log()).sum()


def unit(x: Tensor) -> Tensor:
    """L2-normalised along the last dimension."""
    return F.normalize(x, dim=-1, eps=1e-8)


def nearest(z_Nd: Tensor, codebook_Kd: Tensor) -> Tensor:
    """int64 [N]: the code with the largest inner product; ties go to the lowest index."""
    rows = _rows_at_once(codebook_Kd)
    return torch.cat([(chunk @ codebook_Kd.T).argmax(-1) for chunk in z_Nd.split(rows)])


def largest_cosine(z_Nd: Tensor, codebook_Kd: Tensor) -> Tensor:
    """float [N]: the inner product with the nearest code."""
    rows = _rows_at_once(codebook_Kd)
    return torch.cat([(chunk @ codebook_Kd.T).amax(-1) for chunk in z_Nd.split(rows)])


def _rows_at_once(codebook_Kd: Tensor) -> int:
    on_cpu = codebook_Kd.device.type == "cpu"
    return max(1, (LOOKUP_ELEMENTS if on_cpu else ACCELERATOR_LOOKUP_ELEMENTS) // len(codebook_Kd))


def count(codes_N: Tensor, codebook_size: int) -> Tensor:
    """How many vectors each code got, float32 [K]. (bincount would wait for the device.)"""
    ones_N = torch.ones(codes_N.shape, device=codes_N.device)
    return ones_N.new_zeros(codebook_size).scatter_add_(0, codes_N, ones_N)


def add_up(z_Nd: Tensor, codes_N: Tensor, codebook_size: int) -> Tensor:
    """The sum of the vectors that each code got, [K, d]."""
    return z_Nd.new_zeros(codebook_size, z_Nd.shape[1]).index_add_(0, codes_N, z_Nd)


def spherical_kmeans(z_Nd: Tensor, codebook_size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Unit centres [K, d] of unit vectors, their hits [K] and sums [K, d].

    Starts at K different rows (without replacement, so no two centres are born equal).
    """
    centres_Kd = _random_rows(z_Nd, codebook_size, seed)
    for _ in range(KMEANS_ITERATIONS):
        codes_N = nearest(z_Nd, centres_Kd)
        hits_K, sums_Kd = count(codes_N, codebook_size), add_up(z_Nd, codes_N, codebook_size)
        centres_Kd = torch.where(hits_K[:, None] > 0, unit(sums_Kd), centres_Kd)
    return centres_Kd, hits_K, sums_Kd


@torch.no_grad()
def codebook_metrics(codes_BT: Tensor, hits_K: Tensor) -> dict[str, Tensor]:
    """Usage, perplexity and largest share of one step's codes, and the perplexity of each position.

    `hits_K` is how often each code is among `codes_BT`.
    """
    share_K = hits_K / codes_BT.numel()
    position_T = position_perplexity(codes_BT)
    return {
        "codes/usage": (share_K > 0).float().mean(),
        "codes/perplexity": perplexity(share_K),
        "codes/largest_share": share_K.max(),
        "codes/min_position_perplexity": position_T.min(),
        **by_position("position_perplexity", position_T),
    }


def by_position(family: str, value_T: Tensor) -> dict[str, Tensor]:
    """A metric for each token: `<family>/0001` is V_1's."""
    return {f"{family}/{i:04}": value for i, value in enumerate(value_T.unbind(), start=1)}


def perplexity(share_K: Tensor) -> Tensor:
    """exp of the entropy of a distribution: the number of codes it is worth."""
    return torch.special.entr(share_K).sum().exp()


def position_perplexity(codes_BT: Tensor) -> Tensor:
    """Perplexity [T] of the codes at each position over a batch, without a T × K table.

    Sorted, equal codes are runs, of which a position has at most B: a size known without asking the device.
    """
    sorted_TB = codes_BT.T.contiguous().sort(dim=1).values
    starts_TB = F.pad(sorted_TB[:, 1:] != sorted_TB[:, :-1], (1, 0), value=True)
    ones_TB = torch.ones(sorted_TB.shape, device=codes_BT.device)
    runs_TB = torch.zeros_like(ones_TB).scatter_add_(1, starts_TB.cumsum(1) - 1, ones_TB)
    return torch.special.entr(runs_TB / len(codes_BT)).sum(1).exp()


def _random_rows(x_Nd: Tensor, count: int, seed: int) -> Tensor:
    generator = torch.Generator(x_Nd.device).manual_seed(seed)
    return x_Nd[torch.randperm(len(x_Nd), generator=generator, device=x_Nd.device)[:count]]


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _all_reduce(x: Tensor) -> Tensor:
    """The sum over ranks, in a new tensor."""
    if _world_size() == 1:
        return x
    total = x.clone()
    dist.all_reduce(total)
    return total


def _gather_rows(x_Nd: Tensor) -> Tensor:
    """The rows of all ranks, in rank order; every rank must hold the same number."""
    if _world_size() == 1:
        return x_Nd
    parts = [torch.empty_like(x_Nd) for _ in range(_world_size())]
    dist.all_gather(parts, x_Nd.contiguous())
    return torch.cat(parts)
