"""Transformers over patches (ViT-VQGAN, arXiv 2110.04627): every token may hold what the whole picture says about its place."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, PositiveInt, model_validator

from jielong.autoencoders.base import Autoencoder, AutoencoderSettings
from jielong.core.medium import ALONG_ROWS, Axes
from jielong.networks.layers import Activation
from jielong.networks.norm import NormKind
from jielong.networks.transformer import TransformerConfig
from jielong.networks.vision_transformer import Positions, ViTDecoder, ViTEncoder


class ViT(AutoencoderSettings, family="autoencoder", name="vit"):
    """Settings of the transformer body.

    A token covers ``patch`` pixels a side. The decoder is as large as the encoder unless ``decoder_layers``, ``decoder_width`` and
    ``decoder_heads`` say otherwise. ``positions``: ``rotary`` over rows and columns, or a ``learned`` vector a position.
    """

    axes: ClassVar[Axes | None] = ALONG_ROWS
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

    def build(
        self, *, channels: int, size: tuple[int, ...], dim: int, outputs: int | None = None, encoded: int | None = None
    ) -> Autoencoder:
        """The networks, see :meth:`AutoencoderSettings.build`."""
        rows, columns = self.grid(size, self.patch)
        grid = (rows, columns)
        encoder_config = self._config(self.layers, self.width, self.heads)
        decoder_config = self._config(
            self.decoder_layers or self.layers, self.decoder_width or self.width, self.decoder_heads or self.heads
        )
        encoder = ViTEncoder(channels, grid, self.patch, dim if encoded is None else encoded, encoder_config, self.positions)
        decoder = ViTDecoder(dim, grid, self.patch, channels if outputs is None else outputs, decoder_config, self.positions)
        return Autoencoder(encoder, decoder, self.patch)

    def _config(self, layers: int, width: int, heads: int) -> TransformerConfig:
        shared = {name: getattr(self, name) for name in ("norm", "activation", "qk_norm", "rope_base", "bias", "dropout")}
        return TransformerConfig(layers=layers, width=width, heads=heads, **shared)
