"""R3GAN's networks: residual stages of grouped convolutions without norms, between a vector and a grid (arXiv 2501.05441).

A block is ``x + N(f(M(f(W(x)))))``: 1x1 to more channels, grouped 3x3, 1x1 back, ``f`` a leaky ReLU. As in Fixup (arXiv 1901.09321) ``N``
starts at zero, and the others are scaled by ``L^(-1/4)`` with ``L`` blocks in the network, so that no norm is needed. Grids are doubled by
bilinear interpolation and halved by averages.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Self, TypeVar

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.config.registry import Config
from jielong.networks.repeated import RepeatedBlock
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

_SLOPE = 0.2
_GAIN = math.sqrt(2 / (1 + _SLOPE**2))
"""Of a leaky ReLU: keeps the mean square."""


Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def _scaled(layer: Layer, gain: float) -> Layer:
    """The layer with weights ``N(0, gain^2 / inputs)`` and zero biases."""
    nn.init.normal_(layer.weight, 0, gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Stages(Config):
    """What the networks of both sides have in common.

    Attributes:
        channels: Of the stages, from the coarsest grid, each half as fine as the next; the last has the tokens' grid.
        blocks: Residual blocks of a stage.
        expansion: Channels inside a block over those of its stage.
        group: Channels of a group of the 3x3 convolution.
    """

    channels: tuple[PositiveInt, ...] = Field(default=(256, 128), min_length=1)
    blocks: int = Field(default=2, ge=1)
    expansion: int = Field(default=2, ge=1)
    group: int = Field(default=16, ge=1)

    @property
    def depth(self) -> int:
        """Blocks of the network."""
        return self.blocks * len(self.channels)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        for width in self.channels:
            if width * self.expansion % self.group:
                raise ValueError(f"group: {self.group} channels do not divide the {width * self.expansion} inside a block of {width}")
        return self


class _Block(RepeatedBlock):
    def __init__(self, channels: int, config: Stages) -> None:
        super().__init__()
        inner, gain = channels * config.expansion, _GAIN * config.depth**-0.25
        self.widen = _scaled(nn.Conv2d(channels, inner, 1), gain)
        self.mix = _scaled(nn.Conv2d(inner, inner, 3, padding=1, groups=inner // config.group), gain)
        self.narrow = _scaled(nn.Conv2d(inner, channels, 1, bias=False), 0)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.leaky_relu(self.mix(F.leaky_relu(self.widen(x), _SLOPE)), _SLOPE)
        return x + self.narrow(inner)


class ResidualDecoder(ConcatenatingDecoder):
    """A learned coarsest map, weighted by the vector, and stages of blocks."""

    def __init__(self, size: int, config: ResidualToTokens, sizes: BlockSizes) -> None:
        super().__init__(size, config.condition, sizes)
        widths = config.channels
        self.basis = nn.Parameter(torch.randn(widths[0], *coarsest(sizes, len(widths) - 1, "residual")))
        self.input = _scaled(nn.Linear(self.joined, widths[0], bias=False), 1)
        self.stages = nn.ModuleList(nn.Sequential(*(_Block(width, config) for _ in range(config.blocks))) for width in widths)
        self.changes = nn.ModuleList(_scaled(nn.Conv2d(a, b, 1, bias=False), 1) for a, b in pairwise(widths))
        self.output = _scaled(nn.Conv2d(widths[-1], sizes.channels, 1), 1)

    def forward(self, vectors: Tensor, block: BlockInputs) -> Tensor:
        """See :meth:`VectorDecoder.forward`."""
        x = self.basis * self.input(self.join(vectors, block))[..., None, None]
        x = self.stages[0](x)
        for change, stage in zip(self.changes, self.stages[1:], strict=True):
            x = stage(F.interpolate(change(x), scale_factor=2, mode="bilinear"))
        return tokens_of(self.output(x))


class ResidualEncoder(VectorEncoder):
    """The mirror image: stages of blocks, and at the coarsest grid a learned weight for each place and channel."""

    def __init__(self, config: ResidualFromTokens, sizes: BlockSizes) -> None:
        widths = config.channels[::-1]
        super().__init__(widths[-1])
        self.grid = sizes.grid
        rows, columns = coarsest(sizes, len(widths) - 1, "residual")
        self.input = _scaled(nn.Conv2d(sizes.channels, widths[0], 1), 1)
        self.stages = nn.ModuleList(nn.Sequential(*(_Block(width, config) for _ in range(config.blocks))) for width in widths)
        self.changes = nn.ModuleList(_scaled(nn.Conv2d(a, b, 1, bias=False), 1) for a, b in pairwise(widths))
        self.basis = _scaled(nn.Conv2d(widths[-1], widths[-1], (rows, columns), groups=widths[-1], bias=False), 1)
        self.output = _scaled(nn.Linear(widths[-1], widths[-1]), 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """See :meth:`VectorEncoder.forward`."""
        x = self.stages[0](self.input(maps_of(tokens, self.grid)))
        for change, stage in zip(self.changes, self.stages[1:], strict=True):
            x = stage(change(F.avg_pool2d(x, 2)))
        features: Tensor = self.output(self.basis(x).flatten(1))
        return features


class ResidualToTokens(Stages, VectorDecoderSettings, family="vector_decoder", name="residual"):
    """R3GAN's generator.

    Attributes:
        condition: Numbers of the vector that the condition is reduced to.
    """

    condition: int = Field(default=128, ge=8)

    def build(self, size: int, sizes: BlockSizes) -> ResidualDecoder:
        """See :meth:`VectorDecoderSettings.build`."""
        return ResidualDecoder(size, self, sizes)


class ResidualFromTokens(Stages, VectorEncoderSettings, family="vector_encoder", name="residual"):
    """R3GAN's discriminator up to its last vector."""

    def build(self, sizes: BlockSizes) -> ResidualEncoder:
        """See :meth:`VectorEncoderSettings.build`."""
        return ResidualEncoder(self, sizes)
