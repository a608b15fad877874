"""Settings of no backbone."""

from __future__ import annotations

from pydantic import Field

from jielong.backbones.base import BackboneSettings
from jielong.core.tokens import Layout
from jielong.networks.identity import Identity


class NoBackbone(BackboneSettings, family="backbone", name="none"):
    """Embeddings go to the head, which is the whole network (latent diffusion), for the order at_once.

    The condition's pooled vector is added at every position, and its aligned states, if any, at theirs. A network
    such as ``mmdit`` reads its states too.

    Attributes:
        width: Channels of a position's embedding.
    """

    width: int = Field(default=256, ge=1)

    def build(self, layout: Layout, condition_width: int | None) -> Identity:
        """See :meth:`BackboneSettings.build`."""
        return Identity(self.width, condition_width)
