"""Settings of the transformer backbone."""

from __future__ import annotations

from pydantic import Field, model_validator

from jielong.backbones.base import BackboneSettings
from jielong.core.tokens import Layout
from jielong.networks import transformer as network
from jielong.networks.layers import Activation, ConditionPath
from jielong.networks.norm import NormKind


class Transformer(BackboneSettings, family="backbone", name="transformer"):
    """A block-causal transformer with rotary positions.

    ``condition`` says how a condition comes in: as a prefix, by cross-attention, or through adaptive norms. Generators without a
    condition leave it unused.
    """

    layers: int = Field(8, ge=1)
    width: int = Field(256, ge=2)
    heads: int = Field(4, ge=1)
    hidden: int | None = Field(None, ge=1)
    norm: NormKind = "rms"
    activation: Activation = "swiglu"
    qk_norm: bool = False
    rope_base: float = Field(10_000.0, gt=1)
    condition: ConditionPath = "prefix"
    dropout: float = Field(0.0, ge=0, lt=1)
    bias: bool = False
    norm_eps: float = Field(1e-5, gt=0)

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Transformer:
        if self.width % self.heads or self.width // self.heads % 2:
            raise ValueError(f"width {self.width} must be an even multiple of heads {self.heads}, so that each head has an even width")
        return self

    def build(self, layout: Layout, condition_width: int | None) -> network.Transformer:
        """The network for tokens of a layout and a condition of ``condition_width`` channels (``None``: no condition)."""
        settings = dict(self) | {"condition": self.condition if condition_width is not None else None}
        return network.Transformer(**settings, axes=layout.coordinates().shape[1], condition_width=condition_width)
