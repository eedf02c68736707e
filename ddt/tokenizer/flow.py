"""Rectified flow: x_t = t·ε + (1−t)·x_0 with t = 1 pure noise, and the loss of Eq. 1. Shapes: B C H W."""

from __future__ import annotations

import torch
from torch import Tensor

from ddt.tokenizer.layers import at_least_float32


def _column(t_B: Tensor) -> Tensor:
    return t_B[:, None, None, None]


def _spread(t: Tensor, data_std: float) -> Tensor:
    """Standard deviation of x_t for data of that one."""
    return ((1 - t).square() * data_std**2 + t.square()).sqrt()


def add_noise(x0_BCHW: Tensor, noise_BCHW: Tensor, t_B: Tensor) -> Tensor:
    """x_t = t·ε + (1−t)·x_0."""
    return torch.lerp(x0_BCHW, noise_BCHW, _column(t_B))


def training_target(x0_BCHW: Tensor, noise_BCHW: Tensor, target: str) -> Tensor:
    """What the decoder predicts: x_0 (Eq. 1), or the velocity ε − x_0."""
    return x0_BCHW if target == "x0" else noise_BCHW - x0_BCHW


def best_guess(x_BCHW: Tensor, t_B: Tensor, data_std: float) -> Tensor:
    """The linear estimate of x_0 from x_t of least squared error, for data of mean 0 and that deviation.

    (1 − t)σ² / ((1 − t)²σ² + t²) · x_t: x_t itself at t = 0, nothing at t = 1. Not in the paper, which gives
    the decoder x_t; it is the skip of an EDM-style denoiser (arXiv 2206.00364, section 5).
    """
    t = _column(t_B)
    return x_BCHW * ((1 - t) * data_std**2 / _spread(t, data_std).square())


def guess_error(t_B: Tensor, data_std: float) -> Tensor:
    """Root mean square error of `best_guess` [B, 1, 1, 1]: σt / √((1 − t)²σ² + t²), from 0 to σ."""
    t = _column(t_B)
    return data_std * t / _spread(t, data_std)


def faded(x_BCHW: Tensor, t_B: Tensor, data_std: float) -> Tensor:
    """x_t for a network to look at: as large as the data times the root of its correlation with x_0.

    σ√ρ · x_t / √((1 − t)²σ² + t²) with ρ = (1 − t)σ / √((1 − t)²σ² + t²). Between EDM's c_in (ρ⁰), with
    which pure noise is seen as well as data, and the best linear guess (ρ¹), which hides x_t too early.
    """
    t = _column(t_B)
    spread = _spread(t, data_std)
    return x_BCHW * (data_std / spread) * ((1 - t) * data_std / spread).sqrt()


def predicted_x0(prediction_BCHW: Tensor, x_BCHW: Tensor, t_B: Tensor, target: str) -> Tensor:
    """x_0 as the prediction made at (x_t, t) implies it."""
    return prediction_BCHW if target == "x0" else x_BCHW - _column(t_B) * prediction_BCHW


def step(x_BCHW: Tensor, x0_BCHW: Tensor, t: float, next_t: float) -> Tensor:
    """One Euler step from t to next_t < t along v = (x_t − x_0) / t."""
    return torch.lerp(x0_BCHW, x_BCHW, next_t / t)


def sample_times(
    batch: int, time_sampling: str, power: float, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """t_B in [0, 1]: uniform, or with density growing as t^(power − 1)."""
    drawn_on = generator.device if generator is not None else device
    u_B = torch.rand(batch, generator=generator, device=drawn_on).to(device)
    return u_B if time_sampling == "uniform" else u_B ** (1 / power)


def squared_error_per_image(prediction_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """Eq. 1 for each image, as a mean over its elements; [B] in float32 or what is wider."""
    error_BCHW = at_least_float32(prediction_BCHW) - at_least_float32(target_BCHW)
    return error_BCHW.square().flatten(1).mean(1)
