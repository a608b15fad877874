"""Vocos (arXiv 2306.00814) as a codec: spectra in and out, networks at the frame rate."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveInt, model_validator
from torch import nn

from jielong.autoencoders.base import AutoencoderSettings, NetworkSizes
from jielong.core.medium import ALONG_TIME, Axes
from jielong.networks.decoder import Decoder
from jielong.networks.vocos import VocosDecoder, VocosEncoder, VocosShape


class Vocos(AutoencoderSettings, family="autoencoder", name="vocos"):
    """Settings of Vocos with a mirrored encoder (APCodec, 2402.10533); a token covers ``stride * downsample`` samples.

    Each half looks ahead by half of ``window - stride``, even with causal blocks.

    Attributes:
        window: Samples of a spectrum, a multiple of the stride, at least 3 times as long.
        stride: Samples from one spectrum to the next.
        width: Channels between the blocks.
        hidden: Channels within them; 3 times the width when not given.
        layers: ConvNeXt blocks of each half.
        kernel: Frames that a block's convolution spans.
        causal: Whether the blocks look back only.
        downsample: Frames that become one token.
    """

    axes: ClassVar[Axes | None] = ALONG_TIME

    window: PositiveInt = 640
    stride: PositiveInt = 160
    width: PositiveInt = 256
    hidden: PositiveInt | None = None
    layers: PositiveInt = 6
    kernel: PositiveInt = 7
    causal: bool = False
    downsample: PositiveInt = 2

    @model_validator(mode="after")
    def _windows_add_up(self) -> Vocos:
        if self.window % self.stride or self.window < 3 * self.stride or self.window % 2:
            raise ValueError(
                f"windows of {self.window} samples every {self.stride} do not add up evenly: take an even multiple of the stride, "
                f"3 times as long or more, such as {4 * self.stride}"
            )
        return self

    @property
    def reduction(self) -> tuple[int, ...]:
        """Samples of a token."""
        return (self.stride * self.downsample,)

    def networks(self, sizes: NetworkSizes) -> tuple[nn.Module, Decoder]:
        """See :meth:`AutoencoderSettings.networks`."""
        shape = VocosShape(**dict(self) | {"hidden": self.hidden or 3 * self.width})
        return VocosEncoder(shape, sizes.channels, sizes.encoded), VocosDecoder(shape, sizes.dim, sizes.outputs)
