"""DCGAN's networks: a vector to a grid by transposed convolutions, and a grid to features by strided ones (arXiv 1511.06434)."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

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


class DCGANDecoder(ConcatenatingDecoder):
    """A linear map to the coarsest grid, and transposed 4x4 convolutions of stride 2, each with a norm and ReLU but for the last."""

    def __init__(self, size: int, config: DCGANToTokens, sizes: BlockSizes) -> None:
        super().__init__(size, config.condition, sizes)
        widths = config.channels
        self.start = (widths[0], *coarsest(sizes, len(widths), "dcgan"))
        self.input = nn.Linear(self.joined, torch.Size(self.start).numel())
        self.norms = nn.ModuleList(normalisation(config.norm, width) for width in widths)
        self.layers = nn.ModuleList(nn.ConvTranspose2d(before, after, 4, 2, 1) for before, after in pairwise([*widths, sizes.channels]))
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
        rows, columns = coarsest(sizes, len(widths), "dcgan")
        super().__init__(widths[-1] * rows * columns)
        self.grid = sizes.grid
        self.layers = nn.ModuleList(nn.Conv2d(before, after, 4, 2, 1) for before, after in pairwise([sizes.channels, *widths]))
        self.norms = nn.ModuleList(normalisation(config.norm if layer else "none", width) for layer, width in enumerate(widths))
        self.apply(initialise)

    def forward(self, tokens: Tensor) -> Tensor:
        """See :meth:`VectorEncoder.forward`."""
        x = maps_of(tokens, self.grid)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.leaky_relu(norm(layer(x)), 0.2)
        return x.flatten(1)


class DCGANToTokens(VectorDecoderSettings, family="vector_decoder", name="dcgan"):
    """DCGAN's generator.

    Attributes:
        channels: Of the maps, from the coarsest grid, each half as fine as the next; the last one is half as fine as the tokens' grid.
        norm: ``batch`` (as published), whose statistics are those of what one process computes at once; ``group`` or ``none``.
        output: ``tanh``, for tokens in [-1, 1], or ``linear``.
        condition: Numbers of the vector that the condition is reduced to.
    """

    channels: tuple[PositiveInt, ...] = Field(default=(512, 256, 128, 64), min_length=1)
    norm: Norm = "batch"
    output: Literal["tanh", "linear"] = "linear"
    condition: int = Field(default=128, ge=8)

    def build(self, size: int, sizes: BlockSizes) -> DCGANDecoder:
        """See :meth:`VectorDecoderSettings.build`."""
        return DCGANDecoder(size, self, sizes)


class DCGANFromTokens(VectorEncoderSettings, family="vector_encoder", name="dcgan"):
    """DCGAN's discriminator up to its last map.

    Attributes:
        channels: As of the generator, from the coarsest grid.
        norm: As of the generator.
    """

    channels: tuple[PositiveInt, ...] = Field(default=(512, 256, 128, 64), min_length=1)
    norm: Norm = "batch"

    def build(self, sizes: BlockSizes) -> DCGANEncoder:
        """See :meth:`VectorEncoderSettings.build`."""
        return DCGANEncoder(self, sizes)
