"""The DDT tokenizer: images to T codes and back, and what training needs in one forward pass.

Codes are always V_1..V_T; `config.token_order` says how a language model reads them.
Shapes: B batch, T tokens, d code dimensions; images B C H W in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ddt.tokenizer import checks, flow, folder
from ddt.tokenizer.config import DDTConfig
from ddt.tokenizer.decoder import Decoder
from ddt.tokenizer.encoder import Encoder
from ddt.tokenizer.quantizer import Quantized, Quantizer
from ddt.tokenizer.sampler import sample
from ddt.tokenizer.schedule import TokenSchedule
from ddt.tokenizer.space import LatentSpace, PixelSpace, Space


@dataclass
class TrainingOutput:
    """One training pass: Eq. 1 for each image, and what the other terms and the metrics need."""

    squared_error_B: Tensor  # of the training target
    x0_squared_error_B: Tensor  # of x_0, whatever the target
    t_B: Tensor
    visible_BT: Tensor
    quantized: Quantized


class DDTTokenizer(nn.Module):
    """`encode` and `decode` need no training mode; calling the module is one training pass."""

    def __init__(self, config: DDTConfig) -> None:
        super().__init__()
        self.config = config
        self.schedule = TokenSchedule(
            config.num_tokens, config.stage_ends, config.stage_tokens, config.prefix
        )
        self.encoder = Encoder(
            side=config.grid_side,
            channels=config.channels,
            patch=config.encoder_patch,
            num_tokens=config.num_tokens,
            code_dim=config.code_dim,
            depth=config.encoder_depth,
            width=config.encoder_width,
            heads=config.encoder_heads,
            mlp_ratio=config.mlp_ratio,
            activation=config.activation,
            position_period=config.position_period,
            regional_blocks=config.regional_blocks,
        )
        self.quantizer = Quantizer(
            config.codebook_size,
            config.code_dim,
            normalise_positions=config.num_tokens if config.position_norm else 0,
            ema_decay=config.ema_decay,
            dead_threshold=config.dead_threshold,
            unquantized_steps=config.unquantized_steps,
            entropy_floor=config.entropy_floor,
        )
        self.decoder = Decoder(
            side=config.grid_side,
            channels=config.channels,
            patch=config.decoder_patch,
            num_tokens=config.num_tokens,
            code_dim=config.code_dim,
            depth=config.decoder_depth,
            width=config.decoder_width,
            heads=config.decoder_heads,
            mlp_ratio=config.mlp_ratio,
            activation=config.activation,
            qk_norm=config.qk_norm,
            hidden_tokens=config.hidden_tokens,
            data_std=config.data_std,
            position_period=config.position_period,
            regional_blocks=config.regional_blocks,
            gate_start=config.gate_start,
        )
        self._space: Space | None = None

    @property
    def space(self) -> Space:
        """Pixels, or the VAE's latents; a VAE is loaded at first use."""
        if self._space is None:
            self._space = _build_space(self.config)
        return self._space

    @property
    def device(self) -> torch.device:
        return self.quantizer.codebook_Kd.device

    @property
    def digest(self) -> str:
        """Hex sha256 over configuration and weights: what token shards name as their maker."""
        return folder.digest(self.config, self.state_dict())

    def forward(
        self, images_BCHW: Tensor, step: int, generator: torch.Generator | None = None
    ) -> TrainingOutput:
        """One pass of Eq. 1 at random times; in training mode it also moves the codebook.

        `step` counts optimizer steps: quantization begins at `config.unquantized_steps`.
        """
        config = self.config
        x0_BCHW = self.space.from_images(images_BCHW)
        quantized = self.quantizer(self.encoder(x0_BCHW), step, entropy=config.entropy_weight > 0)
        drawn_on = generator.device if generator is not None else x0_BCHW.device
        noise_BCHW = torch.randn(x0_BCHW.shape, generator=generator, device=drawn_on).to(x0_BCHW.device)
        t_B = flow.sample_times(
            len(x0_BCHW), config.time_sampling, config.time_power, generator, x0_BCHW.device
        )
        visible_BT = self.schedule.visible(t_B, self._draw_cut(t_B, generator))
        x_BCHW = flow.add_noise(x0_BCHW, noise_BCHW, t_B)
        prediction_BCHW = self.decoder(x_BCHW, t_B, quantized.vectors_BTd, visible_BT)
        target_BCHW = flow.training_target(x0_BCHW, noise_BCHW, config.target)
        error_B = flow.squared_error_per_image(prediction_BCHW, target_BCHW)
        # For the velocity the error of the implied x_0 is t² times as large.
        x0_error_B = error_B if config.target == "x0" else error_B * t_B**2
        return TrainingOutput(error_B, x0_error_B.detach(), t_B, visible_BT, quantized)

    def _draw_cut(self, t_B: Tensor, generator: torch.Generator | None) -> Tensor | None:
        """How many tokens at most each sample sees: T, or fewer by tail and condition dropout."""
        tail, condition = self.config.tail_dropout, self.config.condition_dropout
        if tail == 0 and condition == 0:
            return None
        drawn_on = generator.device if generator is not None else t_B.device
        kind_B, length_B = torch.rand(2, len(t_B), generator=generator, device=drawn_on).to(t_B.device)
        num_tokens = self.config.num_tokens
        cut_B = torch.where(kind_B < tail, (length_B * (num_tokens + 1)).long(), num_tokens)
        return torch.where(kind_B >= 1 - condition, 0, cut_B)

    @torch.no_grad()
    def encode(self, images_BCHW: Tensor) -> Tensor:
        """int64 codes [B, T] in 0..K−1 of float images [B, 3, S, S] in [-1, 1]; computed in float32.

        Raises ValueError naming the shape, dtype or range given and what is allowed.
        """
        checks.check_images(images_BCHW, self.config.image_size)
        x_BCHW = images_BCHW.to(self.device, torch.float32)
        with torch.autocast(self.device.type, enabled=False):
            return self.quantizer.lookup(self.encoder(self.space.from_images(x_BCHW)))

    @torch.no_grad()
    def decode(
        self,
        codes_BT: Tensor,
        num_steps: int | None = None,
        num_tokens: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """float32 images [B, 3, S, S] in [-1, 1] of codes V_1..V_T.

        `num_steps` denoising steps (default `config.decode_steps`; the paper's is T), seeing only the first
        `num_tokens` tokens (default all). Noise comes from `generator`; without one it is always the same.
        Raises ValueError for codes of a wrong shape or range, and for numbers out of range.
        """
        config = self.config
        num_steps = config.decode_steps if num_steps is None else num_steps
        checks.check_codes(codes_BT, config.num_tokens, config.codebook_size)
        checks.check_count("num_steps", num_steps, 1)
        if num_tokens is not None:
            checks.check_count("num_tokens", num_tokens, 0, config.num_tokens)
        vectors_BTd = self.quantizer.codebook_Kd[codes_BT.to(self.device)]
        shape = (config.channels, config.grid_side, config.grid_side)
        noise_BCHW = _draw_noise(len(codes_BT), shape, generator).to(self.device)
        x_BCHW = sample(
            lambda x, t, visible: self.decoder(x, t, vectors_BTd, visible),
            noise_BCHW,
            self.schedule,
            num_steps,
            config.target,
            num_tokens,
            clip=1.0 if config.space == "pixels" else None,
        )
        return self.space.to_images(x_BCHW)

    def save_pretrained(self, path: str | Path, made_from: dict[str, str] | None = None) -> None:
        """Writes model.safetensors, config.json (with `digest`, `made_from`), then the `_COMPLETE` marker."""
        folder.save(Path(path), self.config, self.state_dict(), made_from or {})

    @classmethod
    def from_pretrained(cls, path: str | Path) -> DDTTokenizer:
        """The tokenizer saved in a folder, in eval mode, bit for bit.

        Raises ValueError for a folder that is missing, incomplete, damaged or of another version.
        """
        config, tensors = folder.load(Path(path))
        model = cls(config)
        model.load_state_dict(tensors)
        return model.eval()


def _draw_noise(
    count: int, shape: tuple[int, ...], generator: torch.Generator | Sequence[torch.Generator] | None
) -> Tensor:
    if generator is None or isinstance(generator, torch.Generator):
        one = torch.Generator().manual_seed(0) if generator is None else generator
        return torch.randn((count, *shape), generator=one, device=one.device)
    return torch.stack([torch.randn(shape, generator=each, device=each.device) for each in generator])


def _build_space(config: DDTConfig) -> Space:
    if config.space == "pixels":
        return PixelSpace()
    if config.vae is None:
        raise ValueError("vae = null: expected a Diffusers AutoencoderKL folder or hub id with space = vae")
    return LatentSpace(config.vae, config.channels, config.downsample)
