"""Gated PixelCNN: a stack of convolutions for the rows above and one for the row itself, without a blind spot (arXiv 1606.05328).

Every block is, with ``v`` and ``h`` the vertical and the horizontal stack, and ``c`` the pooled condition,

    a = V * v + C_v c                     gate(a) = tanh(a_1) sigmoid(a_2), of the two halves of the channels
    b = H * h + L a + C_h c
    v <- v + gate(a)
    h <- h + R gate(b)

``V`` covers rows above, ``H`` the row to the left; ``L`` and ``R`` are 1x1. Nothing goes from ``h`` to ``v``, which would leak the rest of
the row. The vertical stack is residual too (in the paper it is not): a gate halves its signal, and this lets it be deep.

Where each colour of a pixel is a token, the horizontal stack is masked by colours (:mod:`jielong.networks.masked_convolution`). The
vertical stack needs no mask: pixels above are complete.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from jielong.config.registry import Config
from jielong.networks.backbone import Backbone, BackboneInputs, check_raster
from jielong.networks.dropout import Dropout
from jielong.networks.eligibility import can_fuse
from jielong.networks.gated import gate, initialise, unit_rms, without_autocast
from jielong.networks.masked_convolution import HorizontalConvolution, VerticalConvolution
from jielong.networks.pixel_cache import Maps, PixelCache, by_colour
from jielong.networks.pixel_grid import PixelGrid
from jielong.networks.repeated import RepeatedBlock
from jielong.networks.replay import ReplayCache


class PixelCNNConfig(Config):
    """Sizes of a gated PixelCNN.

    Attributes:
        layers: Gated blocks.
        width: Channels ``D`` of a position's embedding and hidden vector.
        features: Channels ``F`` of each of the two stacks; ``width`` by default.
        first_kernel: Width of the first convolution.
        kernel: Width of the blocks' convolutions.
        dropout: Probability of dropping a gated feature.
    """

    layers: int = Field(default=8, ge=1)
    width: int = Field(default=64, ge=1)
    features: int | None = Field(default=None, ge=1)
    first_kernel: int = Field(default=7, ge=3)
    kernel: int = Field(default=3, ge=3)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _odd(self) -> Self:
        for name in ("first_kernel", "kernel"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} must be odd, so that a pixel stands in its middle, not {getattr(self, name)}")
        return self


class GatedBlock(RepeatedBlock):
    """One block of both stacks: ``(B, F, H, W)`` each, ``F`` a multiple of ``colours``, the positions of a pixel."""

    def __init__(self, features: int, config: PixelCNNConfig, colours: int, condition_width: int | None) -> None:
        super().__init__()
        self.vertical = VerticalConvolution(features, 2 * features, config.kernel)
        self.link = nn.Conv2d(2 * features, 2 * features, 1, bias=False)
        self.horizontal = HorizontalConvolution(features, 2 * features, config.kernel // 2, colours=colours, parts=2)
        self.residual = HorizontalConvolution(features, features, 0, colours=colours, bias=False)
        self.condition = nn.Linear(condition_width, 4 * features, bias=False) if condition_width is not None else None
        self.dropout = Dropout(config.dropout)

    def forward(self, v: Tensor, h: Tensor, pooled: Tensor | None) -> tuple[Tensor, Tensor]:
        """The vertical and the horizontal stack after this block."""
        above, beside = self.shifts(pooled)
        a = self.vertical(v)
        if above is not None and beside is not None:
            a = a + above[..., None, None]
        b = self.horizontal(h) + self.link(a)
        if beside is not None:
            b = b + beside[..., None, None]
        return v + self.dropout(gate(a, 1)), h + self.residual(self.dropout(gate(b, 1), 1))

    def shifts(self, pooled: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What the condition adds before the gates of both stacks, ``(B, 2 F)`` each."""
        if self.condition is None or pooled is None:
            return None, None
        above, beside = self.condition(unit_rms(pooled)).chunk(2, dim=-1)
        return above, beside


FUSED = GatedBlock, VerticalConvolution, HorizontalConvolution, nn.Conv2d, nn.Linear, Dropout, nn.ModuleList
"""Modules whose computation the cached path replaces."""


class PixelCNN(Backbone["PixelCache | ReplayCache"]):
    """Gated PixelCNN over a picture in raster order. Raises ``ValueError`` if the channels cannot be shared by the colours."""

    def __init__(self, config: PixelCNNConfig, *, grid: PixelGrid, condition_width: int | None = None) -> None:
        super().__init__()
        width, features, colours = config.width, config.features or config.width, grid.colours
        if features % colours:
            raise ValueError(f"{features} features cannot be shared by {colours} colours: choose a multiple of {colours}")
        self.grid, self.layers, self.width, self.features = grid, config.layers, width, features
        self.conditioned = condition_width is not None
        # With several tokens a pixel, each contributes a share of the first map; else the map is the tokens' vectors.
        share = features // colours if colours > 1 else width
        self.enter = nn.Linear(width, share, bias=False) if colours > 1 else None
        self.first_vertical = VerticalConvolution(colours * share, features, config.first_kernel, strict=True)
        self.first_horizontal = HorizontalConvolution(colours * share, features, config.first_kernel // 2, colours=colours, mask_b=False)
        stack = nn.ModuleList(GatedBlock(features, config, colours, condition_width) for _ in range(config.layers))
        self.blocks = cast("Sequence[GatedBlock]", stack)
        self.out = HorizontalConvolution(features, colours * width, 0, colours=colours)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Initialise all weights (table in :mod:`jielong.networks.gated`)."""
        for block in self.blocks:
            initialise(block.vertical)
            initialise(block.link, math.sqrt(0.5))
            initialise(block.horizontal, math.sqrt(0.5))
            initialise(block.residual, 1 / math.sqrt(self.layers))
            if block.condition is not None:
                nn.init.zeros_(block.condition.weight)
        for layer in (self.first_vertical, self.first_horizontal, self.out, self.enter):
            if layer is not None:
                initialise(layer)

    def check_order(self, blocks: Tensor, shifted: bool) -> None:
        """Raise ``ValueError`` unless the order is raster."""
        check_raster(self, blocks, shifted)

    def forward(self, inputs: BackboneInputs, cache: PixelCache | ReplayCache | None = None, commit: bool = True) -> Tensor:
        """Hidden vectors ``(B, n, D)``; see :meth:`Backbone.forward`. Of a condition the pooled vector is read."""
        self.check(inputs, cache)
        x, pooled = inputs.embeddings, None if inputs.conditioning is None else inputs.conditioning.pooled
        total = x.shape[1] + (0 if cache is None else cache.length)
        most = self.grid.positions if cache is None else cache.capacity
        if total > most:
            raise ValueError(f"the picture has {most} positions, but these are {total}")
        if cache is None:
            return self._whole(x, pooled)
        if isinstance(cache, ReplayCache):
            return cache.extend(x, pooled, self._whole, commit)
        with torch.no_grad(), without_autocast(x):
            if not cache.started:
                self._start(pooled, cache)
            if not commit:
                cache = cache.clone()
            return torch.stack([self._next(vector.to(cache.start.dtype), cache) for vector in x.unbind(1)], dim=1)

    def _tokens(self, vectors: Tensor, start: Tensor) -> Tensor:
        """Input of the first layer for embeddings ``(..., D)``, less that of the start, so that zero padding means the start."""
        scaled = unit_rms(vectors - start)
        return scaled if self.enter is None else self.enter(scaled)

    def _whole(self, inputs: Tensor, pooled: Tensor | None) -> Tensor:
        positions = inputs.shape[1]
        x = self.grid.picture(self._tokens(inputs[:, 1:], inputs[:, :1]), rows=math.ceil(positions / self.grid.row))
        v, h = self.first_vertical(x), self.first_horizontal(x)
        for block in self.blocks:
            v, h = block(v, h, pooled)
        return self.grid.chain(F.silu(self.out(F.silu(h))), positions)

    # With a cache the vertical stack runs once a row, the horizontal one once a position.

    def new_cache(
        self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> PixelCache | ReplayCache:
        """Buffers of a few rows, independent of ``positions``; all embeddings where the layers cannot be fused."""
        if not can_fuse(self.children(), FUSED):
            return ReplayCache(batch, positions)
        return self._empty_cache(batch, positions, dtype or self.out.weight.dtype, device or self.out.weight.device)

    def _empty_cache(self, batch: int, positions: int, dtype: torch.dtype, device: torch.device | str) -> PixelCache:
        verticals = [self.first_vertical, *(block.vertical for block in self.blocks)]
        horizontals = [self.first_horizontal, *(block.horizontal for block in self.blocks)]
        columns, colours = self.grid.columns, self.grid.colours

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(batch, *shape, dtype=dtype, device=device)

        return PixelCache(
            start=zeros(self.width),
            above=[zeros(layer.in_channels, layer.height, columns) for layer in verticals],
            beside=[zeros(layer.reach + columns, layer.in_channels) for layer in horizontals],
            links=[[zeros(columns, 2 * self.features // colours).unbind(1)] * colours for _ in self.blocks],
            gates=[zeros(self.features) for _ in self.blocks],
            last=zeros(self.features),
            taps=[layer.taps for layer in horizontals],
            colours=colours,
            capacity=positions,
        )

    def cache_bytes(self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype = torch.float32) -> int:
        """Bytes of the buffers of ``new_cache``; they do not grow with the positions."""
        return self._empty_cache(batch, positions, dtype, "meta").nbytes

    def _start(self, pooled: Tensor | None, cache: PixelCache) -> None:
        """Store the condition and the present weights in a new cache."""
        colours = self.grid.colours
        cache.maps = Maps(
            first=by_colour(self.first_horizontal, colours),
            horizontal=[by_colour(block.horizontal, colours, parts=2) for block in self.blocks],
            residual=[by_colour(block.residual, colours) for block in self.blocks],
            out=by_colour(self.out, colours),
        )
        for block in self.blocks:
            above, beside = block.shifts(pooled)
            bias = cast("Tensor", block.horizontal.bias)
            cache.shifts.append((above, bias.expand(cache.batch, -1) if beside is None else beside + bias))
        cache.started = True

    def _next(self, vector: Tensor, cache: PixelCache) -> Tensor:
        """The hidden vector of the next position from its embedding, ``(B, D)`` both."""
        row, column, colour = self.grid.place(cache.length)
        if cache.length == 0:
            cache.start.copy_(vector)
        else:
            _, past, which = self.grid.place(cache.length - 1)
            cache.cut().inputs[0][past][which].copy_(self._tokens(vector, cache.start))
        if column == colour == 0:
            self._begin_row(row, cache)
        cache.length += 1
        return self._along(column, colour, cache)

    def _begin_row(self, row: int, cache: PixelCache) -> None:
        """The vertical stack of a new row, and its contribution to the horizontal one."""
        if row > 0:
            cache.push(0, cache.beside[0][:, self.first_horizontal.reach :].transpose(1, 2))
        v, colours = self.first_vertical.row(cache.above[0]), self.grid.colours
        for layer, block in enumerate(self.blocks):
            above, beside = cache.shifts[layer]
            a = block.vertical.row(cache.push(layer + 1, v))
            if above is not None:
                a = a + above[..., None]
            link = F.linear(a.transpose(1, 2), block.link.weight[:, :, 0, 0]) + beside[:, None]  # (B, W, 2F)
            parts = link.unflatten(2, (2, colours, -1)).unbind(3)
            cache.links[layer] = [part.flatten(2).unbind(1) for part in parts]
            v = v + gate(a, 1)

    def _along(self, column: int, colour: int, cache: PixelCache) -> Tensor:
        """The horizontal stack of one position of the row."""
        maps, views = cache.maps, cache.cut()
        assert maps is not None
        b, first, second = views.gated
        h = views.inputs[1][column][colour].copy_(maps.first[colour](views.windows[0][column]))
        for layer in range(self.layers):
            window, link = views.windows[layer + 1][column], cache.links[layer][colour][column]
            torch.addmm(link, window, maps.horizontal[layer][colour].weight, out=b)
            torch.mul(first.tanh_(), second.sigmoid_(), out=views.gates[layer][colour])
            after = views.inputs[layer + 2][column][colour]
            h = torch.addmm(h, cache.gates[layer], maps.residual[layer][colour].weight, out=after)
        return F.silu(maps.out[colour](F.silu(cache.last)))
