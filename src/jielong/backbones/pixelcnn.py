"""Settings of the gated PixelCNN."""

from __future__ import annotations

from typing import ClassVar

from jielong.backbones.base import BackboneSettings
from jielong.core.medium import ALONG_ROWS, Axes
from jielong.core.tokens import Layout
from jielong.networks import pixelcnn as network
from jielong.networks.pixel_grid import PixelGrid


class PixelCNN(network.PixelCNNConfig, BackboneSettings, family="backbone", name="pixelcnn"):
    """A gated PixelCNN (arXiv 1606.05328), for raster order over pictures; the pooled condition is added before every gate."""

    axes: ClassVar[Axes | None] = ALONG_ROWS

    def build(self, layout: Layout, condition_width: int | None) -> network.PixelCNN:
        """See :meth:`BackboneSettings.build`."""
        return network.PixelCNN(self, grid=PixelGrid.of(layout), condition_width=condition_width)
