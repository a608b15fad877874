"""Convolutions that see only what comes before, row by row, from left to right, and colour by colour inside a pixel.

Two shapes together leave no blind spot (gated PixelCNN, arXiv 1606.05328, section 2.2; a square kernel with a mask has one to the upper
right). A *vertical* convolution sees rows above at full width. A *horizontal* one sees its own row to the left, and of its own pixel the
colours drawn before (mask A) or these and its own (mask B; PixelRNN, arXiv 1601.06759, section 3.4). A mask is multiplied into the
weight at every pass, so weight decay, momentum and averages cannot leak through it. Rows and taps that a mask would zero are not there.

Where a picture has several colours, the channels of a map stand in as many groups of equal size, side by side, in the order of drawing.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def colour_mask(outputs: int, inputs: int, colours: int, *, own: bool) -> Tensor:
    """What an output channel may read of its own pixel: ``(outputs, inputs)``, 1 where it may.

    Args:
        outputs: Channels written, in ``colours`` groups.
        inputs: Channels read, in ``colours`` groups.
        colours: Number of groups ``G``.
        own: Whether a colour may read its own group (mask B) and not earlier ones alone (mask A).

    Raises:
        ValueError: if channels cannot be shared out among the colours.
    """
    for channels in (outputs, inputs):
        if channels % colours:
            raise ValueError(f"{channels} channels cannot be shared by {colours} colours: choose a multiple of {colours}")
    writer = torch.arange(outputs) * colours // outputs
    reader = torch.arange(inputs) * colours // inputs
    seen = reader[None] <= writer[:, None] if own else reader[None] < writer[:, None]
    return seen.float()


class VerticalConvolution(nn.Conv2d):
    """Sees rows above: ``(B, I, H, W)`` to ``(B, O, H, W)``.

    Args:
        inputs: Channels ``I``.
        outputs: Channels ``O``.
        kernel: Width ``k``, odd; it reaches ``k // 2`` rows up.
        strict: Leave out the own row (the first layer). In later layers the own row tells of rows above alone, and is seen.
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
        """One row of the result from the :attr:`height` rows that it sees: ``(B, I, height, W)`` to ``(B, O, W)``."""
        return F.conv2d(above, self.weight, self.bias, padding=(0, self.reach))[:, :, 0]


class HorizontalConvolution(nn.Conv2d):
    """Sees its own row: pixels to the left, and earlier colours of the pixel itself. ``(B, I, H, W)`` to ``(B, O, H, W)``.

    Args:
        inputs: Channels ``I``.
        outputs: Channels ``O``.
        reach: Pixels to the left.
        colours: Groups of channels, of ``I`` and of each part of ``O``.
        own: Mask B: a colour may see its own group (every layer but the first).
        parts: How many maps of ``colours`` groups ``O`` is made of, side by side: 2 for a gated unit.
        bias: Whether to add one.
    """

    mask: Tensor | None

    def __init__(
        self, inputs: int, outputs: int, reach: int, *, colours: int = 1, own: bool = True, parts: int = 1, bias: bool = True
    ) -> None:
        # With one colour, mask A leaves nothing of the pixel itself: there is no tap for it.
        self.reach, self.centred = reach, own or colours > 1
        super().__init__(inputs, outputs, (1, reach + self.centred), bias=bias)
        mask = None
        if colours > 1:
            mask = torch.ones_like(self.weight)
            mask[:, :, 0, -1] = colour_mask(outputs // parts, inputs, colours, own=own).repeat(parts, 1)
        self.register_buffer("mask", mask, persistent=False)

    @property
    def taps(self) -> int:
        """Pixels that the kernel sees, its own included where it is seen at all."""
        return self.weight.shape[3]

    def masked(self) -> Tensor:
        """The weight with zeros where nothing may be seen, ``(O, I, 1, taps)``."""
        return self.weight if self.mask is None else self.weight * self.mask

    def forward(self, x: Tensor) -> Tensor:
        """The whole map."""
        return F.conv2d(F.pad(x, (self.reach, 0 if self.centred else -1)), self.masked(), self.bias)

    def matrix(self) -> Tensor:
        """The masked weight as a matrix ``(taps I, O)``, for a pixel's window laid out as ``(B, taps, I)``, left to right."""
        return self.masked()[:, :, 0].permute(2, 1, 0).flatten(0, 1)


@torch.no_grad()
def initialise(convolution: nn.Conv2d, gain: float = 1.0) -> None:
    """Weights N(0, gain^2 / inputs of a unit); biases 0."""
    nn.init.normal_(convolution.weight, std=gain / math.sqrt(convolution.weight[0].numel()))
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
