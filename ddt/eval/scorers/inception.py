"""The Inception network of FID: 2048 features and 1008 logits of a picture.

It is the TensorFlow graph of 2015-12-05 as pytorch-fid ported it (`pt_inception-2015-12-05-6726825d.pth`),
which is not torchvision's ImageNet model: the average pools of blocks A, C and the first E leave padding out,
and the second E pools by maximum. The folder holds that file converted once to `inception.safetensors`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ddt.data.decode import to_rgb
from ddt.data.pretrained import pick_device

WEIGHTS = "inception.safetensors"
CLASSES, WIDTH, SIDE_PX = 1008, 2048, 299


class Conv(nn.Module):
    """Convolution without bias, batch norm, ReLU; the names are those of the published state dict."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], **options: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, bias=False, **options)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x_BCHW)))


def _average(x_BCHW: Tensor) -> Tensor:
    return F.avg_pool2d(x_BCHW, 3, 1, 1, count_include_pad=False)


class A(nn.Module):
    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(inputs, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = Conv(inputs, 48, 1), Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(inputs, 64, 1), Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, padding=1)
        self.branch_pool = Conv(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        five = self.branch5x5_2(self.branch5x5_1(x))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(_average(x))], 1)


class B(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = Conv(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(inputs, 64, 1), Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class C(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        across: dict[str, Any] = {"kernel": (1, 7), "padding": (0, 3)}
        down: dict[str, Any] = {"kernel": (7, 1), "padding": (3, 0)}
        self.branch1x1 = Conv(inputs, 192, 1)
        self.branch7x7_1 = Conv(inputs, width, 1)
        self.branch7x7_2, self.branch7x7_3 = Conv(width, width, **across), Conv(width, 192, **down)
        self.branch7x7dbl_1 = Conv(inputs, width, 1)
        self.branch7x7dbl_2, self.branch7x7dbl_3 = Conv(width, width, **down), Conv(width, width, **across)
        self.branch7x7dbl_4, self.branch7x7dbl_5 = Conv(width, width, **down), Conv(width, 192, **across)
        self.branch_pool = Conv(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(_average(x))], 1)


class D(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Conv(inputs, 192, 1), Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1, self.branch7x7x3_2 = Conv(inputs, 192, 1), Conv(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = Conv(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = Conv(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, F.max_pool2d(x, 3, 2)], 1)


class E(nn.Module):
    def __init__(self, inputs: int, by_maximum: bool) -> None:
        super().__init__()
        self.by_maximum = by_maximum
        self.branch1x1 = Conv(inputs, 320, 1)
        self.branch3x3_1 = Conv(inputs, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = _cross(384)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(inputs, 448, 1), Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = _cross(384)
        self.branch_pool = Conv(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, 1, 1) if self.by_maximum else _average(x)
        parts = [self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three)]
        parts += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(pooled)]
        return torch.cat(parts, 1)


def _cross(width: int) -> tuple[Conv, Conv]:
    return Conv(width, width, (1, 3), padding=(0, 1)), Conv(width, width, (3, 1), padding=(1, 0))


class InceptionV3(nn.Module):
    """Pixels [B, 3, 299, 299] in [-1, 1] to features [B, 2048] and logits [B, 1008].

    The logits are without the bias, as the Inception Score is officially computed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = Conv(3, 32, 3, stride=2), Conv(32, 32, 3)
        self.Conv2d_2b_3x3, self.Conv2d_3b_1x1 = Conv(32, 64, 3, padding=1), Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = A(192, 32), A(256, 64), A(288, 64)
        self.Mixed_6a = B(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (
            C(768, width) for width in (128, 160, 160, 192)
        )
        self.Mixed_7a, self.Mixed_7b, self.Mixed_7c = D(768), E(1280, False), E(2048, True)
        self.fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x_BCHW)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        features_BD = x.mean((2, 3))
        return features_BD, F.linear(features_BD, self.fc.weight)


class Inception:
    """Features and logits of pictures, resized to 299 px as pytorch-fid does: bilinear, no antialias."""

    def __init__(self, folder: str, device: str | None = None) -> None:
        self.device, path = pick_device(device), Path(folder) / WEIGHTS
        self.model = InceptionV3()
        try:
            weights = load_file(path)
            counters = {name for name in weights if name.endswith("num_batches_tracked")}
            missing, unknown = self.model.load_state_dict(
                {name: value for name, value in weights.items() if name not in counters}, strict=False
            )
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"{path}: can't be read as Inception weights ({error})") from None
        wrong = [*(name for name in missing if "num_batches" not in name), *unknown]
        if wrong:
            raise ValueError(
                f"{path}: no FID Inception network; missing or unknown are {', '.join(wrong[:3])}"
            )
        self.model = self.model.to(self.device).eval()

    @torch.inference_mode()
    def __call__(self, images: Iterable[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
        """float32 [n, 2048] and [n, 1008]; one picture at a time at its own size."""
        features_BD, logits_BK = self.model(torch.cat(list(self._pixels(images))).to(self.device))
        return features_BD.cpu().numpy(), logits_BK.cpu().numpy()

    def _pixels(self, images: Iterable[Image.Image]) -> Iterator[Tensor]:
        for image in images:
            array = np.asarray(to_rgb(image), dtype=np.float32) / 255
            x_BCHW = torch.from_numpy(array).permute(2, 0, 1)[None]
            yield 2 * F.interpolate(x_BCHW, (SIDE_PX, SIDE_PX), mode="bilinear", align_corners=False) - 1
