"""Settings of the gated PixelCNN backbone."""

from __future__ import annotations

from pydantic import Field, model_validator

from jielong.backbones.base import BackboneSettings
from jielong.core.tokens import Layout
from jielong.networks import pixelcnn as network
from jielong.networks.pixel_grid import PixelGrid


class PixelCNN(BackboneSettings, family="backbone", name="pixelcnn"):
    """A gated PixelCNN: convolutions over the rows above and the row to the left, for raster order.

    ``width`` is that of the token's vectors, ``features`` the channels of each of the two stacks (as many as ``width`` by default). A
    condition adds to every gate what its pooled vector says.
    """

    layers: int = Field(8, ge=1)
    width: int = Field(64, ge=1)
    features: int | None = Field(None, ge=1)
    first_kernel: int = Field(7, ge=3)
    kernel: int = Field(3, ge=3)
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _odd(self) -> PixelCNN:
        for name in ("first_kernel", "kernel"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} must be odd, so that a pixel stands in its middle, not {getattr(self, name)}")
        return self

    def build(self, layout: Layout, condition_width: int | None) -> network.PixelCNN:
        """The network for tokens of a layout and a condition of ``condition_width`` channels (``None``: no condition)."""
        return network.PixelCNN(**dict(self), grid=PixelGrid.of(layout), condition_width=condition_width)
