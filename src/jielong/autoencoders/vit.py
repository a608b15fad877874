"""Transformer autoencoder over patches (ViT-VQGAN, arXiv 2110.04627)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, PositiveInt, model_validator
from torch import nn

from jielong.autoencoders.base import AutoencoderSettings, NetworkSizes
from jielong.core.medium import ALONG_ROWS, Axes
from jielong.networks.decoder import Decoder
from jielong.networks.layers import Activation
from jielong.networks.norm import NormKind
from jielong.networks.transformer import TransformerConfig
from jielong.networks.vision_transformer import Positions, ViTDecoder, ViTEncoder


class ViT(AutoencoderSettings, family="autoencoder", name="vit"):
    """Settings of the transformer autoencoder; a token covers ``patch`` pixels a side.

    Attributes:
        patch: Pixels a side of a patch, which becomes one token.
        layers: Layers of the encoder.
        width: Channels of a position of the encoder.
        heads: Attention heads of a layer of the encoder.
        decoder_layers: Of the decoder; the encoder's if not given.
        decoder_width: Of the decoder; the encoder's if not given.
        decoder_heads: Of the decoder; the encoder's if not given.
        positions: ``rotary`` over rows and columns, or a ``learned`` vector per position.
        norm: ``rms`` or ``layer``.
        activation: ``swiglu`` or ``gelu``.
        qk_norm: Normalise queries and keys, head by head, before rotation.
        rope_base: Longest wavelength of rotary positions over ``2 pi``.
        bias: Whether linear maps have a bias.
        dropout: Probability of dropping a channel of a residual branch.
    """

    axes: ClassVar[Axes | None] = ALONG_ROWS
    any_size: ClassVar[bool] = False  # positions are those of one grid
    patch: int = Field(default=8, ge=1)
    layers: PositiveInt = 4
    width: PositiveInt = 192
    heads: PositiveInt = 3
    decoder_layers: PositiveInt | None = None
    decoder_width: PositiveInt | None = None
    decoder_heads: PositiveInt | None = None
    positions: Positions = "rotary"
    norm: NormKind = "rms"
    activation: Activation = "swiglu"
    qk_norm: bool = False
    rope_base: float = Field(10_000.0, gt=1)
    bias: bool = False
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> ViT:
        sizes = {"": (self.width, self.heads), "decoder_": (self.decoder_width or self.width, self.decoder_heads or self.heads)}
        for name, (width, heads) in sizes.items():
            if width % heads or width // heads % 2 or width // heads < 4:
                raise ValueError(
                    f"{name}width {width} must be an even multiple of {name}heads {heads}, with 4 channels or more a head: "
                    "two to rotate by the row, two by the column"
                )
        return self

    @property
    def reduction(self) -> tuple[int, ...]:
        """Pixels a side of a token."""
        return self.patch, self.patch

    def networks(self, sizes: NetworkSizes) -> tuple[nn.Module, Decoder]:
        """See :meth:`AutoencoderSettings.networks`."""
        rows, columns = sizes.grid
        config = self._config(self.layers, self.width, self.heads)
        encoder = ViTEncoder(sizes.channels, (rows, columns), self.patch, sizes.encoded, config, self.positions)
        config = self._config(self.decoder_layers or self.layers, self.decoder_width or self.width, self.decoder_heads or self.heads)
        return encoder, ViTDecoder(sizes.dim, (rows, columns), self.patch, sizes.outputs, config, self.positions)

    def _config(self, layers: int, width: int, heads: int) -> TransformerConfig:
        shared = {name: getattr(self, name) for name in ("norm", "activation", "qk_norm", "rope_base", "bias", "dropout")}
        return TransformerConfig(layers=layers, width=width, heads=heads, **shared)
