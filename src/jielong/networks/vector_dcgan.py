"""DCGAN's networks: a vector to a grid by transposed convolutions, and a grid to features by strided ones (arXiv 1511.06434).

Of clips the convolutions are of time, rows and columns (video GAN, arXiv 1609.02612): 4x4x4 with stride 2 where time is halved too, else
3x4x4 with stride 1 along time.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.config.registry import Config
from jielong.networks.discriminator import Norm, initialise, normalisation
from jielong.networks.vectors import (
    BlockInputs,
    BlockSizes,
    ConcatenatingDecoder,
    VectorDecoderSettings,
    VectorEncoder,
    VectorEncoderSettings,
    coarsest,
    maps_of,
    tokens_of,
)


def strided(before: int, after: int, axes: int, timed: bool, *, transposed: bool = False) -> nn.Module:
    """A layer that halves a grid of ``axes`` axes or, ``transposed``, doubles it; along time only where ``timed``."""
    if axes == 2:
        return nn.ConvTranspose2d(before, after, 4, 2, 1) if transposed else nn.Conv2d(before, after, 4, 2, 1)
    kernel, stride = (4 if timed else 3, 4, 4), (2 if timed else 1, 2, 2)
    return nn.ConvTranspose3d(before, after, kernel, stride, 1) if transposed else nn.Conv3d(before, after, kernel, stride, 1)


class DCGANDecoder(ConcatenatingDecoder):
    """A linear map to the coarsest grid, and transposed 4x4 convolutions of stride 2, each with a norm and ReLU but for the last."""

    def __init__(self, size: int, config: DCGANToTokens, sizes: BlockSizes) -> None:
        super().__init__(size, config.condition, sizes)
        widths = config.channels
        times, axes = config.halvings(sizes), config.axes_of(sizes)
        self.start = (widths[0], *coarsest(sizes, len(widths), "dcgan", times))
        self.input = nn.Linear(self.joined, torch.Size(self.start).numel())
        self.norms = nn.ModuleList(normalisation(config.norm, width, axes) for width in widths)
        steps = enumerate(pairwise([*widths, sizes.channels]))
        self.layers = nn.ModuleList(strided(before, after, axes, layer < times, transposed=True) for layer, (before, after) in steps)
        self.bounded = config.output == "tanh"
        self.layers.apply(initialise)
        self.norms.apply(initialise)

    def forward(self, vectors: Tensor, block: BlockInputs) -> Tensor:
        """See :meth:`VectorDecoder.forward`."""
        x = self.input(self.join(vectors, block)).unflatten(1, self.start)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = layer(F.relu(norm(x)))
        return tokens_of(x.tanh() if self.bounded else x)


class DCGANEncoder(VectorEncoder):
    """4x4 convolutions of stride 2 with leaky ReLU, each with a norm but for the first; the features are the last map."""

    def __init__(self, config: DCGANFromTokens, sizes: BlockSizes) -> None:
        widths = config.channels[::-1]
        times, axes = config.halvings(sizes), config.axes_of(sizes)
        super().__init__(widths[-1] * torch.Size(coarsest(sizes, len(widths), "dcgan", times)).numel())
        self.grid = sizes.grid
        steps = enumerate(pairwise([sizes.channels, *widths]))
        self.layers = nn.ModuleList(strided(before, after, axes, layer >= len(widths) - times) for layer, (before, after) in steps)
        self.norms = nn.ModuleList(normalisation(config.norm if layer else "none", width, axes) for layer, width in enumerate(widths))
        self.apply(initialise)

    def forward(self, tokens: Tensor) -> Tensor:
        """See :meth:`VectorEncoder.forward`."""
        x = maps_of(tokens, self.grid)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.leaky_relu(norm(layer(x)), 0.2)
        return x.flatten(1)


class Strided(Config):
    """What the networks of both sides have in common.

    Attributes:
        channels: Of the maps, from the coarsest grid, each half as fine as the next; the last one is half as fine as the tokens' grid.
        norm: ``batch`` (as published), whose statistics are those of what one process computes at once; ``group`` or ``none``.
        time_halvings: Of clips, how many layers, from the coarsest grid, halve time too; all of them by default.
    """

    channels: tuple[PositiveInt, ...] = Field(default=(512, 256, 128, 64), min_length=1)
    norm: Norm = "batch"
    time_halvings: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _few_enough(self) -> Self:
        if self.time_halvings is not None and self.time_halvings > len(self.channels):
            raise ValueError(f"time_halvings: {self.time_halvings} of {len(self.channels)} layers cannot halve time: at most all of them")
        return self

    def axes_of(self, sizes: BlockSizes) -> Literal[2, 3]:
        """Axes of the convolutions. Raises ``ValueError`` if settings of clips are given for tokens that are none."""
        if len(sizes.grid) == 3:
            return 3
        if self.time_halvings is not None:
            raise ValueError(f"dcgan: time_halvings is of clips, and these tokens have {len(sizes.grid)} axes: leave it out")
        return 2

    def halvings(self, sizes: BlockSizes) -> int:
        """How many layers halve time; 0 of pictures."""
        every = len(self.channels) if self.time_halvings is None else self.time_halvings
        return every if len(sizes.grid) == 3 else 0


class DCGANToTokens(Strided, VectorDecoderSettings, family="vector_decoder", name="dcgan"):
    """DCGAN's generator.

    Attributes:
        output: ``tanh``, for tokens in [-1, 1], or ``linear``.
        condition: Numbers of the vector that the condition is reduced to.
    """

    output: Literal["tanh", "linear"] = "linear"
    condition: int = Field(default=128, ge=8)

    def build(self, size: int, sizes: BlockSizes) -> DCGANDecoder:
        """See :meth:`VectorDecoderSettings.build`."""
        return DCGANDecoder(size, self, sizes)


class DCGANFromTokens(Strided, VectorEncoderSettings, family="vector_encoder", name="dcgan"):
    """DCGAN's discriminator up to its last map."""

    def build(self, sizes: BlockSizes) -> DCGANEncoder:
        """See :meth:`VectorEncoderSettings.build`."""
        return DCGANEncoder(self, sizes)
