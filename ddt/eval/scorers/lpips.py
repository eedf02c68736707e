"""LPIPS v0.1 with AlexNet's features, from weights converted to safetensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ddt.data.decode import to_rgb
from ddt.data.pretrained import pick_device
from ddt.eval.metrics import lpips_from_features

BACKBONE, HEADS = "backbone.safetensors", "heads.safetensors"
WIDTHS = (64, 192, 384, 256, 256)
TAPS = (1, 4, 7, 9, 11)  # the ReLU after each convolution
# The published scaling layer, for RGB in [-1, 1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class LPIPS:
    """Distance of two pictures of one size.

    The folder holds `backbone.safetensors` (torchvision's alexnet state dict: features.0.weight ...) and
    `heads.safetensors` (the lpips package's v0.1 alex.pth: lin0.model.1.weight ...).
    """

    def __init__(self, folder: str, device: str | None = None) -> None:
        self.device = pick_device(device)
        try:
            weights, heads = load_file(Path(folder) / BACKBONE), load_file(Path(folder) / HEADS)
            self.features = _alexnet()
            self.features.load_state_dict(
                {k.removeprefix("features."): v for k, v in weights.items() if k.startswith("features.")}
            )
            self.heads = [heads[f"lin{layer}.model.1.weight"].float().numpy() for layer in range(len(TAPS))]
        except (OSError, KeyError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"{folder}: can't be read as LPIPS weights ({error})") from None
        self.features = self.features.to(self.device).eval()

    def __call__(self, a: Image.Image, b: Image.Image) -> float:
        return float(lpips_from_features(self._layers(a), self._layers(b), self.heads)[0])

    @torch.inference_mode()
    def _layers(self, image: Image.Image) -> list[np.ndarray]:
        pixels_HWC = torch.from_numpy(np.asarray(to_rgb(image), dtype=np.float32) / 127.5 - 1)
        x_CHW = ((pixels_HWC - torch.tensor(SHIFT)) / torch.tensor(SCALE)).permute(2, 0, 1)
        x_BCHW: Tensor = x_CHW[None].to(self.device)
        layers = []
        for index, layer in enumerate(self.features):
            x_BCHW = layer(x_BCHW)
            if index in TAPS:
                layers.append(x_BCHW.cpu().numpy())
        return layers


def _alexnet() -> nn.Sequential:
    first, second, third, fourth, fifth = WIDTHS
    return nn.Sequential(
        nn.Conv2d(3, first, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(first, second, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(second, third, 3, padding=1), nn.ReLU(),
        nn.Conv2d(third, fourth, 3, padding=1), nn.ReLU(),
        nn.Conv2d(fourth, fifth, 3, padding=1), nn.ReLU(),
    )  # fmt: skip
