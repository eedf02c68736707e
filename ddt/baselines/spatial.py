"""A VQGAN-class spatial tokenizer: one token a cell of a grid, in raster order, with convolutions around it.

What it shares with the DDT tokenizer, so that comparisons are fair: number of tokens, codebook, quantizer
(the same class and rules), training loop, interface. It departs from VQGAN in that the loss has no perceptual
and no adversarial term: the DDT tokenizer has neither, and PSNR is compared.
Shapes: B batch, T tokens, d code dimensions; G cells a side, T = G²; images B C H W in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ddt.baselines.config import SpatialConfig
from ddt.baselines.convolutions import ConvDecoder, ConvEncoder
from ddt.tokenizer import checks
from ddt.tokenizer.flow import squared_error_per_image
from ddt.tokenizer.quantizer import Quantized, Quantizer
from ddt.tokenizer.saved import SavedModel
from ddt.tokenizer.schedule import prefix_mask


class SpatialTokenizer(SavedModel[SpatialConfig]):
    """`encode` and `decode` as the DDT tokenizer's; calling the module is one training pass."""

    model_type = "spatial_tokenizer"
    config_class = SpatialConfig
    title = "Spatial tokenizer"
    tags = ["image-tokenizer", "vector-quantization"]
    summary = "A grid of codes between convolutions, the baseline of the DDT tokenizer."
    usage = (
        "from ddt.baselines.spatial import SpatialTokenizer\n\n"
        "tokenizer = SpatialTokenizer.from_pretrained(folder)"
    )

    def __init__(self, config: SpatialConfig) -> None:
        super().__init__(config)
        self.encoder = ConvEncoder(config.channels, config.blocks, config.code_dim)
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
        self.decoder = ConvDecoder(config.channels, config.blocks, config.code_dim)

    def forward(
        self, images_BCHW: Tensor, step: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Quantized]:
        """Reconstructions and what the quantizer gave."""
        checks.check_shape(images_BCHW, self.config.image_size)
        quantized = self.quantizer(
            self._vectors(images_BCHW), step, entropy=self.config.entropy_weight > 0, generator=generator
        )
        return self._draw(quantized.vectors_BTd), quantized

    def _vectors(self, images_BCHW: Tensor) -> Tensor:
        return self.encoder(images_BCHW).flatten(2).transpose(1, 2)

    def _draw(self, vectors_BTd: Tensor) -> Tensor:
        side = self.config.grid_side
        # Unit vectors have entries of about 1/sqrt(d): bring them to unit variance, as the DDT decoder does.
        grid_BdGG = vectors_BTd.transpose(1, 2).unflatten(2, (side, side)) * self.config.code_dim**0.5
        return self.decoder(grid_BdGG)

    @torch.no_grad()
    def encode(self, images_BCHW: Tensor) -> Tensor:
        """int64 codes [B, T] in raster order; ValueError as the DDT tokenizer's."""
        checks.check_images(images_BCHW, self.config.image_size)
        with torch.autocast(self.device.type, enabled=False):
            return self.quantizer.lookup(self._vectors(images_BCHW.to(self.device, torch.float32)))

    @torch.no_grad()
    def decode(
        self,
        codes_BT: Tensor,
        num_steps: int | None = None,
        num_tokens: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """float32 images [B, 3, S, S] in [-1, 1] of the codes, in one pass and without noise.

        `num_steps` and `generator` are there for the interface and change nothing. `num_tokens` hides all but
        the first cells: they are zero, which training never showed.
        """
        config = self.config
        codes_BT = checks.check_codes(codes_BT, config.num_tokens, config.codebook_size)
        if num_steps is not None:
            checks.check_count("num_steps", num_steps, 1)
        count = config.num_tokens if num_tokens is None else num_tokens
        checks.check_count("num_tokens", count, 0, config.num_tokens)
        visible_1T = prefix_mask(torch.tensor([count], device=self.device), config.num_tokens)
        vectors_BTd = self.quantizer.codebook_Kd[codes_BT.to(self.device)] * visible_1T[..., None]
        return self._draw(vectors_BTd).float().clamp(-1, 1)

    def facts(self) -> dict[str, object]:
        return {
            "image": f"{self.config.image_size} x {self.config.image_size} px",
            "tokens an image": self.config.num_tokens,
            "bits an image": self.config.bits_per_image,
            "parameters": sum(p.numel() for p in self.parameters()),
        }


class SpatialLoss:
    """Callable for the training loop: squared error of the image, commitment, and usage entropy if asked."""

    def __init__(self, config: SpatialConfig) -> None:
        self.config = config

    def __call__(
        self, model: nn.Module, images_BCHW: Tensor, step: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        drawn_BCHW, quantized = model(images_BCHW, step=step, generator=generator)
        error = squared_error_per_image(drawn_BCHW, images_BCHW).mean()
        commitment = quantized.commitment_BT.mean()
        loss = (
            error
            + self.config.commitment_weight * commitment
            + self.config.entropy_weight * quantized.entropy_loss
        )
        metrics = {"loss": loss, "reconstruction": error, "commitment": commitment}
        return loss, {name: value.detach() for name, value in metrics.items()}

    def finish_step(self, model: SpatialTokenizer, step: int) -> dict[str, Tensor]:
        """Moves the codebook by what the step's micro-batches gave; what its codes were like, as metrics."""
        return model.quantizer.finish_step(step)
