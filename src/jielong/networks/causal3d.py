"""Causal encoder and decoder of clips (MAGVIT-v2, arXiv 2310.05737, section 3.2; factorised: Movie Gen, 2410.13720, section 3.1.1).

As :mod:`jielong.networks.convolutional`, whose stem is a patch embedding, with convolutions over time that do not look ahead
(:mod:`jielong.networks.convolution3d`) and norms of every frame by itself. So latents and frames of a clip that is given in chunks are
those of the whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.convolution3d import (
    Beginning,
    CausalConv3d,
    DepthToSpace,
    FactorizedConv3d,
    FirstFrameOnce,
    FrameGroupNorm,
    FrameNormKind,
    PixelRMSNorm,
    Repeat,
)
from jielong.networks.convolutional import groups_of
from jielong.networks.decoder import Decoder
from jielong.networks.repeated import RepeatedBlock
from jielong.networks.streaming import StreamingSequential, StreamState

Upsampling = Literal["depth_to_space", "nearest"]


@dataclass(frozen=True)
class CausalShape:
    """Sizes of one half; stages are listed finest first."""

    channels: tuple[int, ...]  # of each stage
    blocks: tuple[int, ...]  # residual blocks of each stage
    strides: tuple[tuple[int, int], ...]  # frames, and pixels a side, between stages
    patch: int  # pixels a side that enter as one position
    factorized: bool  # convolutions of space, then of time
    norm: FrameNormKind
    upsampling: Upsampling
    beginning: Beginning

    def conv(self, inputs: int, outputs: int, kernel: tuple[int, int] = (3, 3), stride: tuple[int, int] = (1, 1)) -> nn.Module:
        """A convolution of this network."""
        kind = FactorizedConv3d if self.factorized and kernel[0] > 1 else CausalConv3d
        return kind(inputs, outputs, kernel, stride, self.beginning)

    def normalisation(self, channels: int) -> nn.Module:
        """Its norm."""
        return FrameGroupNorm(groups_of(channels), channels) if self.norm == "group" else PixelRMSNorm(channels)

    def ends(self, channels: int) -> list[nn.Module]:
        """The norm and activation before the last convolution."""
        return [self.normalisation(channels), nn.SiLU()]

    def stage(self, number: int) -> list[nn.Module]:
        """The residual blocks of a stage."""
        return [CausalResidualBlock(self.channels[number], self) for _ in range(self.blocks[number])]

    def downsampling(self, number: int) -> list[nn.Module]:
        """Strided convolution from a stage to the next: 3 x 3 x 3 at strides of 2, as published."""
        time, side = self.strides[number]
        kernel = 1 + time if time > 1 else 1, 1 + side if side > 1 else 3
        return [self.conv(self.channels[number], self.channels[number + 1], kernel, (time, side))]

    def upsampled(self, number: int) -> list[nn.Module]:
        """From a stage to the one before."""
        (time, side), inputs, outputs = self.strides[number - 1], self.channels[number], self.channels[number - 1]
        once: list[nn.Module] = [FirstFrameOnce(time)] if time > 1 else []
        if self.upsampling == "nearest":
            return [Repeat((time, side)), *once, self.conv(inputs, outputs)]
        return [CausalConv3d(inputs, outputs * time * side * side, (1, 1)), DepthToSpace((time, side)), *once]


class CausalResidualBlock(RepeatedBlock):
    """Norm, SiLU, convolution, twice, added to the input, ``(B, C, T, H, W)``."""

    def __init__(self, channels: int, shape: CausalShape) -> None:
        super().__init__()
        self.norm1, self.conv1 = shape.normalisation(channels), shape.conv(channels, channels)
        self.norm2, self.conv2 = shape.normalisation(channels), shape.conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x + residual(x)``."""
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


@dataclass
class _Count(StreamState):
    """Frames of a clip so far."""

    frames: int = 0


class CausalEncoder(StreamingSequential):
    """Clips ``(B, C, T, H, W)`` to features ``(B, outputs, 1 + (T - 1) / r, H / f, W / f)``.

    Args:
        group: Frames ``r`` of all latent frames but the first.

    Raises ``ValueError`` for a clip that does not divide into groups, whole or at the end of its stream.
    """

    def __init__(self, shape: CausalShape, inputs: int, outputs: int, group: int) -> None:
        first = shape.channels[0]
        stem = (
            CausalConv3d(inputs, first, (1, shape.patch), (1, shape.patch), shape.beginning)
            if shape.patch > 1
            else shape.conv(inputs, first)
        )
        layers: list[nn.Module] = [stem]
        for number in range(len(shape.channels)):
            layers += shape.stage(number)
            if number + 1 < len(shape.channels):
                layers += shape.downsampling(number)
        super().__init__(*layers, *shape.ends(shape.channels[-1]), CausalConv3d(shape.channels[-1], outputs, (1, 1)))
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """All latent frames; of a chunk, those that are determined by now."""
        if (stream := self.stream) is None:
            self._check(x.shape[2])
        else:
            state = stream.state(self, _Count)
            state.frames += x.shape[2]
            if stream.last:
                self._check(state.frames)
        return super().forward(x)

    def _check(self, frames: int) -> None:
        if frames < 1 or (frames - 1) % self.group:
            below = max(0, (frames - 1) // self.group) * self.group + 1
            raise ValueError(
                f"a clip of {frames} frames does not divide: the first frame stands alone, and {self.group} each follow, "
                f"so give 1 + {self.group} k frames, such as {below} or {below + self.group}"
            )


class ToPixels(nn.Module):
    """Channels of a position to the pixels of its patch, frame by frame."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C p^2, T, h, w)`` to ``(B, C, T, h p, w p)``."""
        return F.pixel_shuffle(x.movedim(2, 1), self.patch).movedim(1, 2) if self.patch > 1 else x


class CausalDecoder(StreamingSequential, Decoder):
    """Features ``(B, inputs, n, h, w)`` to clips ``(B, C, 1 + (n - 1) r, h f, w f)``: the mirror of :class:`CausalEncoder`."""

    def __init__(self, shape: CausalShape, inputs: int, outputs: int) -> None:
        layers: list[nn.Module] = [shape.conv(inputs, shape.channels[-1])]
        for number in reversed(range(len(shape.channels))):
            layers += shape.stage(number)
            if number:
                layers += shape.upsampled(number)
        out = shape.conv(shape.channels[0], outputs * shape.patch * shape.patch)
        super().__init__(*layers, *shape.ends(shape.channels[0]), out, ToPixels(shape.patch))

    @property
    def last_layer(self) -> nn.Parameter:
        """The last convolution's weight, where adversarial weights compare gradients."""
        last = next(layer for layer in reversed(list(self.modules())) if isinstance(layer, nn.Conv3d))
        return cast("nn.Parameter", last.weight)
