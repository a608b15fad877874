"""Settings of the transformer."""

from __future__ import annotations

from jielong.backbones.base import BackboneSettings
from jielong.core.tokens import Layout
from jielong.networks import transformer as network


class Transformer(network.TransformerConfig, BackboneSettings, family="backbone", name="transformer"):
    """A block-causal transformer with rotary positions, for every order."""

    @property
    def prefixed(self) -> bool:
        """With ``condition: prefix``."""
        return self.condition == "prefix"

    def build(self, layout: Layout, condition_width: int | None) -> network.Transformer:
        """See :meth:`BackboneSettings.build`."""
        return network.Transformer(self, axes=layout.coordinates().shape[1], condition_width=condition_width)
