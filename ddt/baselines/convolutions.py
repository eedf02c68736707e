"""VQGAN's convolutional encoder and decoder in small: residual blocks, halvings, attention on the grid.

Shapes: B batch, C channels, H W pixels, d code dimensions, G cells a side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from ddt.tokenizer.layers import attend

GROUPS = 32  # VQGAN's; where channels are fewer, one group for each eight


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(GROUPS, max(1, channels // 8)), channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Twice norm, SiLU and a 3x3 convolution, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            norm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            norm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW + self.layers(x_BCHW)


class GridAttention(nn.Module):
    """Self-attention over the cells with one head, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)

    def forward(self, x_BCGG: Tensor) -> Tensor:
        cells_BLC = self.norm(x_BCGG).flatten(2).transpose(1, 2)
        attended_BLC = self.project(attend(self.qkv(cells_BLC), heads=1))
        return x_BCGG + attended_BLC.transpose(1, 2).reshape(x_BCGG.shape)


class ConvEncoder(nn.Module):
    """Images [B, 3, H, W] to vectors [B, d, G, G]."""

    def __init__(self, channels: Sequence[int], blocks: int, code_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, channels[0], 3, padding=1),
            *self._stages(channels, blocks),
            *_middle(channels[-1]),
            norm(channels[-1]),
            nn.SiLU(),
            nn.Conv2d(channels[-1], code_dim, 1),
        )

    @staticmethod
    def _stages(channels: Sequence[int], blocks: int) -> Iterator[nn.Module]:
        for i, width in enumerate(channels):
            yield from (ResidualBlock(width) for _ in range(blocks))
            if i + 1 < len(channels):
                yield nn.Conv2d(width, channels[i + 1], 3, stride=2, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.layers(x_BCHW)


class ConvDecoder(nn.Module):
    """Vectors [B, d, G, G] to images [B, 3, H, W]."""

    def __init__(self, channels: Sequence[int], blocks: int, code_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(code_dim, channels[-1], 3, padding=1),
            *_middle(channels[-1]),
            *self._stages(channels, blocks),
            norm(channels[0]),
            nn.SiLU(),
            nn.Conv2d(channels[0], 3, 3, padding=1),
        )

    @staticmethod
    def _stages(channels: Sequence[int], blocks: int) -> Iterator[nn.Module]:
        for i in reversed(range(len(channels))):
            yield from (ResidualBlock(channels[i]) for _ in range(blocks))
            if i > 0:
                yield nn.Upsample(scale_factor=2)
                yield nn.Conv2d(channels[i], channels[i - 1], 3, padding=1)

    def forward(self, vectors_BdGG: Tensor) -> Tensor:
        return self.layers(vectors_BdGG)


def _middle(channels: int) -> list[nn.Module]:
    return [ResidualBlock(channels), GridAttention(channels), ResidualBlock(channels)]
