"""The renderer: a second decoder that draws an image from the same frozen tokens in one pass (Selftok's).

Not in the paper. A decoder without noise: a learned mask token at fixed positions in place of the noisy
image, joined in attention with the token stream. There is no time, so blocks are the encoder's, without
modulation. It learns the mean of the images that a token sequence stands for.
Shapes: B batch, T tokens, L image patches, D width, d code dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from ddt.config import Count, Fraction, Positive, Range
from ddt.tokenizer import checks, folder
from ddt.tokenizer.config import DDTConfig
from ddt.tokenizer.encoder import EncoderBlock
from ddt.tokenizer.flow import squared_error_per_image
from ddt.tokenizer.layers import (
    at_least_float32,
    compute_dtype,
    grid_points,
    sincos_1d,
    sincos_2d,
    unpatchify,
)
from ddt.tokenizer.model import DDTTokenizer
from ddt.tokenizer.saved import SavedModel
from ddt.tokenizer.schedule import draw_cut, prefix_mask


@dataclass(frozen=True)
class RendererSizes:
    """What is decided for a renderer; images and tokens are the tokenizer's."""

    patch: Count
    depth: Count
    width: Annotated[int, Range(4)]
    heads: Count
    activation: Literal["gelu_tanh", "gelu"]
    position_period: Positive
    tail_dropout: Fraction  # share of samples whose tokens are cut at a uniformly drawn length

    @classmethod
    def of_decoder(cls, config: DDTConfig) -> RendererSizes:
        """As large as the tokenizer's own decoder, trained on as many cut prefixes."""
        return cls(
            patch=config.decoder_patch,
            depth=config.decoder_depth,
            width=config.decoder_width,
            heads=config.decoder_heads,
            activation=config.activation,
            position_period=config.position_period,
            tail_dropout=config.tail_dropout,
        )

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width = {self.width}: expected a multiple of 4 and of heads = {self.heads}")


@dataclass(frozen=True)
class RendererConfig:
    """A renderer of one tokenizer, known by its configuration and codebook."""

    sizes: RendererSizes
    tokenizer: DDTConfig
    codebook_digest: str

    def __post_init__(self) -> None:
        if self.tokenizer.grid_side % self.sizes.patch:
            raise ValueError(
                f"patch = {self.sizes.patch}: does not divide the side of {self.tokenizer.grid_side}"
            )


class Renderer(SavedModel[RendererConfig]):
    """Code vectors of a tokenizer to x_0 in one pass. `DDTTokenizer.decode(..., renderer=...)` uses it."""

    model_type = "ddt_renderer"
    config_class = RendererConfig
    title = "DDT renderer"
    tags = ["image-tokenizer", "discrete-diffusion-timestep-tokens"]
    summary = "Draws the images of one DDT tokenizer's tokens in a single pass."
    usage = (
        "from ddt.tokenizer import Renderer\n\n"
        "images = tokenizer.decode(codes, renderer=Renderer.from_pretrained(folder))"
    )

    image_positions: Tensor
    token_positions: Tensor

    def __init__(self, config: RendererConfig) -> None:
        super().__init__(config)
        sizes, tokenizer = config.sizes, config.tokenizer
        width, period = sizes.width, sizes.position_period
        grid = grid_points(tokenizer.grid_side // sizes.patch)
        positions = torch.arange(tokenizer.num_tokens)
        self.register_buffer("image_positions", sincos_2d(grid, width, period), persistent=False)
        self.register_buffer("token_positions", sincos_1d(positions, width, period), persistent=False)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.embed_token = nn.Linear(tokenizer.code_dim, width)
        self.blocks = nn.ModuleList(
            EncoderBlock(width, sizes.heads, sizes.activation, last=i == sizes.depth - 1)
            for i in range(sizes.depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.project = nn.Linear(width, tokenizer.channels * sizes.patch**2)

    @classmethod
    def of(cls, tokenizer: DDTTokenizer, sizes: RendererSizes) -> Renderer:
        """An untrained renderer for a tokenizer as it is now."""
        return cls(RendererConfig(sizes, tokenizer.config, codebook_digest(tokenizer)))

    def check_fits(self, tokenizer: DDTTokenizer) -> None:
        """ValueError if it was trained on the codes of another tokenizer."""
        found = codebook_digest(tokenizer)
        if found != self.config.codebook_digest:
            raise ValueError(
                f"renderer: was trained on the codebook {self.config.codebook_digest[:12]}…, "
                f"this tokenizer has {found[:12]}…"
            )

    def forward(self, codes_BTd: Tensor, visible_BT: Tensor) -> Tensor:
        """x_0 [B, C, S, S] in float32 of unit code vectors of which visible_BT are given (0 for the rest)."""
        dtype = compute_dtype(codes_BTd)
        shown_BTd = codes_BTd * (visible_BT[..., None] * codes_BTd.shape[-1] ** 0.5)
        token_BTD = (self.embed_token(shown_BTd) + self.token_positions).to(dtype)
        image_LD = (self.mask_token + self.image_positions).to(dtype)
        image_BLD = image_LD.expand(len(codes_BTd), -1, -1)
        for block in self.blocks:
            image_BLD, token_BTD = block(image_BLD, token_BTD)
        patches_BLP = at_least_float32(self.project(self.norm(image_BLD)))
        return unpatchify(patches_BLP, self.config.sizes.patch, self.config.tokenizer.channels)

    @torch.no_grad()
    def draw(self, tokenizer: DDTTokenizer, codes_BT: Tensor, num_tokens: int | None = None) -> Tensor:
        """float32 images [B, 3, S, S] in [-1, 1] of checked codes, seeing the first `num_tokens` (None: all).

        ValueError if it is not this tokenizer's, or for a number out of range.
        """
        self.check_fits(tokenizer)
        total = tokenizer.config.num_tokens
        count = total if num_tokens is None else num_tokens
        checks.check_count("num_tokens", count, 0, total)
        vectors_BTd = tokenizer.quantizer.codebook_Kd[codes_BT.to(tokenizer.device)]
        at_most_B = torch.full((len(codes_BT),), count, device=tokenizer.device)
        return tokenizer.space.to_images(self(vectors_BTd, prefix_mask(at_most_B, total)))

    def facts(self) -> dict[str, object]:
        return {
            "parameters": sum(p.numel() for p in self.parameters()),
            "codebook": self.config.codebook_digest,
        }


def codebook_digest(tokenizer: DDTTokenizer) -> str:
    """Hex sha256 over the tokenizer's configuration and codes: the same codes mean the same images."""
    return folder.digest(tokenizer.config, {"codebook_Kd": tokenizer.quantizer.codebook_Kd})


class RendererLoss:
    """Callable for the training loop: squared error of x_0 drawn from the frozen tokenizer's codes."""

    def __init__(self, tokenizer: DDTTokenizer, tail_dropout: float) -> None:
        self.tokenizer, self.tail_dropout = tokenizer, tail_dropout

    def __call__(
        self, model: nn.Module, images_BCHW: Tensor, step: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        tokenizer = self.tokenizer
        codes_BT = tokenizer.encode(images_BCHW)
        batch, num_tokens = codes_BT.shape
        cut_B = draw_cut(batch, num_tokens, self.tail_dropout, 0.0, generator, codes_BT.device)
        if cut_B is None:
            cut_B = torch.full((batch,), num_tokens, device=codes_BT.device)
        x0_BCHW = model(tokenizer.quantizer.codebook_Kd[codes_BT], prefix_mask(cut_B, num_tokens))
        with torch.no_grad():
            target_BCHW = tokenizer.space.from_images(images_BCHW)
        loss = squared_error_per_image(x0_BCHW, target_BCHW).mean()
        return loss, {"loss": loss.detach()}
