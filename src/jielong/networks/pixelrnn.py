"""PixelRNN: a map of pixels in, a hidden vector a colour value out, no value seen before its turn (arXiv 1601.06759).

A masked convolution (mask A), a residual stack of recurrent layers, and two (ReLU, 1x1) layers. Two things are not in the paper: vectors
that come in are scaled to unit size (there the intensities were), and a pooled condition is a bias on the gates of every layer (there, in
the multi-scale variant, a smaller picture is).
"""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.backbone import Backbone, BackboneInputs, check_raster
from jielong.networks.masked_convolution import HorizontalConvolution, VerticalConvolution, initialise
from jielong.networks.norm import rms_norm
from jielong.networks.pixel_grid import PixelGrid
from jielong.networks.pixelrnn_cache import PixelRNNCache
from jielong.networks.recurrence import DiagonalBiLSTM, GroupedLinear, Recurrence, RowLSTM

Kind = Literal["row", "diagonal"]


class PixelConvolution(nn.Module):
    """The first layer: a ``kernel x kernel`` convolution under mask A, ``(B, H, W, inputs) -> (B, H, W + margin, outputs)``.

    What the mask leaves are two convolutions, one of the rows above and one of the row itself.

    Args:
        inputs: Channels of a pixel, in as many groups as there are colours.
        outputs: Channels of a feature, in as many groups.
        colours: Number of groups.
        kernel: Width and height, odd.
        margin: Columns computed beyond the last.
    """

    def __init__(self, inputs: int, outputs: int, colours: int, kernel: int, margin: int) -> None:
        super().__init__()
        self.reach, self.margin = kernel // 2, margin
        self.above = VerticalConvolution(inputs, outputs, kernel, strict=True)
        self.beside = HorizontalConvolution(inputs, outputs, self.reach, colours=colours, own=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features of every pixel."""
        x = F.pad(x, (0, 0, 0, self.margin)).permute(0, 3, 1, 2)
        return (self.above(x) + self.beside(x)).permute(0, 2, 3, 1).contiguous()


class Layer(nn.Module):
    """A recurrent layer as a residual branch: ``x + W states(x)``."""

    def __init__(self, states: Recurrence, hidden: int, features: int, groups: int) -> None:
        super().__init__()
        self.states = states
        self.out = GroupedLinear(hidden, features, groups)

    def forward(self, x: Tensor, pooled: Tensor | None) -> Tensor:
        """``(B, H, W, features)`` to the same."""
        return x + self.out(self.states(x, pooled))


class PixelRNN(Backbone[PixelRNNCache]):
    """PixelRNN with row LSTMs or diagonal BiLSTMs, between vectors of width ``D``.

    Args:
        kind: ``row`` or ``diagonal``.
        grid: The picture; its colours are drawn one after the other, in groups of channels.
        layers: Recurrent layers.
        width: Channels ``D`` of a colour value's input and hidden vector.
        hidden: Channels of a layer's state, ``h`` in the paper; between the layers there are ``2 h``. A multiple of the colours.
        kernel: Width of the first convolution, odd.
        condition_width: Channels of the pooled condition; ``None`` for no condition.

    Raises:
        ValueError: if the sizes do not fit together.
    """

    def __init__(
        self, *, kind: Kind, grid: PixelGrid, layers: int, width: int, hidden: int, kernel: int = 7, condition_width: int | None = None
    ) -> None:
        super().__init__()
        groups = grid.colours
        if hidden % groups:
            raise ValueError(f"a hidden width of {hidden} cannot be shared by {groups} colours: it must be a multiple of {groups}")
        if kernel % 2 == 0 or kernel < 3:
            raise ValueError(f"the first convolution looks around a pixel in its middle: its kernel must be odd, 3 or more, not {kernel}")
        self.kind, self.grid, self.groups, self.width, self.hidden = kind, grid, groups, width, hidden
        self.features, self.condition_width, self.conditioned = 2 * hidden, condition_width, condition_width is not None
        recurrence: type[RowLSTM] | type[DiagonalBiLSTM] = RowLSTM if kind == "row" else DiagonalBiLSTM
        stack = [Layer(recurrence(self.features, hidden, groups, condition_width), hidden, self.features, groups) for _ in range(layers)]
        self.margin = stack[0].states.margin
        self.input = PixelConvolution(groups * width, self.features, groups, kernel, self.margin)
        self.layers = nn.ModuleList(stack)
        self.first = GroupedLinear(self.features, groups * width, groups)
        self.second = GroupedLinear(groups * width, groups * width, groups)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw all weights anew.

        ============================================  ===================================
        weights                                       N(0, 1 / inputs)
        the two parts of the first convolution        N(0, 1 / (2 inputs))
        maps that end a residual branch               N(0, 1 / (layers inputs))
        forget gates                                  bias 1
        other biases, first states, conditions        0
        ============================================  ===================================
        """
        for convolution in (self.input.above, self.input.beside):
            initialise(convolution, gain=math.sqrt(0.5))  # the two are added
        for layer in self.stack:
            for direction in layer.states.both:
                direction.initialise()
            nn.init.normal_(layer.out.weight, std=1 / math.sqrt(len(self.stack) * self.hidden))
            nn.init.zeros_(layer.out.bias)
        for last in (self.first, self.second):
            nn.init.normal_(last.weight, std=1 / math.sqrt(last.in_features))
            nn.init.zeros_(last.bias)

    @property
    def stack(self) -> list[Layer]:
        """The layers, first to last."""
        return [cast("Layer", layer) for layer in self.layers]

    def forward(self, inputs: BackboneInputs, cache: PixelRNNCache | None = None, commit: bool = True) -> Tensor:
        """Hidden vectors ``(B, n, D)``; see :meth:`Backbone.forward`. Of the condition its pooled vector is read.

        Raises:
            ValueError: if shapes do not fit, a condition is missing or not wanted, the picture is full, or ``commit`` is false.
        """
        self.check(inputs, cache)
        x, done = inputs.embeddings, 0 if cache is None else cache.length
        if done + x.shape[1] > self.grid.positions:
            raise ValueError(f"a picture has {self.grid.positions} positions: {x.shape[1]} do not fit behind {done}")
        pooled = None if inputs.conditioning is None else scaled(inputs.conditioning.pooled)
        if cache is None:
            return self._whole(x, pooled)
        if not commit:
            raise ValueError("a recurrence cannot take a step back: every cached call of a PixelRNN commits")
        with torch.no_grad():
            if not cache.started:
                cache.take(x[:, 0], pooled)
            vectors = scaled(x - cache.start[0][:, None])
            return torch.stack([cache.step(vector) for vector in vectors.unbind(1)], dim=1)

    def _whole(self, inputs: Tensor, pooled: Tensor | None) -> Tensor:
        # The first input begins the chain and so stands for what is not there: it is what zero padding pads with.
        known = scaled(inputs[:, 1:] - inputs[:, :1])
        rows = -(-inputs.shape[1] // self.grid.row)
        pixels = F.pad(known, (0, 0, 0, rows * self.grid.row - known.shape[1]))
        x = self.input(pixels.unflatten(1, (rows, self.grid.columns, self.groups)).flatten(3))
        for layer in self.stack:
            x = layer(x, pooled)
        hidden = self.second(F.relu(self.first(F.relu(x[:, :, : self.grid.columns]))))
        return hidden.reshape(len(inputs), -1, self.width)[:, : inputs.shape[1]]

    def new_cache(
        self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> PixelRNNCache:
        """The last rows of ``batch`` pictures, in float32 as a recurrence must be. Positions and the condition's states cost nothing."""
        return PixelRNNCache(self, batch, device or self.second.weight.device)

    def cache_bytes(self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype = torch.float32) -> int:
        """Bytes of the rows that ``new_cache`` keeps, its masked copy of the weights not counted."""
        return self.new_cache(batch, positions, prefix, dtype, "meta").nbytes

    def check_order(self, blocks: Tensor, shifted: bool) -> None:
        """Only the raster order fits; see :meth:`Backbone.check_order`."""
        check_raster(self, blocks, shifted)


def scaled(vectors: Tensor) -> Tensor:
    """Vectors of unit size ``(..., D)``: embeddings begin small, and no norm follows that would make up for it. Zero stays zero."""
    return rms_norm(vectors, None, 1e-6)
