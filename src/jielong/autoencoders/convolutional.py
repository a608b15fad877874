"""Convolutions, normalised group by group, with residual blocks (VQGAN, arXiv 2012.09841)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from jielong.autoencoders.base import Autoencoder, AutoencoderSettings
from jielong.core.medium import ALONG_ROWS, Axes
from jielong.networks.convolutional import ConvDecoder, ConvEncoder


class Convolutional(AutoencoderSettings, family="autoencoder", name="convolutional"):
    """Settings of the convolutional body.

    ``channels`` and ``blocks`` list the width and the residual blocks of each stage, finest first; ``patch`` is the side of
    the square of pixels that enters as one position. A token covers ``patch 2^(stages - 1)`` pixels a side.
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

    def build(
        self, *, channels: int, size: tuple[int, ...], dim: int, outputs: int | None = None, encoded: int | None = None
    ) -> Autoencoder:
        """The networks, see :meth:`AutoencoderSettings.build`."""
        reduction = self.patch * 2 ** (len(self.channels) - 1)
        self.grid(size, reduction)
        encoder = ConvEncoder(channels, self.channels, self.blocks, dim if encoded is None else encoded, self.patch, self.attention)
        decoder = ConvDecoder(
            dim,
            self.decoder_channels or self.channels,
            self.decoder_blocks or self.blocks,
            channels if outputs is None else outputs,
            self.patch,
            self.attention,
        )
        return Autoencoder(encoder, decoder, reduction)
