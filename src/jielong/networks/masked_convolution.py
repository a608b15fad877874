"""Convolutions that are causal in raster order: rows from top to bottom, columns from left to right, colours inside a pixel.

Two shapes together leave no blind spot (gated PixelCNN, arXiv 1606.05328, section 2.2; a masked square kernel has one to the upper right).
A *vertical* convolution covers rows above at full width. A *horizontal* one covers its row to the left, and of its pixel the earlier
colours (mask A) or these and its own (mask B; PixelRNN, arXiv 1601.06759, section 3.4). A mask is multiplied into the weight at every pass,
so weight decay, momentum and EMA cannot leak through it. Rows and taps that a mask would zero are left out of the kernel.

Where a picture has several colours, the channels of a map are in as many contiguous groups of equal size, in sampling order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def colour_mask(outputs: int, inputs: int, colours: int, *, mask_b: bool) -> Tensor:
    """Which input channels of its own pixel an output channel may read: ``(outputs, inputs)``, 1 where it may.

    Args:
        outputs: Channels written, in ``colours`` groups.
        inputs: Channels read, in ``colours`` groups.
        mask_b: Whether a colour may read its own group (mask B), not only earlier ones (mask A).

    Raises ``ValueError`` if channels cannot be shared out among the colours.
    """
    for channels in (outputs, inputs):
        if channels % colours:
            raise ValueError(f"{channels} channels cannot be shared by {colours} colours: choose a multiple of {colours}")
    writer = torch.arange(outputs) * colours // outputs
    reader = torch.arange(inputs) * colours // inputs
    return (reader[None] <= writer[:, None] if mask_b else reader[None] < writer[:, None]).float()


class VerticalConvolution(nn.Conv2d):
    """Convolution over rows above: ``(B, I, H, W)`` to ``(B, O, H, W)``.

    Args:
        kernel: Width ``k``, odd; it covers ``k // 2`` rows above.
        strict: Leave out the current row (in the first layer; in later layers it depends on rows above alone).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, strict: bool = False) -> None:
        self.reach, self.strict = kernel // 2, strict
        super().__init__(inputs, outputs, (self.reach if strict else self.reach + 1, kernel))

    @property
    def height(self) -> int:
        """Rows of the kernel."""
        return self.weight.shape[2]

    def forward(self, x: Tensor) -> Tensor:
        """The whole map."""
        x = F.pad(x, (self.reach, self.reach, self.reach, -1 if self.strict else 0))
        return F.conv2d(x, self.weight, self.bias)

    def row(self, above: Tensor) -> Tensor:
        """One row of the result from the :attr:`height` rows of its kernel: ``(B, I, height, W)`` to ``(B, O, W)``."""
        return F.conv2d(above, self.weight, self.bias, padding=(0, self.reach))[:, :, 0]


class HorizontalConvolution(nn.Conv2d):
    """Convolution over pixels to the left and earlier colours of the same pixel: ``(B, I, H, W)`` to ``(B, O, H, W)``.

    Args:
        reach: Pixels to the left.
        colours: Groups of channels, of ``I`` and of each part of ``O``.
        mask_b: Whether a colour may read its own group (every layer but the first).
        parts: Maps of ``colours`` groups that ``O`` consists of: 2 for a gated unit.
    """

    mask: Tensor | None

    def __init__(
        self, inputs: int, outputs: int, reach: int, *, colours: int = 1, mask_b: bool = True, parts: int = 1, bias: bool = True
    ) -> None:
        # With one colour, mask A leaves nothing of the pixel itself, so there is no tap for it.
        self.reach, self.centred = reach, mask_b or colours > 1
        super().__init__(inputs, outputs, (1, reach + self.centred), bias=bias)
        mask = None
        if colours > 1:
            mask = torch.ones_like(self.weight)
            mask[:, :, 0, -1] = colour_mask(outputs // parts, inputs, colours, mask_b=mask_b).repeat(parts, 1)
        self.register_buffer("mask", mask, persistent=False)

    @property
    def taps(self) -> int:
        """Pixels of the kernel."""
        return self.weight.shape[3]

    def masked(self) -> Tensor:
        """The masked weight, ``(O, I, 1, taps)``."""
        return self.weight if self.mask is None else self.weight * self.mask

    def forward(self, x: Tensor) -> Tensor:
        """The whole map."""
        return F.conv2d(F.pad(x, (self.reach, 0 if self.centred else -1)), self.masked(), self.bias)

    def matrix(self) -> Tensor:
        """The masked weight as a matrix ``(taps I, O)``, for a pixel's window laid out as ``(B, taps, I)``, left to right."""
        return self.masked()[:, :, 0].permute(2, 1, 0).flatten(0, 1)
