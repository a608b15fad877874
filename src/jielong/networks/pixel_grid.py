"""A sequence of positions as a picture, or as the frames of a clip, for networks that are causal by masks or recurrence.

The raster order puts the token of position ``i - 1`` at position ``i``. As a picture that is off by one: after the first embedding, the
start of the sequence, come the tokens of positions ``0, 1, ...``, each at its own pixel, and the network's masks (or recurrence) keep a
pixel from depending on itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from jielong.core.medium import ALONG_FRAMES
from jielong.core.tokens import Layout


@dataclass(frozen=True)
class PixelGrid:
    """Rows, columns, and positions of a pixel."""

    rows: int
    columns: int
    colours: int = 1  # positions of a pixel: 1 when a pixel is one token, the number of colour channels when each is a token of its own

    @staticmethod
    def of(layout: Layout) -> PixelGrid:
        """Of a layout (rows, columns), or (rows, columns, channels): a position each. Raises ``ValueError`` if it is no picture."""
        if layout.scales or layout.axes not in (("rows", "columns"), ("rows", "columns", "channels")):
            raise ValueError(
                f"this backbone reads a grid (rows, columns) or (rows, columns, channels), but the tokens have {layout.describe()}: "
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

    def place(self, position: int) -> tuple[int, int, int]:
        """Row, column and colour of a position."""
        pixel, colour = divmod(position, self.colours)
        row, column = divmod(pixel, self.columns)
        return row, column, colour

    def picture(self, vectors: Tensor, rows: int) -> Tensor:
        """The first vectors of a sequence as a zero-padded picture: ``(B, n, D)`` to ``(B, colours D, rows, columns)``."""
        padded = F.pad(vectors, (0, 0, 0, rows * self.row - vectors.shape[1]))
        return padded.unflatten(1, (rows, self.columns, self.colours)).permute(0, 3, 4, 1, 2).flatten(1, 2)

    def chain(self, picture: Tensor, positions: int) -> Tensor:
        """The inverse: ``(B, colours D, rows, columns)`` to the first ``positions`` vectors, ``(B, n, D)``."""
        vectors = picture.unflatten(1, (self.colours, -1)).permute(0, 3, 4, 1, 2)
        return vectors.flatten(1, 3)[:, :positions]


@dataclass(frozen=True)
class ClipGrid:
    """Frames of a clip, one after the other, each a picture in raster order."""

    frames: int
    picture: PixelGrid

    @staticmethod
    def of(layout: Layout) -> ClipGrid:
        """Of a layout (time, rows, columns), or (time, rows, columns, channels). Raises ``ValueError`` if it is no clip."""
        if layout.scales or layout.axes[:3] != ALONG_FRAMES or layout.axes[3:] not in ((), ("channels",)):
            raise ValueError(
                "this backbone reads a grid (time, rows, columns) or (time, rows, columns, channels), but the tokens have "
                f"{layout.describe()}: choose backbone: transformer"
            )
        return ClipGrid(layout.grid[0], PixelGrid(*layout.grid[1:]))

    @property
    def positions(self) -> int:
        """Number of positions ``N``."""
        return self.frames * self.picture.positions

    def pictures(self, vectors: Tensor, frames: int) -> Tensor:
        """The first vectors of a sequence as zero-padded frames: ``(B, n, D)`` to ``(B, frames, colours D, rows, columns)``."""
        rows = self.picture.picture(vectors, frames * self.picture.rows)
        return rows.unflatten(2, (frames, self.picture.rows)).transpose(1, 2)

    def chain(self, pictures: Tensor, positions: int) -> Tensor:
        """The inverse: ``(B, frames, colours D, rows, columns)`` to the first ``positions`` vectors, ``(B, n, D)``."""
        vectors = self.picture.chain(pictures.flatten(0, 1), self.picture.positions)
        return vectors.unflatten(0, pictures.shape[:2]).flatten(1, 2)[:, :positions]
