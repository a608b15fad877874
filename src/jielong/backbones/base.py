"""Settings of backbones; the networks are in :mod:`jielong.networks`, with their interface (:mod:`jielong.networks.backbone`)."""

from __future__ import annotations

from abc import abstractmethod

from jielong.config.registry import Part
from jielong.core.tokens import Layout
from jielong.networks.backbone import AnyBackbone, Backbone, BackboneCache, BackboneInputs, check_raster

__all__ = ["AnyBackbone", "Backbone", "BackboneCache", "BackboneInputs", "BackboneSettings", "check_raster"]


class BackboneSettings(Part):
    """Base of the settings of every backbone."""

    @property
    def prefixed(self) -> bool:
        """As :attr:`Backbone.prefixed`."""
        return False

    @property
    def starts_with_condition(self) -> bool:
        """Whether a condition is, or is added to, the chain's start."""
        return False

    @abstractmethod
    def build(self, layout: Layout, condition_width: int | None) -> AnyBackbone:
        """The network for tokens of a layout, as the order arranges them. Raises ``ValueError`` if it cannot read such tokens."""
