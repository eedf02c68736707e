"""The spatial tokenizer's configuration: its own sizes, and what it takes over from a DDT tokenizer's."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ddt.config import Count, Fraction, Natural, Range, build
from ddt.tokenizer.config import DDTConfig


@dataclass(frozen=True)
class SpatialSizes:
    """What is decided for a spatial tokenizer alone."""

    width: Count  # channels at full resolution; they double with each halving, up to four times as many
    blocks: Count  # residual blocks a resolution


@dataclass(frozen=True)
class SpatialConfig:
    """One spatial tokenizer. Fields named as in DDTConfig mean the same, as in SpatialSizes too."""

    image_size: Count
    num_tokens: Count
    codebook_size: Annotated[int, Range(2)]
    code_dim: Count
    width: Count
    blocks: Count
    position_norm: bool
    code_noise: Annotated[float, Range(0)]
    unquantized_steps: Natural
    ema_decay: Fraction
    dead_threshold: Annotated[float, Range(0)]
    commitment_weight: Annotated[float, Range(0)]
    entropy_weight: Annotated[float, Range(0)]
    entropy_floor: Fraction
    token_order: Literal["V_1..V_T", "V_T..V_1"]  # V_1..V_T is raster order

    def __post_init__(self) -> None:
        side = math.isqrt(self.num_tokens)
        if side**2 != self.num_tokens:
            raise ValueError(f"num_tokens = {self.num_tokens}: expected a square number, for a square grid")
        halvings = math.log2(self.image_size / side)
        if halvings < 0 or not halvings.is_integer():
            raise ValueError(
                f"image_size = {self.image_size}: expected {side} times a power of two, "
                f"for a grid of {side} x {side} tokens"
            )

    @classmethod
    def like(cls, config: DDTConfig, sizes: SpatialSizes) -> SpatialConfig:
        """A baseline for a DDT tokenizer: as many tokens of as many codes, learned by the same rules.

        Raises ValueError where the tokens do not make a square grid of the image, or for one of VAE latents.
        """
        if config.space != "pixels":
            raise ValueError(f"space = {config.space}: expected pixels with spatial, which works in no other")
        theirs = {f.name for f in dataclasses.fields(config)}
        shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(cls) if f.name in theirs}
        return cls(**shared | {"token_order": "V_1..V_T"}, width=sizes.width, blocks=sizes.blocks)

    @property
    def grid_side(self) -> int:
        return math.isqrt(self.num_tokens)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels at each resolution, from the image's to the grid's."""
        halvings = int(math.log2(self.image_size // self.grid_side))
        return tuple(self.width * min(2**i, 4) for i in range(halvings + 1))

    @property
    def decode_steps(self) -> int:
        return 1

    @property
    def bits_per_image(self) -> int:
        return self.num_tokens * (self.codebook_size - 1).bit_length()

    def replace(self, **changes: Any) -> SpatialConfig:
        """The same configuration with some fields changed, checked as a whole."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return build(SpatialConfig, {**fields, **changes})
