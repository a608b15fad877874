"""Gated PixelCNN: a stack of convolutions for the rows above, one for the row itself, and no blind spot (arXiv 1606.05328).

Every block is, with ``v`` and ``h`` the vertical and the horizontal stack, and ``c`` the condition's pooled vector,

    a = V * v + C_v c                     gate(a) = tanh(a_1) sigmoid(a_2), of the two halves of the channels
    b = H * h + L a + C_h c
    v <- v + gate(a)
    h <- h + R gate(b)

``V`` sees rows above, ``H`` the row to the left, ``L`` and ``R`` are 1x1; nothing goes from ``h`` to ``v``, which would leak the row's
future. The vertical stack is residual too (in the paper it is not): a gate halves its signal, and this lets it be deep.

Where each colour of a pixel is a token of its own, the horizontal stack is masked by colours (:mod:`jielong.networks.masked_convolution`).
The vertical stack needs no mask: pixels above are complete.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.backbone import Backbone, BackboneInputs, check_raster
from jielong.networks.conditioning import Conditioning
from jielong.networks.masked_convolution import HorizontalConvolution, VerticalConvolution, initialise
from jielong.networks.norm import rms_norm
from jielong.networks.pixel_cache import Maps, PixelCache, by_colour
from jielong.networks.pixel_grid import PixelGrid

EPS = 1e-6


def gate(x: Tensor, axis: int = 1) -> Tensor:
    """``tanh(x_1) sigmoid(x_2)`` of the two halves of an axis (eq. 2)."""
    first, second = x.chunk(2, dim=axis)
    return torch.tanh(first) * torch.sigmoid(second)


class GatedBlock(nn.Module):
    """One step of both stacks: ``(B, F, H, W)`` each.

    Args:
        features: Channels ``F`` of each stack, a multiple of ``colours``.
        kernel: Width of the convolutions, odd.
        colours: Positions of a pixel.
        condition_width: Channels of the pooled condition; ``None`` for none.
        dropout: Probability of dropping a gated feature.
    """

    def __init__(self, features: int, kernel: int, colours: int, condition_width: int | None, dropout: float) -> None:
        super().__init__()
        self.vertical = VerticalConvolution(features, 2 * features, kernel)
        self.link = nn.Conv2d(2 * features, 2 * features, 1, bias=False)
        self.horizontal = HorizontalConvolution(features, 2 * features, kernel // 2, colours=colours, parts=2)
        self.residual = HorizontalConvolution(features, features, 0, colours=colours, bias=False)
        self.condition = nn.Linear(condition_width, 4 * features, bias=False) if condition_width is not None else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, v: Tensor, h: Tensor, pooled: Tensor | None) -> tuple[Tensor, Tensor]:
        """The vertical and the horizontal stack after this block."""
        above, beside = self.shifts(pooled)
        a = self.vertical(v)
        if above is not None and beside is not None:
            a = a + above[..., None, None]
        b = self.horizontal(h) + self.link(a)
        if beside is not None:
            b = b + beside[..., None, None]
        return v + self.dropout(gate(a)), h + self.residual(self.dropout(gate(b)))

    def shifts(self, pooled: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What the condition adds before the gates of both stacks, ``(B, 2 F)`` each."""
        if self.condition is None or pooled is None:
            return None, None
        above, beside = self.condition(rms_norm(pooled, None, EPS)).chunk(2, dim=-1)
        return above, beside


class PixelCNN(Backbone[PixelCache]):
    """Gated PixelCNN over the positions of a picture in raster order.

    Args:
        grid: The picture.
        layers: Number of gated blocks.
        width: Channels ``D`` of a position's input and hidden vector.
        features: Channels ``F`` of each stack, a multiple of the grid's colours; as many as ``width`` by default.
        first_kernel: Width of the first convolution, odd.
        kernel: Width of the blocks' convolutions, odd.
        condition_width: Channels of the pooled condition; ``None`` for none.
        dropout: Probability of dropping a gated feature.

    Raises:
        ValueError: if the sizes do not fit together.
    """

    def __init__(
        self,
        *,
        grid: PixelGrid,
        layers: int,
        width: int,
        features: int | None = None,
        first_kernel: int = 7,
        kernel: int = 3,
        condition_width: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        features = features or width
        if features % grid.colours:
            raise ValueError(f"{features} features cannot be shared by {grid.colours} colours: choose a multiple of {grid.colours}")
        for name, size in (("first_kernel", first_kernel), ("kernel", kernel)):
            if size < 3 or size % 2 == 0:
                raise ValueError(f"a masked convolution has its pixel in the middle: {name} must be odd and 3 or more, not {size}")
        self.grid, self.layers, self.width, self.features = grid, layers, width, features
        self.conditioned = condition_width is not None
        # Where a pixel has several tokens, each brings its share of the first map; else the map is the tokens' own vectors.
        self.share = features // grid.colours if grid.colours > 1 else width
        self.enter = nn.Linear(width, self.share, bias=False) if grid.colours > 1 else None
        entry = grid.colours * self.share
        self.first_vertical = VerticalConvolution(entry, features, first_kernel, strict=True)
        self.first_horizontal = HorizontalConvolution(entry, features, first_kernel // 2, colours=grid.colours, own=False)
        blocks = [GatedBlock(features, kernel, grid.colours, condition_width, dropout) for _ in range(layers)]
        stack = nn.ModuleList(blocks)
        self.blocks = cast("Sequence[GatedBlock]", stack)
        self.out = HorizontalConvolution(features, grid.colours * width, 0, colours=grid.colours)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw all weights anew.

        ============================================  ================================
        weights                                       N(0, 1 / inputs)
        the two that are added before a gate          N(0, 1 / (2 inputs))
        maps that end a residual branch               N(0, 1 / (layers inputs))
        what a condition adds                         0
        biases                                        0
        ============================================  ================================
        """
        for block in self.blocks:
            initialise(block.vertical)
            initialise(block.link, math.sqrt(0.5))
            initialise(block.horizontal, math.sqrt(0.5))
            initialise(block.residual, 1 / math.sqrt(self.layers))
            if block.condition is not None:
                nn.init.zeros_(block.condition.weight)
        for convolution in (self.first_vertical, self.first_horizontal, self.out):
            initialise(convolution)
        if self.enter is not None:
            nn.init.normal_(self.enter.weight, std=1 / math.sqrt(self.width))

    def check_order(self, blocks: Tensor, shifted: bool) -> None:
        """Raise ``ValueError`` unless the order is raster."""
        check_raster(self, blocks, shifted)

    def forward(self, inputs: BackboneInputs, cache: PixelCache | None = None, commit: bool = True) -> Tensor:
        """Hidden vectors ``(B, n, D)``; see :class:`jielong.networks.backbone.Backbone`. Of a condition the pooled vector is read."""
        self.check(inputs, cache)
        x, conditioning = inputs.embeddings, inputs.conditioning
        total = x.shape[1] + (0 if cache is None else cache.length)
        most = self.grid.positions if cache is None else cache.capacity
        if total > most:
            raise ValueError(f"the picture has {most} positions, but these are {total}")
        if cache is None:
            return self._whole(x, None if conditioning is None else conditioning.pooled)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            if not cache.started:
                self._take(conditioning, cache)
            if not commit:
                cache = cache.clone()
            return torch.stack([self._next(vector.to(cache.start.dtype), cache) for vector in x.unbind(1)], dim=1)

    # --- the naive reference: the whole picture -----------------------------------------------------------------------------------

    def _tokens(self, vectors: Tensor, start: Tensor) -> Tensor:
        """What the first layer reads of a token: ``(..., D)`` to ``(..., share)``.

        The start of the chain stands for all that lies outside of the picture: less the start, that is what zero padding pads with.
        Embeddings begin small, so vectors are brought to unit size.
        """
        scaled = rms_norm(vectors - start, None, EPS)
        return scaled if self.enter is None else self.enter(scaled)

    def _whole(self, inputs: Tensor, pooled: Tensor | None) -> Tensor:
        positions = inputs.shape[1]
        x = self.grid.picture(self._tokens(inputs[:, 1:], inputs[:, :1]), rows=math.ceil(positions / self.grid.row))
        v, h = self.first_vertical(x), self.first_horizontal(x)
        for block in self.blocks:
            v, h = block(v, h, pooled)
        return self.grid.chain(F.silu(self.out(F.silu(h))), positions)

    # --- with a cache: the vertical stack once a row, the horizontal one once a position -----------------------------------------

    def new_cache(
        self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> PixelCache:
        """What a few rows leave behind, however many positions there are."""
        weight = self.out.weight
        dtype, device = dtype or weight.dtype, device or weight.device
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
        return self.new_cache(batch, positions, dtype=dtype, device="meta").nbytes

    def _take(self, conditioning: Conditioning | None, cache: PixelCache) -> None:
        """Take the condition, and the weights as they are now, into a new cache."""
        pooled, colours = None if conditioning is None else conditioning.pooled, self.grid.colours
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
        """The hidden vector of the next position, from its input, ``(B, D)`` both."""
        row, column, colour = self.grid.place(cache.length)
        if cache.length == 0:
            cache.start.copy_(vector)
        else:
            _, past, which = self.grid.place(cache.length - 1)
            cache.cut().slots[0][past][which].copy_(self._tokens(vector, cache.start))
        if column == colour == 0:
            self._begin_row(row, cache)
        cache.length += 1
        return self._along(column, colour, cache)

    def _begin_row(self, row: int, cache: PixelCache) -> None:
        """The vertical stack of a new row, and what it adds to the horizontal one."""
        if row > 0:
            cache.push(0, cache.beside[0][:, self.first_horizontal.reach :].transpose(1, 2))
        v, colours = self.first_vertical.row(cache.above[0]), self.grid.colours
        for layer, block in enumerate(self.blocks):
            above, beside = cache.shifts[layer]
            a = block.vertical.row(cache.push(layer + 1, v))
            if above is not None:
                a = a + above[..., None]
            link = F.linear(a.transpose(1, 2), block.link.weight[:, :, 0, 0]) + beside[:, None]  # (B, W, 2F)
            apart = link.unflatten(2, (2, colours, -1)).unbind(3)
            cache.links[layer] = [each.flatten(2).unbind(1) for each in apart]
            v = v + gate(a)

    def _along(self, column: int, colour: int, cache: PixelCache) -> Tensor:
        """The horizontal stack of one position of the row."""
        maps, views = cache.maps, cache.cut()
        assert maps is not None
        b, first, second = views.gated
        h = views.slots[1][column][colour].copy_(maps.first[colour](views.windows[0][column]))
        for layer in range(self.layers):
            window, link = views.windows[layer + 1][column], cache.links[layer][colour][column]
            torch.addmm(link, window, maps.horizontal[layer][colour].weight, out=b)
            torch.mul(first.tanh_(), second.sigmoid_(), out=views.gates[layer][colour])
            after = views.slots[layer + 2][column][colour]
            h = torch.addmm(h, cache.gates[layer], maps.residual[layer][colour].weight, out=after)
        return F.silu(maps.out[colour](F.silu(cache.last)))
