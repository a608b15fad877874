"""Decoders of the video pixel network (arXiv 1610.00527): hidden vectors of a frame's pixels, given a map of the frames before it.

The PixelCNN decoder is a stack of residual multiplicative blocks (:mod:`jielong.networks.multiplicative`) for the rows above and one for
the row itself, as in the gated PixelCNN, in place of one stack of masked square kernels, which has a blind spot. With ``v`` and ``h`` the
vertical and the horizontal stack, and ``s`` the map of the past, a block is

    p = W_v v                     q = W_h h
    a = V * p + C_v s             b = H * q + L a + C_h s          (the map in the first of two units alone)
    p <- unit(a, p)               q <- unit(b, q)
    v <- v + U_v p                h <- h + U_h q

``V`` covers rows above, ``H`` the row to the left; all others are 1x1. Nothing goes from ``h`` to ``v``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.gated import initialise
from jielong.networks.masked_convolution import HorizontalConvolution, VerticalConvolution
from jielong.networks.multiplicative import MAPS, MultiplicativeBlock, Unit, activate, initialise_unit
from jielong.networks.pixel_cache import Map, PixelCache, by_colour
from jielong.networks.pixel_grid import PixelGrid
from jielong.networks.repeated import RepeatedBlock

MEMORY = 0.125
"""About the root mean square of a new LSTM's states: the first weights of what reads them make up for it."""


class DecoderBlock(RepeatedBlock):
    """One block of both stacks: ``(B, F, H, W)`` each; ``F / 2`` is a multiple of ``colours``, the positions of a pixel.

    ``last``: whether nothing reads the vertical stack after it.
    """

    def __init__(self, features: int, unit: Unit, colours: int, depth: int, *, last: bool) -> None:
        super().__init__()
        inner, self.unit, count = features // 2, unit, MAPS[unit]
        self.enter_vertical, self.leave_vertical = nn.Conv2d(features, inner, 1), None if last else nn.Conv2d(inner, features, 1)
        self.enter_horizontal = HorizontalConvolution(features, inner, 0, colours=colours)
        self.leave_horizontal = HorizontalConvolution(inner, features, 0, colours=colours)
        self.verticals = nn.ModuleList(VerticalConvolution(inner, count * inner, 3) for _ in range(2))
        self.horizontals = nn.ModuleList(HorizontalConvolution(inner, count * inner, 1, colours=colours, parts=count) for _ in range(2))
        self.links = nn.ModuleList(nn.Conv2d(count * inner, count * inner, 1, bias=False) for _ in range(2))
        self.past = nn.Conv2d(features, 2 * count * inner, 1, bias=False)
        self.initialise(depth)

    @torch.no_grad()
    def initialise(self, depth: int) -> None:
        """Initialise all weights (table in :mod:`jielong.networks.gated`), for a stack of ``depth`` blocks."""
        initialise(self.enter_vertical)
        initialise(self.enter_horizontal)
        initialise(self.past, math.sqrt(0.5) / MEMORY)
        for leave in (self.leave_vertical, self.leave_horizontal):
            if leave is not None:
                initialise(leave, 1 / math.sqrt(depth))
        for vertical, horizontal, link in self.layers:
            initialise_unit(vertical, self.unit)
            initialise_unit(horizontal, self.unit, math.sqrt(0.5))
            initialise(link, math.sqrt(0.5))
            assert horizontal.bias is not None
            nn.init.zeros_(horizontal.bias)  # the biases of gates come through the link

    @property
    def layers(self) -> list[tuple[VerticalConvolution, HorizontalConvolution, nn.Conv2d]]:
        """The convolutions of each unit: vertical, horizontal, and the link from the one to the other."""
        return list(zip(self.verticals, self.horizontals, self.links, strict=True))  # type: ignore[arg-type]

    def forward(self, v: Tensor, h: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """The vertical and the horizontal stack after this block; ``past``: the map of earlier frames, ``(B, F, H, W)``."""
        p, q = self.enter_vertical(v), self.enter_horizontal(h)
        above, beside = self.past(past).chunk(2, dim=1)
        for number, (vertical, horizontal, link) in enumerate(self.layers):
            a = vertical(p) if number else vertical(p) + above
            b = horizontal(q) + link(a)
            p, q = activate(self.unit, a, p), activate(self.unit, b if number else b + beside, q)
        return v if self.leave_vertical is None else v + self.leave_vertical(p), h + self.leave_horizontal(q)


FUSED = DecoderBlock, VerticalConvolution, HorizontalConvolution, nn.Conv2d, nn.ModuleList
"""Modules whose computation the cached path replaces."""


@dataclass(frozen=True)
class BlockMaps:
    """The horizontal stack's weights of a block, masked, by colour."""

    enter: list[Map]
    units: list[list[Map]]
    leave: list[Map]


@dataclass(frozen=True)
class Weights:
    """The horizontal stack's weights, masked, taken once a batch that is drawn."""

    first: list[Map]
    blocks: list[BlockMaps]
    out: list[Map]


class PixelDecoder(nn.Module):
    """The PixelCNN decoder.

    Args:
        grid: A frame.
        inputs: Channels of a pixel, in groups of colours.
        width: Channels ``D`` of a position's hidden vector.
        features: Channels ``F`` of each stack and of the map of the past.
        layers: Blocks.
        kernel: Width of the first convolution.
    """

    def __init__(self, grid: PixelGrid, inputs: int, width: int, features: int, layers: int, unit: Unit, kernel: int) -> None:
        super().__init__()
        self.grid, self.features, self.unit, colours = grid, features, unit, grid.colours
        self.first_vertical = VerticalConvolution(inputs, features, kernel, strict=True)
        self.first_horizontal = HorizontalConvolution(inputs, features, kernel // 2, colours=colours, mask_b=False)
        stack = nn.ModuleList(DecoderBlock(features, unit, colours, layers, last=layer == layers - 1) for layer in range(layers))
        self.blocks = cast("Sequence[DecoderBlock]", stack)
        self.out = HorizontalConvolution(features, colours * width, 0, colours=colours)
        for layer in (self.first_vertical, self.first_horizontal, self.out):
            initialise(layer)

    def forward(self, pixels: Tensor, past: Tensor) -> Tensor:
        """Known pixels ``(B, inputs, H, W)`` and the map of earlier frames to hidden vectors ``(B, colours D, H, W)``."""
        v, h = self.first_vertical(pixels), self.first_horizontal(pixels)
        for block in self.blocks:
            v, h = block(v, h, past)
        return F.silu(self.out(F.silu(h)))

    # With a cache the vertical stack runs once a row, the horizontal one once a position.

    def weights(self) -> Weights:
        """The present weights of the horizontal stack."""
        colours = self.grid.colours
        blocks = [
            BlockMaps(
                by_colour(block.enter_horizontal, colours),
                [by_colour(horizontal, colours, MAPS[self.unit]) for _, horizontal, _ in block.layers],
                by_colour(block.leave_horizontal, colours),
            )
            for block in self.blocks
        ]
        return Weights(by_colour(self.first_horizontal, colours), blocks, by_colour(self.out, colours))

    def new_cache(self, batch: int, dtype: torch.dtype, device: torch.device | str) -> PixelCache:
        """Buffers of a frame in which nothing is known; of ``gates`` the first half are the blocks' inner features, then their inputs."""
        layers = [layer for block in self.blocks for layer in block.layers]
        verticals = [self.first_vertical, *(vertical for vertical, _, _ in layers)]
        horizontals = [self.first_horizontal, *(horizontal for _, horizontal, _ in layers)]
        columns, colours, features = self.grid.columns, self.grid.colours, self.features

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(batch, *shape, dtype=dtype, device=device)

        return PixelCache(
            start=zeros(0),
            above=[zeros(layer.in_channels, layer.height, columns) for layer in verticals],
            beside=[zeros(layer.reach + columns, layer.in_channels) for layer in horizontals],
            links=[[zeros(columns, MAPS[self.unit] * features // 2 // colours).unbind(1)] * colours for _ in layers],
            gates=[zeros(features // 2) for _ in self.blocks] + [zeros(features) for _ in self.blocks],
            last=zeros(features),
            taps=[layer.taps for layer in horizontals],
            colours=colours,
            capacity=self.grid.positions,
        )

    def next(self, known: Tensor | None, past: Tensor, weights: Weights, cache: PixelCache) -> Tensor:
        """The hidden vector of the next position, ``(B, D)``.

        Args:
            known: What the position before holds, its share of the channels of a pixel, ``(B, inputs / colours)``; ``None`` at the first.
            past: The map of earlier frames, ``(B, F, H, W)``.
            weights: Those of :meth:`weights`.
            cache: Of the positions before.
        """
        row, column, colour = self.grid.place(cache.length)
        if known is not None:
            _, before, which = self.grid.place(cache.length - 1)
            cache.cut().inputs[0][before][which].copy_(known)
        if column == colour == 0:
            self._begin_row(row, past, cache)
        cache.length += 1
        return self._along(column, colour, weights, cache)

    def _begin_row(self, row: int, past: Tensor, cache: PixelCache) -> None:
        """The vertical stack of a new row, and its contribution to the horizontal one."""
        if row > 0:
            cache.push(0, cache.beside[0][:, self.first_horizontal.reach :].transpose(1, 2))
        v, colours, here = self.first_vertical.row(cache.above[0]), self.grid.colours, past[:, :, row : row + 1]
        number = 0
        for block in self.blocks:
            above, beside = block.past(here)[:, :, 0].chunk(2, dim=1)
            p = block.enter_vertical(v[:, :, None])[:, :, 0]
            for place, (vertical, horizontal, link) in enumerate(block.layers):
                a = vertical.row(cache.push(number + 1, p))
                a = a if place else a + above
                b = link(a[:, :, None])[:, :, 0] + cast("Tensor", horizontal.bias)[:, None]
                b = (b if place else b + beside).transpose(1, 2)  # (B, W, maps F / 2)
                parts = b.unflatten(2, (MAPS[self.unit], colours, -1)).unbind(3)
                cache.links[number] = [part.flatten(2).unbind(1) for part in parts]
                p, number = activate(self.unit, a, p), number + 1
            if block.leave_vertical is not None:
                v = v + block.leave_vertical(p[:, :, None])[:, :, 0]

    def _along(self, column: int, colour: int, weights: Weights, cache: PixelCache) -> Tensor:
        """The horizontal stack of one position of the row."""
        views, depth, number = cache.cut(), len(self.blocks), 1
        # Channels of later colours hold what the pixel before had; the masked weights are zero there.
        states = [*views.gates[depth:], views.inputs[-1][column]]
        h = states[0][colour].copy_(weights.first[colour](views.windows[0][column]))
        for layer, maps in enumerate(weights.blocks):
            q = maps.enter[colour](cache.gates[depth + layer])
            for unit in maps.units:
                views.inputs[number][column][colour].copy_(q)
                b = torch.addmm(cache.links[number - 1][colour][column], views.windows[number][column], unit[colour].weight)
                q, number = activate(self.unit, b, q), number + 1
            views.gates[layer][colour].copy_(q)
            leave = maps.leave[colour]
            h = states[layer + 1][colour].copy_(h + leave(cache.gates[layer]))
        return F.silu(weights.out[colour](F.silu(cache.last)))


class IndependentDecoder(nn.Module):
    """The paper's baseline: all pixels and colours of a frame independently, given the map of earlier frames.

    The arguments are those of :class:`PixelDecoder`.
    """

    def __init__(self, grid: PixelGrid, width: int, features: int, layers: int, unit: Unit) -> None:
        super().__init__()
        self.enter = nn.Conv2d(features, features, 1, bias=False)
        self.blocks = nn.ModuleList(MultiplicativeBlock(features, unit, depth=layers) for _ in range(layers))
        self.out = nn.Conv2d(features, grid.colours * width, 1)
        initialise(self.enter, 1 / MEMORY)
        initialise(self.out)

    def forward(self, pixels: Tensor, past: Tensor) -> Tensor:
        """As :meth:`PixelDecoder.forward`; the known pixels are not read."""
        x = self.enter(past)
        for block in self.blocks:
            x = block(x)
        return F.silu(self.out(F.silu(x)))
