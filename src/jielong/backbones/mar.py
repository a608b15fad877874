"""Settings of MAR's encoder-decoder."""

from __future__ import annotations

from pydantic import Field, model_validator

from jielong.backbones.base import BackboneSettings
from jielong.core.tokens import Layout
from jielong.networks.layers import Activation, ConditionPath
from jielong.networks.masked_autoencoder import MaskedAutoencoder
from jielong.networks.norm import NormKind


class Mar(BackboneSettings, family="backbone", name="mar"):
    """An encoder that sees the known tokens alone and a decoder that sees everything (MAR, arXiv 2406.11838), for the masked order.

    ``buffer`` learned places stand before the tokens and carry the pooled condition; MAR has 64 before 256 tokens. ``condition`` says how
    else a condition comes in: its states as a prefix, by cross-attention, or through adaptive norms. ``rotary`` turns queries and keys by
    coordinates, beside the three learned position embeddings that MAR has.
    """

    encoder_layers: int = Field(4, ge=1)
    decoder_layers: int = Field(4, ge=1)
    width: int = Field(256, ge=2)
    heads: int = Field(4, ge=1)
    buffer: int = Field(16, ge=0)
    hidden: int | None = Field(None, ge=1)
    norm: NormKind = "layer"
    activation: Activation = "gelu"
    qk_norm: bool = False
    rotary: bool = True
    rope_base: float = Field(10_000.0, gt=1)
    condition: ConditionPath = "prefix"
    dropout: float = Field(0.0, ge=0, lt=1)
    bias: bool = True
    norm_eps: float = Field(1e-6, gt=0)

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Mar:
        if self.width % self.heads or self.width // self.heads % 2:
            raise ValueError(f"width {self.width} must be an even multiple of heads {self.heads}, so that each head has an even width")
        return self

    def build(self, layout: Layout, condition_width: int | None) -> MaskedAutoencoder:
        """The network for tokens of a layout and a condition of ``condition_width`` channels (``None``: no condition)."""
        settings = dict(self) | {"condition": self.condition if condition_width is not None else None}
        return MaskedAutoencoder(**settings, extents=layout.extents, condition_width=condition_width)
