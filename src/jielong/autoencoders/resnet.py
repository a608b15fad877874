"""Residual autoencoder of latent diffusion (arXiv 2112.10752), with the weights of Stable Diffusion, MAR or FLUX."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator
from torch import nn

from jielong.autoencoders.base import AutoencoderSettings, NetworkSizes
from jielong.core.medium import ALONG_ROWS, Axes
from jielong.networks.decoder import Decoder
from jielong.networks.resnet import ResnetDecoder, ResnetEncoder, ResnetSizes


class Resnet(AutoencoderSettings, family="autoencoder", name="resnet"):
    """Settings of the residual autoencoder; a token covers ``2^(stages - 1)`` pixels a side.

    Stable Diffusion and, but for its ``projections``, FLUX have ``channels: [128, 256, 512, 512]``, ``blocks: 2`` and ``groups: 32``; MAR's
    KL-16 has ``channels: [128, 128, 256, 256, 512]``, ``attention: true`` and ``decoder_attention: false``.

    Attributes:
        channels: Width of each stage, finest first.
        blocks: Residual blocks of a stage of the encoder; the decoder has one more by default.
        groups: Groups of channels of a group norm.
        attention: Attention after every block of the coarsest stage, beside that in the middle.
        decoder_attention: The same in the decoder; that of the encoder if not given.
        middle_attention: Attention between the two residual blocks of the middle; MaskGIT-VQGAN has none.
        decoder_blocks: Residual blocks of a stage of the decoder; one more than the encoder's if not given.
        projections: A convolution on either side of the bottleneck, absent in later models.
        projection_kernel: Its kernel: 1, or 3 as in VAR's tokenizer.
        z_channels: Channels between that convolution and the networks; those of the bottleneck if not given. LlamaGen's tokenizer has 256,
            and codes of 8 numbers.
        padding: What pictures go on with outside, as the first convolution reads them: 0 is grey, and -1 black, the 0 of networks that
            read pictures in [0, 1] (the VQGAN of MaskGIT and TiTok).
    """

    axes: ClassVar[Axes | None] = ALONG_ROWS
    channels: tuple[PositiveInt, ...] = Field(default=(64, 128, 128), min_length=1)
    blocks: PositiveInt = 2
    groups: PositiveInt = 32
    attention: bool = False
    decoder_attention: bool | None = None
    middle_attention: bool = True
    decoder_blocks: PositiveInt | None = None
    projections: bool = True
    projection_kernel: Literal[1, 3] = 1
    z_channels: PositiveInt | None = None
    padding: float = Field(default=0.0, ge=-1, le=1)

    @model_validator(mode="after")
    def _groups_are_whole(self) -> Resnet:
        if any(width % self.groups for width in self.channels):
            raise ValueError(f"channels {self.channels} must be multiples of groups {self.groups}")
        if self.projection_kernel != 1 and not self.projections:
            raise ValueError("projection_kernel is of the projections, and projections is false: leave one of them out")
        if self.z_channels is not None and not self.projections:
            raise ValueError("z_channels are those outside the projections, and projections is false: leave one of them out")
        return self

    @property
    def reduction(self) -> tuple[int, ...]:
        """Pixels a side of a token."""
        side = 2 ** (len(self.channels) - 1)
        return side, side

    def networks(self, sizes: NetworkSizes) -> tuple[nn.Module, Decoder]:
        """See :meth:`AutoencoderSettings.networks`."""
        sizes_of_encoder = ResnetSizes(
            self.channels,
            self.blocks,
            self.groups,
            self.attention,
            projection=self.projection_kernel if self.projections else 0,
            inner=None if self.z_channels is None else self.z_channels * (sizes.encoded // sizes.dim),  # two numbers a latent in kl
            middle_attention=self.middle_attention,
        )
        sizes_of_decoder = replace(
            sizes_of_encoder,
            blocks=self.blocks + 1 if self.decoder_blocks is None else self.decoder_blocks,
            attention=self.attention if self.decoder_attention is None else self.decoder_attention,
            inner=self.z_channels,
        )
        encoder = ResnetEncoder(sizes.channels, sizes.encoded, sizes_of_encoder, self.padding)
        decoder = ResnetDecoder(sizes.dim, sizes.outputs, sizes_of_decoder)
        return encoder, decoder
