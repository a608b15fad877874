"""Settings of the WaveNet backbone."""

from __future__ import annotations

from pydantic import Field

from jielong.backbones.base import BackboneSettings
from jielong.core.tokens import Layout
from jielong.networks import wavenet as network


class WaveNet(BackboneSettings, family="backbone", name="wavenet"):
    """A WaveNet: gated causal convolutions that reach ever further back, for raster order along time.

    ``layers`` of each of the ``stacks`` have dilations 1, 2, 4, ... ``width`` is that of the token's vectors, ``features`` the channels
    between layers and ``skip`` those of what all layers say together (as many as ``width`` by default). A condition adds to every gate what
    its pooled vector says; what is aligned with the sound comes with the inputs.
    """

    stacks: int = Field(2, ge=1)
    layers: int = Field(10, ge=1, le=20)
    width: int = Field(64, ge=1)
    features: int | None = Field(None, ge=1)
    skip: int | None = Field(None, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)

    def build(self, layout: Layout, condition_width: int | None) -> network.WaveNet:
        """The network for tokens of a layout and a condition of ``condition_width`` channels (``None``: no condition).

        Raises:
            ValueError: if the tokens do not stand in one line.
        """
        if len(layout.grid) != 1 or layout.scales:
            raise ValueError(
                f"a WaveNet reads tokens in one line along time, not a grid {layout.grid}: choose backbone: transformer or pixelcnn"
            )
        dilations = [2**layer for layer in range(self.layers)] * self.stacks
        sizes = {"width": self.width, "features": self.features or self.width, "skip": self.skip or self.width}
        return network.WaveNet(**sizes, dilations=dilations, condition_width=condition_width, dropout=self.dropout)
