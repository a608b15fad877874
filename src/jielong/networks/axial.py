"""Encoder and decoder of clips: strided 3-D convolutions and axial attention (VideoGPT, arXiv 2104.10157, section 3.1).

Attention is along columns, rows and time at once (Ho et al., arXiv 1912.12180), and every frame sees all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.convolutional import groups_of
from jielong.networks.decoder import Decoder
from jielong.networks.repeated import RepeatedBlock

VolumeNorm = Literal["group", "batch"]
Sizes = tuple[int, int, int]
KERNEL = 4
"""Of strided convolutions."""


@dataclass(frozen=True)
class VolumeShape:
    """Sizes of one half."""

    width: int  # of the residual blocks
    strided: tuple[int, ...]  # channels after each strided convolution of the encoder, finest first
    strides: tuple[Sizes, ...]  # of these convolutions
    blocks: int
    heads: int  # of the attention; 0 for none
    norm: VolumeNorm

    def normalisation(self, channels: int) -> nn.Module:
        """Its norm, over all of a clip or, as published, of a batch."""
        return nn.GroupNorm(groups_of(channels), channels) if self.norm == "group" else nn.BatchNorm3d(channels)

    def residuals(self) -> list[nn.Module]:
        """The residual blocks, with norm and ReLU behind the last."""
        return [*(AxialResidualBlock(self) for _ in range(self.blocks)), self.normalisation(self.width), nn.ReLU()]


def same_padding(kernel: int, stride: int) -> tuple[int, int]:
    """Padding before and after an axis that makes ``n / s`` windows of ``n``: ``k - s`` in all, the larger half before."""
    return (kernel - stride + 1) // 2, (kernel - stride) // 2


class StridedConv3d(nn.Conv3d):
    """Convolution of kernel 4 (:func:`same_padding`), ``(B, inputs, T, H, W)`` to ``(B, outputs, T / s_t, H / s_h, W / s_w)``."""

    def __init__(self, inputs: int, outputs: int, stride: Sizes) -> None:
        super().__init__(inputs, outputs, KERNEL, stride)
        self.pads = [side for each in reversed(stride) for side in same_padding(KERNEL, each)]

    def forward(self, x: Tensor) -> Tensor:
        """The strided maps."""
        return super().forward(F.pad(x, self.pads))


class StridedConvTranspose3d(nn.ConvTranspose3d):
    """The transposed :class:`StridedConv3d`, ``(B, inputs, t, h, w)`` to ``(B, outputs, t s_t, h s_h, w s_w)``."""

    def __init__(self, inputs: int, outputs: int, stride: Sizes) -> None:
        # What "same" padding of the input leaves to cut of the output before and after: 1 and 1 at a stride of 2, 1 and 2 at one of 1.
        cuts = [[KERNEL - 1 - each * side for side in same_padding(KERNEL, each)] for each in stride]
        first, second, third = (min(cut) for cut in cuts)
        super().__init__(inputs, outputs, KERNEL, stride, (first, second, third))
        self.rest = [-(side - min(cut)) for cut in reversed(cuts) for side in cut]

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The maps at the finer resolution."""
        return F.pad(super().forward(input, output_size), self.rest)


class AxialAttention(nn.Module):
    """Self-attention along each axis of a clip, summed over the axes."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.ModuleList(nn.Linear(channels, 3 * channels, bias=False) for _ in range(3))
        self.out = nn.ModuleList(nn.Linear(channels, channels) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to the same shape."""
        cells = x.movedim(1, -1)  # (B, T, H, W, C)
        along = [out(self._mixed(qkv(cells), axis)) for axis, (qkv, out) in enumerate(zip(self.qkv, self.out, strict=True), start=1)]
        return (along[0] + along[1] + along[2]).movedim(-1, 1)

    def _mixed(self, qkv: Tensor, axis: int) -> Tensor:
        """Attention of ``(B, T, H, W, 3 C)`` along an axis."""
        lines = qkv.movedim(axis, -2)  # (..., n, 3 C)
        q, k, v = lines.reshape(-1, lines.shape[-2], 3, self.heads, lines.shape[-1] // 3 // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return mixed.reshape(*lines.shape[:-1], -1).movedim(-2, axis)


class AxialResidualBlock(RepeatedBlock):
    """``x`` and a branch: 3x3x3 convolution to half the width, 1x1x1 convolution back, attention, each behind norm and ReLU."""

    def __init__(self, shape: VolumeShape) -> None:
        super().__init__()
        half = shape.width // 2
        layers = [shape.normalisation(shape.width), nn.ReLU(), nn.Conv3d(shape.width, half, 3, padding=1, bias=False)]
        layers += [shape.normalisation(half), nn.ReLU(), nn.Conv3d(half, shape.width, 1, bias=False)]
        if shape.heads:
            layers += [shape.normalisation(shape.width), nn.ReLU(), AxialAttention(shape.width, shape.heads)]
        self.branch = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to the same shape."""
        return x + self.branch(x)


class AxialEncoder(nn.Module):
    """Clips ``(B, C, T, H, W)`` to features ``(B, outputs, T / r_t, H / r_h, W / r_w)``."""

    def __init__(self, shape: VolumeShape, inputs: int, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels, stride in zip(shape.strided, shape.strides, strict=True):
            layers += [StridedConv3d(inputs, channels, stride), nn.ReLU()]
            inputs = channels
        self.layers = nn.Sequential(*layers, nn.Conv3d(inputs, shape.width, 3, padding=1), *shape.residuals())
        self.out = nn.Conv3d(shape.width, outputs, 1)

    def forward(self, clips: Tensor) -> Tensor:
        """The features."""
        return self.out(self.layers(clips))


class AxialDecoder(Decoder):
    """Features ``(B, inputs, t, h, w)`` to clips: the mirror of :class:`AxialEncoder`."""

    def __init__(self, shape: VolumeShape, inputs: int, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv3d(inputs, shape.width, 1), *shape.residuals()]
        widths: Sequence[int] = (*shape.strided[:-1], shape.width)
        for before, channels, stride in list(zip((0, *shape.strided[:-1]), widths, shape.strides, strict=True))[:0:-1]:
            layers += [StridedConvTranspose3d(channels, before, stride), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.out = StridedConvTranspose3d(widths[0], outputs, shape.strides[0])

    def forward(self, features: Tensor) -> Tensor:
        """The clips."""
        return self.out(self.layers(features))
