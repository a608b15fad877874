"""Settings of the PixelRNN."""

from __future__ import annotations

from typing import ClassVar

from jielong.backbones.base import BackboneSettings
from jielong.core.medium import ALONG_ROWS, Axes
from jielong.core.tokens import Layout
from jielong.networks import pixelrnn as network
from jielong.networks.pixel_grid import PixelGrid


class PixelRNN(network.PixelRNNConfig, BackboneSettings, family="backbone", name="pixelrnn"):
    """A PixelRNN (arXiv 1601.06759), for raster order over pictures; the pooled condition is a bias of all gates."""

    axes: ClassVar[Axes | None] = ALONG_ROWS

    def build(self, layout: Layout, condition_width: int | None) -> network.PixelRNN:
        """See :meth:`BackboneSettings.build`."""
        return network.PixelRNN(self, grid=PixelGrid.of(layout), condition_width=condition_width)
