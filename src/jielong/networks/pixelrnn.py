"""PixelRNN: a map of pixels in, a hidden vector a colour value out, no value seen before its turn (arXiv 1601.06759).

A masked convolution (mask A), a residual stack of recurrent layers, and two (ReLU, 1x1) layers. Two things are not in the paper: input
vectors are scaled to unit size (there the intensities were), and a pooled condition is a bias on the gates of every layer, as the paper's
multi-scale variant lets one picture condition another.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.backbone import Backbone, check_raster
from jielong.networks.conditioning import Conditioning
from jielong.networks.norm import rms_norm
from jielong.networks.pixel_grid import PixelGrid
from jielong.networks.pixelrnn_cache import PixelRNNCache
from jielong.networks.recurrence import DiagonalBiLSTM, GroupedLinear, Recurrence, RowLSTM, group_mask

Kind = Literal["row", "diagonal"]


class PixelConvolution(nn.Module):
    """The first layer: a ``kernel x kernel`` convolution under mask A, ``(B, H, W, inputs) -> (B, H, W + margin, outputs)``.

    The rows that the mask zeroes are not computed. Its weights are kept in two parts, for the rows above and for the row itself.

    Args:
        inputs: Channels of a pixel, in ``groups`` groups.
        outputs: Channels of a feature, in ``groups`` groups.
        groups: Colour groups.
        kernel: Width and height, odd.
        margin: Columns computed beyond the last.
    """

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, groups: int, kernel: int, margin: int) -> None:
        super().__init__()
        self.reach, self.margin = kernel // 2, margin
        self.above = nn.Conv2d(inputs, outputs, (self.reach, kernel)) if self.reach else None
        self.beside = nn.Linear((self.reach + 1) * inputs, outputs)
        mask = F.pad(group_mask(outputs, inputs, groups, strict=True), (self.reach * inputs, 0), value=1.0)
        self.register_buffer("mask", mask, persistent=False)

    @torch.no_grad()
    def initialise(self) -> None:
        """Weights N(0, 1 / inputs), counting those of both parts; biases 0."""
        parts = [self.beside] if self.above is None else [self.above, self.beside]
        taps = sum(part.weight[0].numel() for part in parts)
        for part in parts:
            nn.init.normal_(part.weight, std=1 / math.sqrt(taps))
            nn.init.zeros_(cast("nn.Parameter", part.bias))

    def masked(self) -> Tensor:
        """The weight for the row itself, ``(outputs, (reach + 1) inputs)``, left to right."""
        return self.beside.weight * self.mask

    def rows_above(self, x: Tensor) -> Tensor:
        """What rows add to the row behind each window of ``reach`` of them: ``(B, H, W + 2 reach + margin, inputs)``, padded, to
        ``(B, H - reach + 1, W + margin, outputs)``.
        """
        if self.above is None:
            return x.new_zeros(1, 1, 1, 1)
        return self.above(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Features of every pixel."""
        reach, columns = self.reach, x.shape[2] + self.margin
        wide = F.pad(x, (0, 0, reach, reach + self.margin, reach, 0))
        row = torch.cat([wide[:, reach:, tap : tap + columns] for tap in range(reach + 1)], dim=-1)
        return F.linear(row, self.masked(), self.beside.bias) + self.rows_above(wide[:, :-1] if reach else wide)


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
        if kernel % 2 == 0:
            raise ValueError(f"the first convolution has a pixel in its middle: its kernel must be odd, not {kernel}")
        self.kind, self.grid, self.groups, self.width, self.hidden = kind, grid, groups, width, hidden
        self.features, self.condition_width = 2 * hidden, condition_width
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
        maps that end a residual branch               N(0, 1 / (layers inputs))
        forget gates                                  bias 1
        other biases, first states, conditions        0
        ============================================  ===================================
        """
        self.input.initialise()
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

    def forward(
        self,
        inputs: Tensor,
        coordinates: Tensor,
        blocks: Tensor,
        conditioning: Conditioning | None = None,
        cache: PixelRNNCache | None = None,
        commit: bool = True,
    ) -> Tensor:
        """Hidden vectors ``(B, n, D)``; see :meth:`Backbone.forward`. Of the condition its pooled vector is read.

        Raises:
            ValueError: if shapes do not fit, a condition is missing or not wanted, the picture is full, or ``commit`` is false.
        """
        self._check(inputs, conditioning, cache, commit)
        pooled = None if conditioning is None else conditioning.pooled
        if cache is None:
            return self._whole(inputs, pooled)
        with torch.no_grad():
            if not cache.started:
                cache.take(inputs[:, 0], pooled)
            vectors = scaled(inputs - cache.start[0][:, None])
            return torch.stack([cache.step(vector) for vector in vectors.unbind(1)], dim=1)

    def _whole(self, inputs: Tensor, pooled: Tensor | None) -> Tensor:
        pixels = scaled(self.grid.unshifted(inputs).permute(0, 3, 4, 1, 2))  # (B, rows, columns, colours, D)
        x = self.input(pixels.flatten(3))
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

    def _check(self, inputs: Tensor, conditioning: Conditioning | None, cache: PixelRNNCache | None, commit: bool) -> None:
        if inputs.ndim != 3 or inputs.shape[2] != self.width:
            raise ValueError(f"inputs must be (batch, positions, {self.width}), not {tuple(inputs.shape)}")
        done = 0 if cache is None else cache.length
        if done + inputs.shape[1] > self.grid.positions:
            raise ValueError(f"a picture has {self.grid.positions} positions: {inputs.shape[1]} do not fit behind {done}")
        taken = cache is not None and cache.started
        if self.condition_width is None and conditioning is not None:
            raise ValueError("this PixelRNN takes no condition, but one was given")
        if self.condition_width is not None and conditioning is None and not taken:
            raise ValueError("this PixelRNN takes a condition, but none was given")
        if conditioning is not None and taken:
            raise ValueError("the cache holds a condition already: give it to the first cached call only")
        if cache is not None and cache.batch != len(inputs):
            raise ValueError(f"the cache is for a batch of {cache.batch}, not {len(inputs)}")
        if cache is not None and not commit:
            raise ValueError("a recurrence cannot take a step back: every cached call of a PixelRNN commits")


def scaled(vectors: Tensor) -> Tensor:
    """Vectors of unit size ``(..., D)``: embeddings begin small, and no norm follows that would make up for it. Zero stays zero."""
    return rms_norm(vectors, None, 1e-6)
