"""Settings of backbones; the interface of the networks is in :mod:`jielong.networks.backbone`, as imports go one way."""

from __future__ import annotations

from abc import abstractmethod

from jielong.config.registry import Part
from jielong.core.tokens import Layout
from jielong.networks.backbone import AnyBackbone, Backbone, BackboneCache, BackboneInputs, check_raster

__all__ = ["AnyBackbone", "Backbone", "BackboneCache", "BackboneInputs", "BackboneSettings", "check_raster"]


class BackboneSettings(Part):
    """Settings of a backbone."""

    @abstractmethod
    def build(self, layout: Layout, condition_width: int | None) -> AnyBackbone:
        """The network for tokens of a layout and a condition of ``condition_width`` channels (``None``: no condition).

        Raises:
            ValueError: if it cannot read the layout or the condition.
        """
