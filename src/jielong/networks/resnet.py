"""The convolutional encoder and decoder of latent diffusion (arXiv 2112.10752), starting at full resolution.

Residual blocks, a stride of 2 between stages, and residual block, attention, residual block at the coarsest stage: the architecture of
published autoencoders (Stable Diffusion's, MAR's, FLUX's), slower than :mod:`jielong.networks.convolutional`, whose stem is a patch
embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class ResnetSizes:
    """Sizes of an encoder or of a decoder.

    Attributes:
        channels: Width of each stage, finest first; every stage after the first has half the rows and columns.
        blocks: Residual blocks of a stage.
        groups: Of the norms.
        attention: Attention after every residual block of the coarsest stage, in addition to the middle's.
        projection: Kernel of a convolution at the bottleneck, LDM's "quant conv"; 0 for none.
        inner: Channels between that convolution and the other layers; those of the bottleneck if not given.
        middle_attention: Attention between the two residual blocks of the middle.
    """

    channels: tuple[int, ...]
    blocks: int
    groups: int
    attention: bool = False
    projection: int = 0
    inner: int | None = None
    middle_attention: bool = True

    def stage(self, index: int, inputs: int) -> list[nn.Module]:
        """The residual blocks of a stage."""
        norm, width, layers = norms(self.groups), self.channels[index], list[nn.Module]()
        for block in range(self.blocks):
            layers.append(ResidualBlock(width if block else inputs, width, norm))
            if self.attention and index == len(self.channels) - 1:
                layers.append(SpatialAttention(width, norm))
        return layers

    def middle(self) -> list[nn.Module]:
        """The blocks at the coarsest stage."""
        norm, width = norms(self.groups), self.channels[-1]
        between = [SpatialAttention(width, norm)] if self.middle_attention else []
        return [ResidualBlock(width, width, norm), *between, ResidualBlock(width, width, norm)]


class ResnetEncoder(nn.Module):
    """Pictures to feature vectors; ``padding`` is what pictures go on with outside."""

    def __init__(self, inputs: int, outputs: int, sizes: ResnetSizes, padding: float = 0.0) -> None:
        super().__init__()
        channels, inner = sizes.channels, outputs if sizes.inner is None else sizes.inner
        layers: list[nn.Module] = [_first(inputs, channels[0], padding)]
        for stage, width in enumerate(channels):
            layers += sizes.stage(stage, channels[max(stage - 1, 0)])
            if stage < len(channels) - 1:
                layers.append(Downsample(width))
        self.layers = nn.Sequential(*layers, *sizes.middle())
        self.norm = norms(sizes.groups)(channels[-1])
        self.out = nn.Conv2d(channels[-1], inner, 3, padding=1)
        self.projection = _projection(inner, outputs, sizes.projection)

    def forward(self, picture: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, outputs, H / f, W / f)`` with ``f = 2^(stages - 1)``."""
        return self.projection(self.out(F.silu(self.norm(self.layers(picture)))))


class ResnetDecoder(Decoder):
    """Feature vectors to pictures: the mirror of :class:`ResnetEncoder`, with sizes of its own."""

    def __init__(self, inputs: int, outputs: int, sizes: ResnetSizes) -> None:
        super().__init__()
        channels, inner = sizes.channels, inputs if sizes.inner is None else sizes.inner
        self.projection = _projection(inputs, inner, sizes.projection)
        layers: list[nn.Module] = [nn.Conv2d(inner, channels[-1], 3, padding=1), *sizes.middle()]
        for stage in reversed(range(len(channels))):
            layers += sizes.stage(stage, channels[min(stage + 1, len(channels) - 1)])
            if stage:
                layers.append(Upsample(channels[stage]))
        self.layers = nn.Sequential(*layers)
        self.norm = norms(sizes.groups)(channels[0])
        self.out = nn.Conv2d(channels[0], outputs, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """``(B, inputs, h, w)`` to ``(B, C, h f, w f)``."""
        return self.out(F.silu(self.norm(self.layers(self.projection(features)))))
