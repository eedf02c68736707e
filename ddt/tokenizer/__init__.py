"""The DDT tokenizer (paper section 3): images as sequences of diffusion timestep tokens."""

from ddt.tokenizer.config import DDTConfig, presets
from ddt.tokenizer.inspect import image_grid, psnr_db, reconstruction_grid
from ddt.tokenizer.loss import TokenizerLoss
from ddt.tokenizer.model import DDTTokenizer

__all__ = [
    "DDTConfig",
    "DDTTokenizer",
    "TokenizerLoss",
    "image_grid",
    "presets",
    "psnr_db",
    "reconstruction_grid",
]
