"""The DDT tokenizer (paper section 3): images as sequences of diffusion timestep tokens."""

import importlib
from typing import TYPE_CHECKING, Any

from ddt.tokenizer.config import DDTConfig, presets

if TYPE_CHECKING:
    from ddt.tokenizer.inspect import image_grid, psnr_db, reconstruction_grid
    from ddt.tokenizer.loss import TokenizerLoss
    from ddt.tokenizer.model import DDTTokenizer
    from ddt.tokenizer.renderer import Renderer, RendererLoss, RendererSizes

__all__ = [
    "DDTConfig",
    "DDTTokenizer",
    "Renderer",
    "RendererLoss",
    "RendererSizes",
    "TokenizerLoss",
    "image_grid",
    "presets",
    "psnr_db",
    "reconstruction_grid",
]
_MODULES = {
    "DDTTokenizer": "model",
    "Renderer": "renderer",
    "RendererLoss": "renderer",
    "RendererSizes": "renderer",
    "TokenizerLoss": "loss",
    "image_grid": "inspect",
    "psnr_db": "inspect",
    "reconstruction_grid": "inspect",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: reading params.yaml needs the configuration, not torch.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"ddt.tokenizer.{_MODULES[name]}"), name)
