"""The DDT tokenizer's configuration: every size, and every point the paper leaves open as an option.

`presets()["paper"]` settles the open points as the paper's text reads; `presets()["selftok"]` as the
authors' follow-up (Selftok) does; `presets()["debug"]` runs in seconds on one core.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ddt.config import Count, Fraction, Natural, Positive, Range, build


@dataclass(frozen=True)
class DDTConfig:
    """One DDT tokenizer. `__post_init__` checks what the annotations can't: how the values fit together."""

    # Space. `pixels`: channels 3, downsample 1. `vae`: a Diffusers AutoencoderKL folder or hub id in `vae`.
    image_size: Count
    space: Literal["pixels", "vae"]
    vae: str | None
    channels: Count
    downsample: Count
    # Tokens.
    num_tokens: Count
    codebook_size: Annotated[int, Range(2)]
    code_dim: Count
    # Encoder: two streams of the same width, joined in attention.
    encoder_patch: Count
    encoder_depth: Count
    encoder_width: Count
    encoder_heads: Count
    # Decoder: MMDiT.
    decoder_patch: Count
    decoder_depth: Count
    decoder_width: Count
    decoder_heads: Count
    qk_norm: bool
    activation: Literal[
        "gelu_tanh", "gelu"
    ]  # SD3 has the tanh form; on CPU in bf16 the exact one is 3x faster
    # The start of training. On a small grid a period of 10,000 makes all positions look alike; decoder gates
    # start at `gate_start` (0: adaLN-zero).
    position_period: Positive
    gate_start: float
    # The decoder's image positions: `sincos` by the period above; `stored` the same at first, but kept with
    # the weights, so that those of the SD3 checkpoint that training starts from can take their place.
    decoder_positions: Literal["sincos", "stored"]
    # Time to prefix. `stages`: piecewise linear through (end of stage, tokens in stage). `ceil`: k(0) = 0;
    # `inclusive`: floor + 1, so that one token is visible at t = 0.
    schedule: Literal["linear", "stages"]
    stage_ends: tuple[Fraction, ...]
    stage_tokens: tuple[Count, ...]
    prefix: Literal["ceil", "inclusive"]
    # What the decoder gets in place of a hidden token: a zero code, or a zero code that nothing attends to.
    hidden_tokens: Literal["zero", "mask"]
    # `joint`: tokens attend to the noisy image as well. `separate`: each only to the tokens before it,
    # whatever the time, so that decoding computes the token stream once for all its steps.
    token_stream: Literal["joint", "separate"]
    # The decoder sees x_t and predicts x_0 (null), or, for data of this standard deviation, sees an x_t that
    # fades with what it says of x_0, pure noise not at all, and predicts what the best linear guess misses.
    data_std: Positive | None
    # Training. `power`: t = u^(1/time_power), denser near pure noise, where the tokens carry the image.
    target: Literal["x0", "velocity"]
    time_sampling: Literal["uniform", "power"]
    time_power: Positive
    tail_dropout: Fraction  # share of samples whose prefix is cut at a uniformly drawn length
    condition_dropout: Fraction  # share of samples with no token at all
    position_norm: bool  # centre and scale z at each token position before it is put on the unit sphere
    # Noise of this length on the unit vectors in training, before they are quantized: codes then depend less
    # on what the decoder hardly needs, and a language model learns them faster (0: none, as in the paper).
    code_noise: Annotated[float, Range(0)]
    unquantized_steps: Natural
    ema_decay: Fraction
    dead_threshold: Annotated[float, Range(0)]  # in expected hits of a code per step
    commitment_weight: Annotated[float, Range(0)]
    commitment_on: Literal["all", "visible"]
    entropy_weight: Annotated[float, Range(0)]
    entropy_floor: Fraction  # the entropy term acts while perplexity / codebook_size is below
    # Use.
    token_order: Literal["V_1..V_T", "V_T..V_1"]  # how a language model reads the codes
    decode_steps: Count

    def __post_init__(self) -> None:
        if self.space == "pixels" and (self.channels, self.downsample) != (3, 1):
            raise ValueError(
                f"channels = {self.channels}, downsample = {self.downsample}: in pixel space they are 3 and 1"
            )
        if self.space == "pixels" and self.vae is not None:
            raise ValueError(f"vae = {self.vae!r}: expected null in pixel space")
        if self.space == "vae" and self.vae is None:
            raise ValueError(
                "vae = null: expected a Diffusers AutoencoderKL folder or hub id with space = vae"
            )
        if self.image_size % self.downsample:
            raise ValueError(
                f"image_size = {self.image_size}: not a multiple of downsample = {self.downsample}"
            )
        for part in ("encoder", "decoder"):
            patch, width, heads = (getattr(self, f"{part}_{name}") for name in ("patch", "width", "heads"))
            if self.grid_side % patch:
                raise ValueError(f"{part}_patch = {patch}: does not divide the side of {self.grid_side}")
            if width % heads or width % 4:
                raise ValueError(
                    f"{part}_width = {width}: expected a multiple of 4 and of {part}_heads = {heads}"
                )
        if self.tail_dropout + self.condition_dropout > 1:
            raise ValueError(
                f"tail_dropout = {self.tail_dropout}, condition_dropout = {self.condition_dropout}: expected "
                "shares of samples that add up to 1 at most"
            )
        if self.token_stream == "separate" and self.hidden_tokens != "mask":
            raise ValueError(
                f"hidden_tokens = {self.hidden_tokens!r}: expected 'mask' with token_stream = separate, "
                "whose tokens do not depend on which are hidden"
            )
        if self.target == "velocity" and self.data_std is not None:
            raise ValueError(
                f"target = velocity: expected x0 with data_std = {self.data_std}, whose decoder sees no "
                "noise at t = 1"
            )
        if self.time_sampling == "uniform" and self.time_power != 1:
            raise ValueError(f"time_power = {self.time_power}: expected 1 with time_sampling = uniform")
        self._check_stages()

    def _check_stages(self) -> None:
        ends, tokens = self.stage_ends, self.stage_tokens
        if self.schedule == "linear":
            if ends or tokens:
                raise ValueError("stage_ends, stage_tokens: expected empty lists with schedule = linear")
            return
        rising = all(a < b for a, b in zip((0.0, *ends), ends, strict=False))
        if not ends or not rising or ends[-1] != 1.0:
            raise ValueError(f"stage_ends = {list(ends)}: expected rising times that end at 1.0")
        if len(tokens) != len(ends) or sum(tokens) != self.num_tokens:
            raise ValueError(
                f"stage_tokens = {list(tokens)}: expected {len(ends)} counts, one for each stage, "
                f"that add up to num_tokens = {self.num_tokens}"
            )

    @property
    def grid_side(self) -> int:
        """Side of what the encoder sees and the decoder draws: pixels, or latent cells."""
        return self.image_size // self.downsample

    @property
    def encoder_image_tokens(self) -> int:
        return (self.grid_side // self.encoder_patch) ** 2

    @property
    def decoder_image_tokens(self) -> int:
        return (self.grid_side // self.decoder_patch) ** 2

    @property
    def bits_per_image(self) -> int:
        return self.num_tokens * (self.codebook_size - 1).bit_length()

    def replace(self, **changes: Any) -> DDTConfig:
        """The same configuration with some fields changed, checked as a whole."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return build(DDTConfig, {**fields, **changes})


def presets() -> dict[str, DDTConfig]:
    """`paper`, `selftok` (the paper's sizes, Selftok's answers, T = 512 as its stages need) and `debug`."""
    paper = DDTConfig(
        image_size=256,
        space="vae",
        vae="stabilityai/stable-diffusion-3-medium-diffusers",
        channels=16,
        downsample=8,
        num_tokens=480,
        codebook_size=65_536,
        code_dim=16,
        encoder_patch=1,
        encoder_depth=20,
        encoder_width=256,
        encoder_heads=4,
        decoder_patch=2,
        decoder_depth=24,
        decoder_width=1536,
        decoder_heads=24,
        qk_norm=False,
        activation="gelu_tanh",
        position_period=10_000.0,
        gate_start=0.0,
        decoder_positions="sincos",
        schedule="linear",
        stage_ends=(),
        stage_tokens=(),
        prefix="ceil",
        hidden_tokens="zero",
        token_stream="joint",
        data_std=None,
        target="x0",
        time_sampling="uniform",
        time_power=1.0,
        tail_dropout=0.0,
        condition_dropout=0.0,
        position_norm=False,
        code_noise=0.0,
        unquantized_steps=2000,
        ema_decay=0.99,
        dead_threshold=0.2,
        commitment_weight=1.0,
        commitment_on="all",
        entropy_weight=0.0,
        entropy_floor=0.6,
        token_order="V_1..V_T",
        decode_steps=480,
    )
    selftok = paper.replace(
        encoder_patch=2,
        decoder_positions="stored",  # it starts from SD3-medium
        num_tokens=512,
        schedule="stages",
        stage_ends=(0.2, 0.4, 0.6, 0.8, 1.0),
        stage_tokens=(192, 184, 72, 48, 16),
        prefix="inclusive",
        hidden_tokens="mask",
        target="velocity",
        condition_dropout=0.1,
        entropy_weight=0.5,
        token_order="V_T..V_1",
        decode_steps=50,
    )
    debug = paper.replace(
        image_size=16,
        space="pixels",
        vae=None,
        channels=3,
        downsample=1,
        num_tokens=8,
        codebook_size=32,
        code_dim=4,
        encoder_patch=4,
        encoder_depth=2,
        encoder_width=32,
        encoder_heads=2,
        decoder_patch=4,
        decoder_depth=2,
        decoder_width=32,
        decoder_heads=2,
        unquantized_steps=2,
        decode_steps=4,
    )
    return {"paper": paper, "selftok": selftok, "debug": debug}
