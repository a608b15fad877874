"""Settings of the WaveNet."""

from __future__ import annotations

from typing import ClassVar

from jielong.backbones.base import BackboneSettings
from jielong.core.medium import ALONG_TIME, Axes
from jielong.core.tokens import Layout
from jielong.networks import wavenet as network


class WaveNet(network.WaveNetConfig, BackboneSettings, family="backbone", name="wavenet"):
    """A WaveNet (arXiv 1609.03499), for raster order along time; the pooled condition is added before every gate."""

    axes: ClassVar[Axes | None] = ALONG_TIME

    def build(self, layout: Layout, condition_width: int | None) -> network.WaveNet:
        """See :meth:`BackboneSettings.build`."""
        if len(layout.grid) != 1 or layout.scales:
            raise ValueError(f"a WaveNet reads tokens along time, not a grid {layout.grid}: choose backbone: transformer or pixelcnn")
        return network.WaveNet(self, condition_width=condition_width)
