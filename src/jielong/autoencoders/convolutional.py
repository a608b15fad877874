"""Convolutional autoencoder with residual blocks (VQGAN, arXiv 2012.09841)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import nn

from jielong.autoencoders.base import AutoencoderSettings, NetworkSizes
from jielong.core.medium import ALONG_ROWS, Axes
from jielong.networks.convolutional import ConvDecoder, ConvEncoder
from jielong.networks.decoder import Decoder


class Convolutional(AutoencoderSettings, family="autoencoder", name="convolutional"):
    """Settings of the convolutional autoencoder; a token covers ``patch 2^(stages - 1)`` pixels a side.

    Attributes:
        channels: Width of each stage, finest first.
        blocks: Residual blocks of each stage.
        decoder_channels: Of the decoder; the encoder's if not given.
        decoder_blocks: Of the decoder; the encoder's if not given.
        patch: Pixels a side that enter as one position.
        attention: Attention in the coarsest stage.
    """

    axes: ClassVar[Axes | None] = ALONG_ROWS
    channels: tuple[PositiveInt, ...] = Field(default=(64, 128), min_length=1)
    blocks: tuple[NonNegativeInt, ...] = (1, 1)
    decoder_channels: tuple[PositiveInt, ...] | None = None
    decoder_blocks: tuple[NonNegativeInt, ...] | None = None
    patch: int = Field(default=4, ge=1)
    attention: bool = False

    @model_validator(mode="after")
    def _stages_agree(self) -> Convolutional:
        for name, channels, blocks in (
            ("", self.channels, self.blocks),
            ("decoder_", self.decoder_channels or self.channels, self.decoder_blocks or self.blocks),
        ):
            if len(channels) != len(blocks) or len(channels) != len(self.channels):
                raise ValueError(
                    f"{name}channels and {name}blocks must name the same {len(self.channels)} stages, not {channels} and {blocks}"
                )
        return self

    @property
    def reduction(self) -> tuple[int, ...]:
        """Pixels a side of a token."""
        side = self.patch * 2 ** (len(self.channels) - 1)
        return side, side

    def networks(self, sizes: NetworkSizes) -> tuple[nn.Module, Decoder]:
        """See :meth:`AutoencoderSettings.networks`."""
        channels, blocks = self.decoder_channels or self.channels, self.decoder_blocks or self.blocks
        encoder = ConvEncoder(sizes.channels, self.channels, self.blocks, sizes.encoded, self.patch, self.attention)
        return encoder, ConvDecoder(sizes.dim, channels, blocks, sizes.outputs, self.patch, self.attention)
