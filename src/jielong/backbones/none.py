"""Settings of no backbone at all."""

from __future__ import annotations

from pydantic import Field

from jielong.backbones.base import BackboneSettings
from jielong.core.tokens import Layout
from jielong.networks.identity import Identity


class NoBackbone(BackboneSettings, family="backbone", name="none"):
    """Inputs are handed on to the head, which is the whole network: latent diffusion. For the order at_once.

    A condition comes in by its pooled vector, added at every position, and where it is aligned with positions by its states there. What
    reads a text by attention is the backbone ``transformer``.
    """

    width: int = Field(256, ge=1)

    def build(self, layout: Layout, condition_width: int | None) -> Identity:
        """The network for tokens of a layout and a condition of ``condition_width`` channels (``None``: no condition)."""
        return Identity(self.width, condition_width)
