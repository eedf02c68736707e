"""The training loss: Eq. 1, commitment, and the optional usage entropy. Shapes: B batch, T tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ddt.tokenizer.codebook_metrics import by_position
from ddt.tokenizer.config import DDTConfig
from ddt.tokenizer.model import DDTTokenizer, TrainingOutput

TIME_BANDS = ((0.0, 0.35), (0.35, 0.7), (0.7, 1.0))


class TokenizerLoss:
    """Callable for the training loop: (model, images, step, generator) -> (loss, metrics).

    `model` is a DDTTokenizer or a wrapper that calls one. Metrics are detached scalars.
    """

    def __init__(self, config: DDTConfig) -> None:
        self.config = config

    def __call__(
        self, model: nn.Module, images_BCHW: Tensor, step: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        out: TrainingOutput = model(images_BCHW, step=step, generator=generator)
        flow_loss = out.squared_error_B.mean()
        commitment = self._commitment(out)
        loss = (
            flow_loss
            + self.config.commitment_weight * commitment
            + self.config.entropy_weight * out.quantized.entropy_loss
        )
        metrics = {
            "loss": loss.detach(),
            "flow": flow_loss.detach(),
            "commitment": commitment.detach(),
            **error_by_time(out.x0_squared_error_B, out.t_B),
            **error_by_tokens(out.x0_squared_error_B, out.visible_BT),
            **by_position("visible_share", out.visible_BT.float().mean(0)),
        }
        return loss, metrics

    def finish_step(self, model: DDTTokenizer, step: int) -> dict[str, Tensor]:
        """Moves the codebook by what the step's micro-batches gave; what its codes were like, as metrics."""
        return model.quantizer.finish_step(step)

    def _commitment(self, out: TrainingOutput) -> Tensor:
        """Mean over elements (the paper writes a sum); over the visible tokens only if so configured."""
        if self.config.commitment_on == "all":
            return out.quantized.commitment_BT.mean()
        weight_BT = out.visible_BT.float()
        return (out.quantized.commitment_BT * weight_BT).sum() / weight_BT.sum().clamp(min=1)


def error_by_time(x0_squared_error_B: Tensor, t_B: Tensor) -> dict[str, Tensor]:
    """Mean squared error of x_0 within bands of t; NaN for a band that drew no sample."""
    return {
        f"mse_t/{low:g}-{high:g}": _mean_where((t_B >= low) & (t_B <= high), x0_squared_error_B)
        for low, high in TIME_BANDS
    }


def error_by_tokens(x0_squared_error_B: Tensor, visible_BT: Tensor) -> dict[str, Tensor]:
    """The same for samples with and without tokens; NaN for a kind that did not come up."""
    some_B = visible_BT.any(1)
    kinds = {"mse_tokens/some": some_B, "mse_tokens/none": ~some_B}
    return {name: _mean_where(kind_B, x0_squared_error_B) for name, kind_B in kinds.items()}


def _mean_where(kind_B: Tensor, value_B: Tensor) -> Tensor:
    """The mean over some samples. Picking them out would wait for the device to say how many there are."""
    return torch.where(kind_B, value_B, 0).sum() / kind_B.sum()
