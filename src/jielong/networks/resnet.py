"""The convolutional encoder and decoder of latent diffusion (arXiv 2112.10752), starting at full resolution.

Residual blocks, a stride of 2 between stages, and residual block, attention, residual block at the coarsest stage: the architecture of
published autoencoders (Stable Diffusion's, MAR's, FLUX's), slower than :mod:`jielong.networks.convolutional`, whose stem is a patch
embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.convolutional import NormOf, ResidualBlock, SpatialAttention
from jielong.networks.decoder import Decoder

EPSILON = 1e-6
"""Of the group norms, as published."""


def norms(groups: int) -> NormOf:
    """Group norms with this number of groups."""
    return lambda channels: nn.GroupNorm(groups, channels, EPSILON)


class Downsample(nn.Module):
    """3x3 convolution of stride 2, padded right and below only: symmetric padding would shift half a pixel per stage."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Half as many rows and columns."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest-neighbour upsampling, then a 3x3 convolution, ``(B, C, h, w) -> (B, C, 2 h, 2 w)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Twice as many rows and columns."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class PaddedConv(nn.Conv2d):
    """A 3x3 convolution whose input goes on outside with one value: -1 is black, 0 for a network that reads pictures in [0, 1]."""

    def __init__(self, inputs: int, outputs: int, value: float) -> None:
        super().__init__(inputs, outputs, 3)
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` to ``(B, outputs, H, W)``."""
        return super().forward(F.pad(x, (1, 1, 1, 1), value=self.value))


def _first(inputs: int, outputs: int, padding: float) -> nn.Conv2d:
    return PaddedConv(inputs, outputs, padding) if padding else nn.Conv2d(inputs, outputs, 3, padding=1)


def _projection(inputs: int, outputs: int, kernel: int) -> nn.Module:
    """A convolution on one side of the bottleneck; none for the kernel 0."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2) if kernel else nn.Identity()


def _stage(inputs: int, outputs: int, blocks: int, attention: bool, norm: NormOf) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for block in range(blocks):
        layers.append(ResidualBlock(outputs if block else inputs, outputs, norm))
        if attention:
            layers.append(SpatialAttention(outputs, norm))
    return layers


def _middle(channels: int, norm: NormOf, attention: bool) -> list[nn.Module]:
    between = [SpatialAttention(channels, norm)] if attention else []
    return [ResidualBlock(channels, channels, norm), *between, ResidualBlock(channels, channels, norm)]


class ResnetEncoder(nn.Module):
    """Pictures to feature vectors.

    Args:
        channels: Width of each stage, finest first; every stage after the first has half the rows and columns.
        attention: Attention after every residual block of the coarsest stage, in addition to the middle's.
        projection: Kernel of a convolution at the end, LDM's "quant conv"; 0 for none.
        inner: Channels before that convolution; ``outputs`` if not given.
        middle_attention: Attention between the two residual blocks of the middle.
        padding: What pictures go on with outside.
    """

    def __init__(
        self,
        inputs: int,
        channels: Sequence[int],
        blocks: int,
        outputs: int,
        groups: int,
        attention: bool,
        projection: int,
        inner: int | None = None,
        middle_attention: bool = True,
        padding: float = 0.0,
    ) -> None:
        super().__init__()
        inner = outputs if inner is None else inner
        norm, last = norms(groups), len(channels) - 1
        layers: list[nn.Module] = [_first(inputs, channels[0], padding)]
        for stage, width in enumerate(channels):
            layers += _stage(channels[max(stage - 1, 0)], width, blocks, attention and stage == last, norm)
            if stage < last:
                layers.append(Downsample(width))
        self.layers = nn.Sequential(*layers, *_middle(channels[-1], norm, middle_attention))
        self.norm = norm(channels[-1])
        self.out = nn.Conv2d(channels[-1], inner, 3, padding=1)
        self.projection = _projection(inner, outputs, projection)

    def forward(self, picture: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, outputs, H / f, W / f)`` with ``f = 2^(stages - 1)``."""
        return self.projection(self.out(F.silu(self.norm(self.layers(picture)))))


class ResnetDecoder(Decoder):
    """Feature vectors to pictures: the mirror of :class:`ResnetEncoder`, with ``blocks`` and ``attention`` of its own."""

    def __init__(
        self,
        inputs: int,
        channels: Sequence[int],
        blocks: int,
        outputs: int,
        groups: int,
        attention: bool,
        projection: int,
        inner: int | None = None,
        middle_attention: bool = True,
    ) -> None:
        super().__init__()
        norm, last = norms(groups), len(channels) - 1
        inner = inputs if inner is None else inner
        self.projection = _projection(inputs, inner, projection)
        layers: list[nn.Module] = [nn.Conv2d(inner, channels[-1], 3, padding=1), *_middle(channels[-1], norm, middle_attention)]
        for stage in reversed(range(len(channels))):
            layers += _stage(channels[min(stage + 1, last)], channels[stage], blocks, attention and stage == last, norm)
            if stage:
                layers.append(Upsample(channels[stage]))
        self.layers = nn.Sequential(*layers)
        self.norm = norm(channels[0])
        self.out = nn.Conv2d(channels[0], outputs, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """``(B, inputs, h, w)`` to ``(B, C, h f, w f)``."""
        return self.out(F.silu(self.norm(self.layers(self.projection(features)))))
