"""PixelRNN: a map of pixels to a hidden vector per colour value, autoregressive in raster order (arXiv 1601.06759).

A masked convolution (mask A), a residual stack of recurrent layers, and two (ReLU, 1x1) layers. Differences to the paper: input vectors are
scaled to unit size, and a pooled condition is a bias on the gates of every layer (in the paper's multi-scale variant, a smaller picture
is).
"""

from __future__ import annotations

import math
from typing import Literal, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from jielong.config.registry import Config
from jielong.networks.backbone import Backbone, BackboneInputs, check_raster
from jielong.networks.eligibility import can_fuse
from jielong.networks.gated import initialise, unit_rms
from jielong.networks.masked_convolution import HorizontalConvolution, VerticalConvolution
from jielong.networks.pixel_grid import PixelGrid
from jielong.networks.pixelrnn_cache import PixelRNNCache
from jielong.networks.recurrence import DiagonalBiLSTM, Direction, GroupedLinear, Recurrence, RowLSTM
from jielong.networks.repeated import RepeatedBlock
from jielong.networks.replay import ReplayCache

Kind = Literal["row", "diagonal"]


class PixelRNNConfig(Config):
    """Sizes of a PixelRNN.

    Attributes:
        kind: ``row`` (an LSTM down the rows, whose receptive field is a triangle) or ``diagonal`` (LSTMs along both diagonals, whose
            receptive field is all that is above and to the left).
        layers: Recurrent layers.
        hidden: Channels of a layer's state, ``h`` in the paper, a multiple of the colours; between the layers there are ``2 h``.
        width: Channels ``D`` of a colour value's embedding and hidden vector.
        kernel: Width of the first convolution.
    """

    kind: Kind = "diagonal"
    layers: int = Field(default=7, ge=1)
    hidden: int = Field(default=48, ge=1)
    width: int = Field(default=64, ge=1)
    kernel: int = Field(default=7, ge=3)

    @model_validator(mode="after")
    def _kernel_has_a_middle(self) -> Self:
        if self.kernel % 2 == 0:
            raise ValueError(f"the first convolution has a pixel in its middle: kernel must be odd, not {self.kernel}")
        return self


class PixelConvolution(nn.Module):
    """The first layer: a ``kernel x kernel`` convolution under mask A, ``(B, H, W, inputs) -> (B, H, W + margin, outputs)``.

    The mask leaves two convolutions, one of the rows above and one of the row itself.

    Args:
        inputs: Channels of a pixel, in ``colours`` groups.
        outputs: Channels of a feature, in ``colours`` groups.
        kernel: Width and height, odd.
        margin: Additional columns computed on the right.
    """

    def __init__(self, inputs: int, outputs: int, colours: int, kernel: int, margin: int) -> None:
        super().__init__()
        self.reach, self.margin = kernel // 2, margin
        self.above = VerticalConvolution(inputs, outputs, kernel, strict=True)
        self.beside = HorizontalConvolution(inputs, outputs, self.reach, colours=colours, mask_b=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features of every pixel."""
        x = F.pad(x, (0, 0, 0, self.margin)).permute(0, 3, 1, 2)
        return (self.above(x) + self.beside(x)).permute(0, 2, 3, 1).contiguous()


class Layer(RepeatedBlock):
    """A recurrent layer as a residual branch: ``x + W states(x)``."""

    def __init__(self, states: Recurrence, hidden: int, features: int, groups: int) -> None:
        super().__init__()
        self.states = states
        self.out = GroupedLinear(hidden, features, groups)

    def forward(self, x: Tensor, pooled: Tensor | None) -> Tensor:
        """``(B, H, W, features)`` to the same."""
        return x + self.out(self.states(x, pooled))


FUSED = (
    *(PixelConvolution, VerticalConvolution, HorizontalConvolution, Layer, RowLSTM, DiagonalBiLSTM, Direction),
    *(GroupedLinear, nn.Linear, nn.ModuleList),
)
"""Modules whose computation the cached path replaces."""


class PixelRNN(Backbone["PixelRNNCache | ReplayCache"]):
    """PixelRNN with row LSTMs or diagonal BiLSTMs. Raises ``ValueError`` if the hidden width is no multiple of the colours.

    Args:
        grid: The picture; the colours of a pixel are sampled one after the other, in groups of channels.
    """

    def __init__(self, config: PixelRNNConfig, *, grid: PixelGrid, condition_width: int | None = None) -> None:
        super().__init__()
        kind, groups, width, hidden = config.kind, grid.colours, config.width, config.hidden
        if hidden % groups:
            raise ValueError(f"a hidden width of {hidden} cannot be shared by {groups} colours: it must be a multiple of {groups}")
        self.kind, self.grid, self.groups, self.width, self.hidden = kind, grid, groups, width, hidden
        self.features, self.condition_width, self.conditioned = 2 * hidden, condition_width, condition_width is not None
        recurrence: type[RowLSTM] | type[DiagonalBiLSTM] = RowLSTM if kind == "row" else DiagonalBiLSTM
        stack = [
            Layer(recurrence(self.features, hidden, groups, condition_width), hidden, self.features, groups) for _ in range(config.layers)
        ]
        self.margin = stack[0].states.margin
        self.input = PixelConvolution(groups * width, self.features, groups, config.kernel, self.margin)
        self.layers = nn.ModuleList(stack)
        self.first = GroupedLinear(self.features, groups * width, groups)
        self.second = GroupedLinear(groups * width, groups * width, groups)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Initialise all weights.

        ============================================  ===================================
        weights                                       N(0, 1 / inputs)
        the two parts of the first convolution        N(0, 1 / (2 inputs))
        maps that end a residual branch               N(0, 1 / (layers inputs))
        forget gates                                  bias 1
        other biases, initial states, conditions      0
        ============================================  ===================================
        """
        for convolution in (self.input.above, self.input.beside):
            initialise(convolution, gain=math.sqrt(0.5))  # their outputs are added
        for layer in self.stack:
            for direction in layer.states.both:
                direction.initialise()
            nn.init.normal_(layer.out.weight, std=1 / math.sqrt(len(self.stack) * self.hidden))
            nn.init.zeros_(layer.out.bias)
        initialise(self.first)
        initialise(self.second)

    @property
    def stack(self) -> list[Layer]:
        """The layers, first to last."""
        return [cast("Layer", layer) for layer in self.layers]

    def forward(self, inputs: BackboneInputs, cache: PixelRNNCache | ReplayCache | None = None, commit: bool = True) -> Tensor:
        """Hidden vectors ``(B, n, D)``; see :meth:`Backbone.forward`. Of the condition its pooled vector is read.

        Raises ``ValueError`` if shapes do not fit, a condition is missing or not wanted, the picture is full, or ``commit`` is false.
        """
        self.check(inputs, cache)
        x, done = inputs.embeddings, 0 if cache is None else cache.length
        if done + x.shape[1] > self.grid.positions:
            raise ValueError(f"a picture has {self.grid.positions} positions: {x.shape[1]} do not fit after {done}")
        pooled = None if inputs.conditioning is None else unit_rms(inputs.conditioning.pooled)
        if cache is None:
            return self._whole(x, pooled)
        if not commit:
            raise ValueError("a recurrence cannot take a step back: every cached call of a PixelRNN commits")
        if isinstance(cache, ReplayCache):
            return cache.extend(x, pooled, self._whole, commit)
        with torch.no_grad():
            if not cache.started:
                cache.begin(x[:, 0], pooled)
            vectors = unit_rms(x - cache.start[0][:, None])
            return torch.stack([cache.step(vector) for vector in vectors.unbind(1)], dim=1)

    def _whole(self, inputs: Tensor, pooled: Tensor | None) -> Tensor:
        # Less the first embedding, so that zero padding means the start of the sequence.
        known = unit_rms(inputs[:, 1:] - inputs[:, :1])
        rows = -(-inputs.shape[1] // self.grid.row)
        pixels = F.pad(known, (0, 0, 0, rows * self.grid.row - known.shape[1]))
        x = self.input(pixels.unflatten(1, (rows, self.grid.columns, self.groups)).flatten(3))
        for layer in self.stack:
            x = layer(x, pooled)
        hidden = self.second(F.relu(self.first(F.relu(x[:, :, : self.grid.columns]))))
        return hidden.reshape(len(inputs), -1, self.width)[:, : inputs.shape[1]]

    def new_cache(
        self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> PixelRNNCache | ReplayCache:
        """The last rows, in float32 as a recurrence must be; all embeddings where the layers cannot be fused."""
        if not can_fuse(self.children(), FUSED):
            return ReplayCache(batch, positions)
        return PixelRNNCache(self, batch, device or self.second.weight.device)

    def cache_bytes(self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype = torch.float32) -> int:
        """Bytes of the rows that ``new_cache`` keeps, its masked copy of the weights not counted."""
        return PixelRNNCache(self, batch, "meta").nbytes

    def check_order(self, blocks: Tensor, shifted: bool) -> None:
        """Raise ``ValueError`` unless the order is raster."""
        check_raster(self, blocks, shifted)
