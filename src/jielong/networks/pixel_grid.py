"""A chain of positions read as a picture, for networks that are causal by their masks or their recurrence.

The raster order puts the token of position ``i - 1`` at position ``i``. Read as a picture, that is one off: :meth:`PixelGrid.unshifted`
puts every token back on its own pixel, and the network's masks (or its recurrence) see to it that no pixel sees itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from jielong.tokens import Layout


@dataclass(frozen=True)
class PixelGrid:
    """Rows, columns, and how many positions a pixel takes.

    Attributes:
        rows: Height.
        columns: Width.
        colours: Positions of a pixel: 1 when a pixel is one token, the number of colour channels when each is a token of its own.
    """

    rows: int
    columns: int
    colours: int = 1

    @staticmethod
    def of(layout: Layout) -> PixelGrid:
        """The picture of a layout, ``(rows, columns)`` or ``(rows, columns, colours)``.

        Raises:
            ValueError: if the tokens do not stand in a picture.
        """
        flat = math.prod(layout.grid) == layout.positions
        if not flat or len(layout.grid) not in (2, 3) or (len(layout.grid) == 3 and layout.grid[2] > 4):
            raise ValueError(
                f"this backbone reads pictures, rows x columns (x at most 4 colours), and these tokens stand in a grid of {layout.grid}; "
                "choose backbone: transformer"
            )
        return PixelGrid(*layout.grid)

    @property
    def positions(self) -> int:
        """Number of positions ``N``."""
        return self.rows * self.columns * self.colours

    @property
    def row(self) -> int:
        """Positions of a row."""
        return self.columns * self.colours

    def unshifted(self, inputs: Tensor) -> Tensor:
        """What stands on each pixel: the first ``n`` inputs ``(B, n, D)`` to ``(B, colours, D, rows, columns)`` of the rows they reach.

        A pixel gets the input of the position after it, less the first input, which begins the chain and so stands for all that lies
        outside of the picture: zero padding then pads with it. Pixels whose token is not handed over yet are zero.
        """
        start, tokens = inputs[:, :1], inputs[:, 1:]
        rows = -(-inputs.shape[1] // self.row)
        pixels = F.pad(tokens - start, (0, 0, 0, rows * self.row - tokens.shape[1]))
        return pixels.unflatten(1, (rows, self.columns, self.colours)).permute(0, 3, 4, 1, 2)

    def chained(self, pixels: Tensor, positions: int) -> Tensor:
        """Pixels ``(B, colours, D, rows, columns)`` as the first ``positions`` of the chain, ``(B, n, D)``."""
        return pixels.permute(0, 3, 4, 1, 2).flatten(1, 3)[:, :positions]
