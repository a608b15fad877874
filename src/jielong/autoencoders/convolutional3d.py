"""3-D convolutional autoencoder with axial attention (VideoGPT, arXiv 2104.10157)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import nn

from jielong.autoencoders.base import AutoencoderSettings, NetworkSizes
from jielong.core.medium import ALONG_FRAMES, Axes
from jielong.networks.axial import AxialDecoder, AxialEncoder, Sizes, VolumeNorm, VolumeShape
from jielong.networks.decoder import Decoder


class Convolutional3d(AutoencoderSettings, family="autoencoder", name="convolutional_3d"):
    """Settings of the autoencoder of clips whose frames all see one another; a token covers ``strides`` frames, rows and columns.

    The published network is ``{width: 240, blocks: 4, heads: 2, norm: batch}``.

    Attributes:
        strides: Frames, rows and columns of a token, powers of 2. Each factor of 2 is a convolution of kernel 4; axes that need fewer are
            halved first.
        width: Channels of the residual blocks.
        strided: Channels after each of these convolutions, finest first; the width if not given.
        blocks: Residual blocks of each half.
        heads: Heads of the axial attention; 0 leaves it out.
        norm: ``group``, over a clip, or ``batch`` (as published), whose statistics are those of what one process computes at once.
    """

    axes: ClassVar[Axes | None] = ALONG_FRAMES
    strides: tuple[PositiveInt, PositiveInt, PositiveInt] = (2, 8, 8)
    width: int = Field(default=64, ge=2)
    strided: tuple[PositiveInt, ...] | None = None
    blocks: NonNegativeInt = 2
    heads: NonNegativeInt = 2
    norm: VolumeNorm = "group"

    @model_validator(mode="after")
    def _sizes_agree(self) -> Convolutional3d:
        if wrong := [each for each in self.strides if each & (each - 1)]:
            raise ValueError(f"strides are powers of 2, such as [2, 8, 8], and {wrong[0]} is none")
        if max(self.strides) == 1:
            raise ValueError("strides of 1 along every axis leave as many tokens as pixels: make one of them 2 or more")
        if self.strided is not None and len(self.strided) != len(self._steps):
            raise ValueError(f"strides {list(self.strides)} take {len(self._steps)} convolutions, but strided names {len(self.strided)}")
        if self.heads and self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self

    @property
    def reduction(self) -> tuple[int, ...]:
        """Frames, rows and columns of a token."""
        return self.strides

    @property
    def _steps(self) -> tuple[Sizes, ...]:
        """The strides of each convolution."""
        halvings = [each.bit_length() - 1 for each in self.strides]
        return tuple((1 + (halvings[0] > n), 1 + (halvings[1] > n), 1 + (halvings[2] > n)) for n in range(max(halvings)))

    def networks(self, sizes: NetworkSizes) -> tuple[nn.Module, Decoder]:
        """See :meth:`AutoencoderSettings.networks`."""
        strided = self.strided or (self.width,) * len(self._steps)
        shape = VolumeShape(self.width, strided, self._steps, self.blocks, self.heads, self.norm)
        return AxialEncoder(shape, sizes.channels, sizes.encoded), AxialDecoder(shape, sizes.dim, sizes.outputs)
