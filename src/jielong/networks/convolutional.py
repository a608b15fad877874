"""Convolutional encoder and decoder of an image tokenizer (VQGAN, arXiv 2012.09841, section 3.1).

The stem is a patch embedding (``patch x patch`` pixels become one position), which saves most of the cost of full-resolution convolutions;
each further stage halves the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.decoder import Decoder
from jielong.networks.repeated import RepeatedBlock


def groups_of(channels: int) -> int:
    """Groups of GroupNorm: the largest power of two up to the published 32 with whole groups of 4 channels or more."""
    groups = 32
    while groups > 1 and (channels % groups or channels // groups < 4):
        groups //= 2
    return groups


NormOf = Callable[[int], nn.Module]
"""Builds the norm for a number of channels."""


def group_norm(channels: int) -> nn.GroupNorm:
    """The norm of this module's networks."""
    return nn.GroupNorm(groups_of(channels), channels)


class ResidualBlock(RepeatedBlock):
    """Norm, SiLU, 3x3 convolution, twice, added to the input; ``(B, inputs, H, W) -> (B, outputs, H, W)``."""

    def __init__(self, inputs: int, outputs: int, norm: NormOf = group_norm) -> None:
        super().__init__()
        self.norm1 = norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip: nn.Module = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return ``skip(x) + residual(x)``."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.skip(x) + h


class SpatialAttention(RepeatedBlock):
    """Single-head self-attention over all positions of a feature map, added to it."""

    def __init__(self, channels: int, norm: NormOf = group_norm) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x + attention(x)``, ``(B, C, H, W)``."""
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, c, h * w).transpose(2, 3).unbind(1)  # each (B, HW, C)
        mixed = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.out(mixed.transpose(1, 2).reshape(b, c, h, w))


def _stage(channels: int, blocks: int, attention: bool) -> list[nn.Module]:
    layers: list[nn.Module] = [ResidualBlock(channels, channels) for _ in range(blocks)]
    if attention:
        layers.append(SpatialAttention(channels))
    return layers


class ConvEncoder(nn.Module):
    """Pictures to feature vectors.

    Args:
        channels: Width of each stage, finest first; every stage after the first halves the grid.
        patch: Side of the stem's patches in pixels.
        attention: Self-attention at the end of the coarsest stage.
    """

    def __init__(self, inputs: int, channels: Sequence[int], blocks: Sequence[int], outputs: int, patch: int, attention: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(inputs, channels[0], patch, stride=patch)]
        for stage, (width, depth) in enumerate(zip(channels, blocks, strict=True)):
            if stage:
                layers.append(nn.Conv2d(channels[stage - 1], width, 2, stride=2))
            layers += _stage(width, depth, attention and stage == len(channels) - 1)
        self.layers = nn.Sequential(*layers)
        self.norm = group_norm(channels[-1])
        self.out = nn.Conv2d(channels[-1], outputs, 1)

    def forward(self, picture: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, outputs, H / f, W / f)`` with ``f = patch 2^(stages - 1)``."""
        return self.out(F.silu(self.norm(self.layers(picture))))


class ConvDecoder(Decoder):
    """Feature vectors to pictures; the mirror of :class:`ConvEncoder`, with the same arguments (finest stage first)."""

    def __init__(self, inputs: int, channels: Sequence[int], blocks: Sequence[int], outputs: int, patch: int, attention: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(inputs, channels[-1], 3, padding=1)]
        for stage in reversed(range(len(channels))):
            layers += _stage(channels[stage], blocks[stage], attention and stage == len(channels) - 1)
            if stage:
                # Sub-pixel upsampling (arXiv 1609.05158): all arithmetic stays on the coarse grid.
                layers += [nn.Conv2d(channels[stage], 4 * channels[stage - 1], 1), nn.PixelShuffle(2)]
        self.layers = nn.Sequential(*layers)
        self.norm = group_norm(channels[0])
        # A 3x3 kernel, so that neighbouring patches match at their border.
        self.out = nn.Conv2d(channels[0], outputs * patch * patch, 3, padding=1)
        self.patch = patch

    def forward(self, features: Tensor) -> Tensor:
        """``(B, inputs, h, w)`` to ``(B, C, h f, w f)``."""
        return F.pixel_shuffle(self.out(F.silu(self.norm(self.layers(features)))), self.patch)
