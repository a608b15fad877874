"""Causal 3-D convolutional autoencoder: the first frame stands alone, so that a picture is a clip of one (MAGVIT-v2, arXiv 2310.05737)."""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import nn

from jielong.autoencoders.base import AutoencoderSettings, NetworkSizes
from jielong.core.medium import ALONG_FRAMES, Axes
from jielong.networks.causal3d import CausalDecoder, CausalEncoder, CausalShape, Upsampling
from jielong.networks.convolution3d import Beginning, FrameNormKind
from jielong.networks.decoder import Decoder


class Causal3d(AutoencoderSettings, family="autoencoder", name="causal_3d"):
    """Settings of the causal autoencoder of clips, which can be streamed.

    ``T = 1 + r k`` frames become ``1 + k`` latent frames, ``r`` being the product of the strides along time; a latent frame depends on no
    later frame. MAGVIT-v2's network, for 17 frames of 128 pixels to 5 x 16 x 16 tokens, is ``{patch: 1, channels: [128, 128, 256, 512],
    blocks: [4, 4, 4, 4], strides: [[1, 2], [2, 2], [2, 2]]}`` (its widths are not published); Movie Gen's convolutions are
    ``{factorized: true, upsampling: nearest}``.

    Attributes:
        channels: Width of each stage, finest first.
        blocks: Residual blocks of each stage.
        strides: Frames, and pixels a side, between one stage and the next; put strides of space alone first, where there are most frames.
        patch: Pixels a side that enter as one position.
        decoder_channels: Of the decoder; the encoder's if not given.
        decoder_blocks: Of the decoder; the encoder's if not given.
        factorized: Each convolution of space and time is one of space followed by one of time, which is the identity at first, so that an
            untrained network treats each frame as a picture.
        norm: ``group``, over a frame, as published, or ``rms``, over the channels of a position, which frames in tiles need to be exact.
        upsampling: ``depth_to_space`` (MAGVIT-v2) or ``nearest``, followed by a convolution (Movie Gen).
        beginning: What stands before a clip: ``replicate`` (its first frame) or ``constant`` (zeros).
    """

    axes: ClassVar[Axes | None] = ALONG_FRAMES
    first_frame_alone: ClassVar[bool] = True
    channels: tuple[PositiveInt, ...] = Field(default=(32, 64, 96), min_length=1)
    blocks: tuple[NonNegativeInt, ...] = (1, 1, 1)
    strides: tuple[tuple[PositiveInt, PositiveInt], ...] = ((2, 2), (2, 1))
    patch: PositiveInt = 4
    decoder_channels: tuple[PositiveInt, ...] | None = None
    decoder_blocks: tuple[NonNegativeInt, ...] | None = None
    factorized: bool = False
    norm: FrameNormKind = "group"
    upsampling: Upsampling = "depth_to_space"
    beginning: Beginning = "replicate"

    @model_validator(mode="after")
    def _stages_agree(self) -> Causal3d:
        if len(self.strides) != len(self.channels) - 1:
            count = len(self.channels)
            raise ValueError(
                f"{count} stages of channels {list(self.channels)} have {count - 1} strides between them, not {len(self.strides)}"
            )
        lists = {"blocks": self.blocks, "decoder_channels": self.decoder_channels, "decoder_blocks": self.decoder_blocks}
        for name, given in lists.items():
            if given is not None and len(given) != len(self.channels):
                raise ValueError(f"{name} {list(given)} must name the same {len(self.channels)} stages as channels {list(self.channels)}")
        return self

    @property
    def reduction(self) -> tuple[int, ...]:
        """Frames, after the first, and pixels a side of a token."""
        side = self.patch * math.prod(space for _, space in self.strides)
        return math.prod(time for time, _ in self.strides), side, side

    def networks(self, sizes: NetworkSizes) -> tuple[nn.Module, Decoder]:
        """See :meth:`AutoencoderSettings.networks`."""
        encoder = CausalEncoder(self._shape(self.channels, self.blocks), sizes.channels, sizes.encoded, self.reduction[0])
        channels, blocks = self.decoder_channels or self.channels, self.decoder_blocks or self.blocks
        return encoder, CausalDecoder(self._shape(channels, blocks), sizes.dim, sizes.outputs)

    def _shape(self, channels: tuple[int, ...], blocks: tuple[int, ...]) -> CausalShape:
        return CausalShape(channels, blocks, self.strides, self.patch, self.factorized, self.norm, self.upsampling, self.beginning)
