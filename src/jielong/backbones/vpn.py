"""Settings of the video pixel network."""

from __future__ import annotations

from typing import ClassVar

from jielong.backbones.base import BackboneSettings
from jielong.core.medium import ALONG_FRAMES, Axes
from jielong.core.tokens import Layout
from jielong.networks import vpn as network
from jielong.networks.pixel_grid import ClipGrid


class VPN(network.VPNConfig, BackboneSettings, family="backbone", name="vpn"):
    """A video pixel network (arXiv 1610.00527), for raster order over clips; the pooled condition is added to its maps."""

    axes: ClassVar[Axes | None] = ALONG_FRAMES

    def build(self, layout: Layout, condition_width: int | None) -> network.VPN:
        """See :meth:`BackboneSettings.build`."""
        return network.VPN(self, grid=ClipGrid.of(layout), condition_width=condition_width)
