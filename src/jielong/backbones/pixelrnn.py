"""Settings of the PixelRNN backbone."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from jielong.backbones.base import BackboneSettings
from jielong.core.tokens import Layout
from jielong.networks import pixelrnn as network
from jielong.networks.pixel_grid import PixelGrid


class PixelRNN(BackboneSettings, family="backbone", name="pixelrnn"):
    """PixelRNN (arXiv 1601.06759) over pixels, or over the codes of a picture, in raster order.

    ``kind`` is ``row`` (an LSTM down the rows, which sees a triangle) or ``diagonal`` (LSTMs along both diagonals, which see all that is
    above and to the left). A layer has ``hidden`` channels of state and twice as many between layers, shared by the colours;
    ``width`` is that of a colour value's input and hidden vector, ``kernel`` that of the first convolution.
    """

    kind: network.Kind = "diagonal"
    layers: int = Field(7, ge=1)
    hidden: int = Field(48, ge=1)
    width: int = Field(64, ge=1)
    kernel: int = Field(7, ge=3)

    @model_validator(mode="after")
    def _kernel_has_a_middle(self) -> Self:
        if self.kernel % 2 == 0:
            raise ValueError(f"the first convolution has a pixel in its middle: kernel must be odd, not {self.kernel}")
        return self

    def build(self, layout: Layout, condition_width: int | None) -> network.PixelRNN:
        """The network for pictures of this layout and a condition of ``condition_width`` channels (``None``: no condition)."""
        return network.PixelRNN(**dict(self), grid=PixelGrid.of(layout), condition_width=condition_width)
