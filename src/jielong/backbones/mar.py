"""Settings of MAR's encoder-decoder."""

from __future__ import annotations

from jielong.backbones.base import BackboneSettings
from jielong.core.tokens import Layout
from jielong.networks.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig


class Mar(MaskedAutoencoderConfig, BackboneSettings, family="backbone", name="mar"):
    """An encoder of the known tokens alone and a decoder of all positions (MAR, arXiv 2406.11838), for the order masked."""

    def build(self, layout: Layout, condition_width: int | None) -> MaskedAutoencoder:
        """See :meth:`BackboneSettings.build`."""
        return MaskedAutoencoder(self, extents=layout.extents, condition_width=condition_width)
