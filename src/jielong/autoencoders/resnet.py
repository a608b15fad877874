"""The residual network of latent diffusion's autoencoders (arXiv 2112.10752): Stable Diffusion's, MAR's and FLUX's, given their weights."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, PositiveInt, model_validator

from jielong.autoencoders.base import Autoencoder, AutoencoderSettings
from jielong.core.medium import ALONG_ROWS, Axes
from jielong.networks.resnet import ResnetDecoder, ResnetEncoder


class Resnet(AutoencoderSettings, family="autoencoder", name="resnet"):
    """Settings of the residual body.

    ``channels`` lists the width of each stage, finest first; a token covers ``2^(stages - 1)`` pixels a side. Stable Diffusion's and, but
    for its ``projections``, FLUX's are ``[128, 256, 512, 512]`` with ``blocks: 2`` and ``groups: 32``; MAR's KL-16 is
    ``[128, 128, 256, 256, 512]`` with ``attention: true`` and ``decoder_attention: false``.

    Attributes:
        channels: Width of each stage, finest first.
        blocks: Residual blocks of a stage of the encoder; the decoder has one more.
        groups: Groups of channels that are normalised together.
        attention: Attention after every block of the coarsest stage, beside that in the middle.
        decoder_attention: The same in the decoder; that of the encoder if not given.
        projections: A 1x1 convolution on either side of the bottleneck, without which later models do.
    """

    axes: ClassVar[Axes | None] = ALONG_ROWS
    channels: tuple[PositiveInt, ...] = Field(default=(64, 128, 128), min_length=1)
    blocks: PositiveInt = 2
    groups: PositiveInt = 32
    attention: bool = False
    decoder_attention: bool | None = None
    projections: bool = True

    @model_validator(mode="after")
    def _groups_are_whole(self) -> Resnet:
        if any(width % self.groups for width in self.channels):
            raise ValueError(f"channels {self.channels} must be multiples of groups {self.groups}")
        return self

    def build(
        self, *, channels: int, size: tuple[int, ...], dim: int, outputs: int | None = None, encoded: int | None = None
    ) -> Autoencoder:
        """The networks, see :meth:`AutoencoderSettings.build`."""
        reduction = 2 ** (len(self.channels) - 1)
        self.grid(size, reduction)
        attention = self.attention if self.decoder_attention is None else self.decoder_attention
        encoded, outputs = dim if encoded is None else encoded, channels if outputs is None else outputs
        encoder = ResnetEncoder(channels, self.channels, self.blocks, encoded, self.groups, self.attention, self.projections)
        decoder = ResnetDecoder(dim, self.channels, self.blocks, outputs, self.groups, attention, self.projections)
        return Autoencoder(encoder, decoder, reduction)
