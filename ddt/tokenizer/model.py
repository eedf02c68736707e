"""The DDT tokenizer: images to T codes and back, and what training needs in one forward pass.

Codes are always V_1..V_T; `config.token_order` says how a language model reads them.
Shapes: B batch, T tokens, d code dimensions; images B C H W in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ddt.tokenizer import checks, flow
from ddt.tokenizer.codebook_metrics import perplexity
from ddt.tokenizer.config import DDTConfig
from ddt.tokenizer.decoder import Decoder
from ddt.tokenizer.encoder import Encoder
from ddt.tokenizer.quantizer import Quantized, Quantizer
from ddt.tokenizer.sampler import Predict, sample
from ddt.tokenizer.saved import SavedModel
from ddt.tokenizer.schedule import TokenSchedule, draw_cut
from ddt.tokenizer.space import LatentSpace, PixelSpace, Space


@dataclass
class TrainingOutput:
    """One training pass: Eq. 1 for each image, and what the other terms and the metrics need."""

    squared_error_B: Tensor  # of the training target
    x0_squared_error_B: Tensor  # of x_0, whatever the target
    t_B: Tensor
    visible_BT: Tensor
    quantized: Quantized


@runtime_checkable
class DrawsCodes(Protocol):
    """What may draw in the decoder's place: `ddt.tokenizer.renderer.Renderer`, which knows the tokenizer."""

    def draw(self, tokenizer: DDTTokenizer, codes_BT: Tensor, num_tokens: int | None = None) -> Tensor: ...


class DDTTokenizer(SavedModel[DDTConfig]):
    """`encode` and `decode` need no training mode; calling the module is one training pass."""

    model_type = "ddt_tokenizer"
    config_class = DDTConfig
    title = "DDT tokenizer"
    tags = ["image-tokenizer", "discrete-diffusion-timestep-tokens"]
    summary = (
        "Images as sequences of discrete diffusion timestep tokens, a prefix code over the times of a "
        "rectified flow (arXiv 2504.14666)."
    )
    usage = (
        "from ddt.tokenizer import DDTTokenizer\n\n"
        "tokenizer = DDTTokenizer.from_pretrained(folder)  # or a hub id\n"
        "images = tokenizer.decode(tokenizer.encode(images))  # [B, 3, S, S] in [-1, 1]"
    )

    vae_digest: Tensor

    def __init__(self, config: DDTConfig) -> None:
        super().__init__(config)
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
            activation=config.activation,
            position_period=config.position_period,
        )
        self.quantizer = Quantizer(
            config.codebook_size,
            config.code_dim,
            normalise_positions=config.num_tokens if config.position_norm else 0,
            ema_decay=config.ema_decay,
            dead_threshold=config.dead_threshold,
            unquantized_steps=config.unquantized_steps,
            entropy_floor=config.entropy_floor,
            noise=config.code_noise,
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
            activation=config.activation,
            qk_norm=config.qk_norm,
            hidden_tokens=config.hidden_tokens,
            token_stream=config.token_stream,
            data_std=config.data_std,
            position_period=config.position_period,
            gate_start=config.gate_start,
            stored_positions=config.decoder_positions == "stored",
        )
        self._space: Space | None = None
        if config.space == "vae":
            # The VAE's weights are not saved with the tokenizer, only what they were; zeros: not known yet.
            self.register_buffer("vae_digest", torch.zeros(32, dtype=torch.uint8))

    @property
    def space(self) -> Space:
        """Pixels, or the VAE's latents; a VAE is loaded at first use.

        ValueError where there is no VAE of that name, or not the one that the tokenizer learned with.
        """
        if self._space is None:
            self._space = self._build_space()
        return self._space

    def _build_space(self) -> Space:
        config = self.config
        if config.space == "pixels":
            return PixelSpace()
        assert config.vae is not None  # the config checks
        space = LatentSpace(config.vae, config.channels, config.downsample)
        found, known = space.digest, bytes(self.vae_digest.tolist())
        if any(known) and known.hex() != found:
            raise ValueError(
                f"vae = {config.vae!r}: its weights have the digest {found[:12]}…, this tokenizer was "
                f"trained with those of {known.hex()[:12]}…"
            )
        self.vae_digest.copy_(torch.tensor(list(bytes.fromhex(found)), dtype=torch.uint8))
        return space

    def forward(
        self, images_BCHW: Tensor, step: int, generator: torch.Generator | None = None
    ) -> TrainingOutput:
        """One pass of Eq. 1 at random times; `TokenizerLoss.finish_step` then moves the codebook.

        `step` counts optimizer steps: quantization begins at `config.unquantized_steps`.
        """
        config = self.config
        checks.check_shape(images_BCHW, config.image_size)
        x0_BCHW = self.space.from_images(images_BCHW)
        quantized = self.quantizer(
            self.encoder(x0_BCHW), step, entropy=config.entropy_weight > 0, generator=generator
        )
        drawn_on = generator.device if generator is not None else x0_BCHW.device
        noise_BCHW = torch.randn(x0_BCHW.shape, generator=generator, device=drawn_on).to(x0_BCHW.device)
        t_B = flow.sample_times(
            len(x0_BCHW), config.time_sampling, config.time_power, generator, x0_BCHW.device
        )
        cut_B = draw_cut(
            len(t_B), config.num_tokens, config.tail_dropout, config.condition_dropout, generator, t_B.device
        )
        visible_BT = self.schedule.visible(t_B, cut_B)
        x_BCHW = flow.add_noise(x0_BCHW, noise_BCHW, t_B)
        prediction_BCHW = self.decoder(x_BCHW, t_B, quantized.vectors_BTd, visible_BT)
        target_BCHW = flow.training_target(x0_BCHW, noise_BCHW, config.target)
        error_B = flow.squared_error_per_image(prediction_BCHW, target_BCHW)
        # For the velocity the error of the implied x_0 is t² times as large.
        x0_error_B = error_B if config.target == "x0" else error_B * t_B**2
        return TrainingOutput(error_B, x0_error_B.detach(), t_B, visible_BT, quantized)

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
        *,
        guidance: float = 1.0,
        renderer: DrawsCodes | None = None,
    ) -> Tensor:
        """float32 images [B, 3, S, S] in [-1, 1] of codes V_1..V_T.

        `num_steps` denoising steps (default `config.decode_steps`; the paper's is T), seeing only the first
        `num_tokens` tokens (default all). Noise comes from `generator`; without one it is always the same.
        `guidance` above 1 moves each prediction away from the one without tokens (classifier-free guidance,
        not in the paper), which a tokenizer trained with `condition_dropout` knows. A `renderer` trained on
        this tokenizer's codes draws in its place, in one pass: there are then no steps, noise or guidance.
        Raises ValueError for codes of a wrong shape or range, for numbers out of range, and for a renderer of
        another tokenizer.
        """
        config = self.config
        codes_BT = checks.check_codes(codes_BT, config.num_tokens, config.codebook_size)
        if renderer is not None:
            if not isinstance(renderer, DrawsCodes):
                raise ValueError(f"renderer is a {type(renderer).__name__}: expected a Renderer")
            if num_steps is not None or guidance != 1:
                raise ValueError("renderer: draws in one pass; expected neither num_steps nor guidance")
            return renderer.draw(self, codes_BT, num_tokens)
        num_steps = config.decode_steps if num_steps is None else num_steps
        checks.check_count("num_steps", num_steps, 1)
        if num_tokens is not None:
            checks.check_count("num_tokens", num_tokens, 0, config.num_tokens)
        checks.check_guidance(guidance, config.condition_dropout)
        vectors_BTd = self.quantizer.codebook_Kd[codes_BT.to(self.device)]
        shape = (config.channels, config.grid_side, config.grid_side)
        noise_BCHW = _draw_noise(len(codes_BT), shape, generator).to(self.device)
        x_BCHW = sample(
            self._predictor(vectors_BTd, guidance),
            noise_BCHW,
            self.schedule,
            num_steps,
            config.target,
            num_tokens,
            clip=1.0 if config.space == "pixels" else None,
        )
        return self.space.to_images(x_BCHW)

    @torch.no_grad()
    def estimate(
        self,
        images_BCHW: Tensor,
        codes_BT: Tensor,
        t: float,
        num_tokens: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """x_0 as one prediction from (x_t, V_1..V_k(t)) implies it: float32 images [B, 3, S, S].

        x_t is made of `images_BCHW` at time `t` in [0, 1] with noise from `generator` (as `decode`); at most
        `num_tokens` of the prefix are given. Raises ValueError as `encode` and `decode`.
        """
        config = self.config
        checks.check_images(images_BCHW, config.image_size)
        codes_BT = checks.check_codes(codes_BT, config.num_tokens, config.codebook_size)
        if num_tokens is not None:
            checks.check_count("num_tokens", num_tokens, 0, config.num_tokens)
        x0_BCHW = self.space.from_images(images_BCHW.to(self.device, torch.float32))
        noise_BCHW = _draw_noise(len(codes_BT), tuple(x0_BCHW.shape[1:]), generator).to(self.device)
        t_B = torch.full((len(codes_BT),), t, device=self.device)
        at_most_B = None if num_tokens is None else torch.full_like(t_B, num_tokens, dtype=torch.int64)
        x_BCHW = flow.add_noise(x0_BCHW, noise_BCHW, t_B)
        vectors_BTd = self.quantizer.codebook_Kd[codes_BT.to(self.device)]
        prediction_BCHW = self.decoder(x_BCHW, t_B, vectors_BTd, self.schedule.visible(t_B, at_most_B))
        return self.space.to_images(flow.predicted_x0(prediction_BCHW, x_BCHW, t_B, config.target))

    def _predictor(self, vectors_BTd: Tensor, guidance: float) -> Predict:
        """The decoder for these codes: (x, t, visible) -> prediction."""
        tokens = self.decoder.read_tokens(vectors_BTd) if self.decoder.separate else None

        def predict(x_BCHW: Tensor, t_B: Tensor, visible_BT: Tensor) -> Tensor:
            with_tokens = self.decoder(x_BCHW, t_B, vectors_BTd, visible_BT, tokens)
            if guidance == 1:
                return with_tokens
            without = self.decoder(x_BCHW, t_B, vectors_BTd, torch.zeros_like(visible_BT), tokens)
            return torch.lerp(without, with_tokens, guidance)

        return predict

    def facts(self) -> dict[str, object]:
        config, hits_K = self.config, self.quantizer.hits_K
        used = f"{perplexity(hits_K / hits_K.sum()):.1f}" if self.quantizer.ready else "not quantized yet"
        return {
            "image": f"{config.image_size} x {config.image_size} px, {config.space}",
            "tokens an image": config.num_tokens,
            "codebook": f"{config.codebook_size:,} x {config.code_dim}",
            "bits an image": config.bits_per_image,
            "order for a language model": config.token_order,
            "denoising steps by default": config.decode_steps,
            "encoder parameters": sum(p.numel() for p in self.encoder.parameters()),
            "decoder parameters": sum(p.numel() for p in self.decoder.parameters()),
            "perplexity of the codebook in training": used,
        }


def _draw_noise(
    count: int, shape: tuple[int, ...], generator: torch.Generator | Sequence[torch.Generator] | None
) -> Tensor:
    if generator is None or isinstance(generator, torch.Generator):
        one = torch.Generator().manual_seed(0) if generator is None else generator
        return torch.randn((count, *shape), generator=one, device=one.device)
    if not isinstance(generator, Sequence):
        raise ValueError(f"generator is a {type(generator).__name__}: expected a torch.Generator or a list")
    if len(generator) != count:
        raise ValueError(f"generator: a list of {len(generator)} for {count} images; expected one for each")
    if count == 0:
        return torch.empty((0, *shape))
    return torch.stack([torch.randn(shape, generator=each, device=each.device) for each in generator])
