"""Vocos (arXiv 2306.00814) as the body of a codec: spectra in and out, and everything learned at the rate of frames."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveInt, model_validator

from jielong.autoencoders.base import Autoencoder, AutoencoderSettings
from jielong.core.medium import ALONG_TIME, Axes
from jielong.networks.vocos import VocosDecoder, VocosEncoder, VocosShape


class Vocos(AutoencoderSettings, family="autoencoder", name="vocos"):
    """Settings of Vocos with an encoder that mirrors it (APCodec, 2402.10533); a token covers ``stride * downsample`` samples.

    A frame looks ahead by half of what its window holds beyond the stride, in each half of the codec, even where the blocks are causal.

    Attributes:
        window: Samples of a spectrum, a multiple of the stride, three times as long or more.
        stride: Samples from one spectrum to the next.
        width: Channels of the blocks.
        hidden: Channels within them; three times the width when not given.
        layers: Blocks of each half.
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
    def hop_length(self) -> int:
        """Samples that a token covers."""
        return self.stride * self.downsample

    def build(
        self, *, channels: int, size: tuple[int, ...], dim: int, outputs: int | None = None, encoded: int | None = None
    ) -> Autoencoder:
        """The networks, see :meth:`AutoencoderSettings.build`.

        Raises:
            ValueError: if the media are pictures, or their length is no multiple of :attr:`hop`.
        """
        self.grid(size, self.hop_length)
        shape = VocosShape(
            window=self.window,
            stride=self.stride,
            width=self.width,
            hidden=self.hidden or 3 * self.width,
            layers=self.layers,
            kernel=self.kernel,
            causal=self.causal,
            downsample=self.downsample,
        )
        encoder = VocosEncoder(shape, channels, dim if encoded is None else encoded)
        return Autoencoder(encoder, VocosDecoder(shape, dim, channels if outputs is None else outputs), self.hop_length)
