"""Settings of no backbone."""

from __future__ import annotations

from typing import Literal

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
        pooled: How the pooled vector becomes one of ``width`` channels: by a ``linear`` map, by an ``mlp`` (linear, SiLU, linear, as SD3's,
            arXiv 2403.03206), or ``as_is``, as DiT's vector of a class, where the condition has the same width.
    """

    width: int = Field(default=256, ge=1)
    pooled: Literal["linear", "mlp", "as_is"] = "linear"

    def build(self, layout: Layout, condition_width: int | None) -> Identity:
        """See :meth:`BackboneSettings.build`. Raises ``ValueError`` for a vector of another width that is taken as it is."""
        if self.pooled == "as_is" and condition_width not in (None, self.width):
            raise ValueError(
                f"backbone.none.pooled: as_is adds a vector of {condition_width} channels to those of {self.width}: set the condition's "
                f"width to {self.width}, or take linear"
            )
        return Identity(self.width, condition_width, self.pooled)
