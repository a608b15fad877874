"""SEANet (arXiv 2009.02095), the body of neural codecs: SoundStream's (2107.03312), EnCodec's (2210.13438), Mimi's and DAC's."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from jielong.autoencoders.base import Autoencoder, AutoencoderSettings
from jielong.config.registry import Config
from jielong.core.medium import ALONG_TIME, Axes
from jielong.networks.seanet import Nonlinearity, SEANetDecoder, SEANetEncoder, SEANetShape, TransformerShape
from jielong.networks.time_layer import ConvNorm, Padding

Shortcut = Literal["convolution", "identity"]


class Context(Config):
    """Settings of the transformer between SEANet and the bottleneck, one in each half.

    Attributes:
        layers: Its layers.
        width: Its channels, and those of SEANet's features; the tokenizer's ``dim`` when not given.
        heads: Attention heads.
        window: Frames in sight, the own one included.
        hidden: Channels of the feed-forward part; four times the width when not given.
        scale: What the scales of residual branches start from.
    """

    layers: PositiveInt = 8
    width: PositiveInt | None = None
    heads: PositiveInt = 8
    window: PositiveInt = 250
    hidden: PositiveInt | None = None
    scale: NonNegativeFloat = 0.01


class SEANet(AutoencoderSettings, family="autoencoder", name="seanet"):
    """Settings of SEANet; a token covers the product of ``ratios`` and ``downsample`` in samples.

    EnCodec's at 24 kHz, but for its ``padding: reflect``, is the default; at 48 kHz it is ``{causal: false, norm: time_group_norm}``.
    SoundStream's is ``{residual_layers: 3, dilation_base: 3, residual_kernel: 7, compress: 1, shortcut: identity, lstm: 0, norm: none,
    last_kernel: [3, 7]}``. Mimi's is ``{channels: 64, ratios: [8, 6, 5, 4], shortcut: identity, lstm: 0, norm: none, last_kernel: 3,
    transformer: {}, downsample: 2, channelwise_upsampling: true}`` at ``dim: 512``.

    Attributes:
        channels: At the full rate; twice as many after every ratio.
        ratios: As papers list them, the decoder's first; the encoder goes through them from the last.
        residual_layers: Residual units a stage.
        dilation_base: Dilation of unit ``j`` of a stage is ``dilation_base^j``.
        kernel: Of the first convolution of each half.
        last_kernel: Of the last one; two numbers where encoder and decoder differ.
        residual_kernel: Of residual units.
        compress: How much narrower these are inside.
        shortcut: ``convolution`` (1x1) or ``identity`` around them.
        lstm: Layers of the LSTM; 0 for none.
        activation: ``elu`` or ``snake``.
        causal: Nothing looks ahead, so that the codec can be streamed.
        norm: ``weight_norm``, ``time_group_norm`` (normalises over all of a sound, so it cannot be cut into pieces) or ``none``.
        padding: ``constant`` (zeros) or ``reflect``, which looks ahead at the beginning, so a stream begins later.
        bounded: Whether a hyperbolic tangent keeps the decoder's sound in (-1, 1).
        decoder_channels: Where the decoder is wider or narrower than the encoder.
        transformer: Between SEANet and the bottleneck, in each half.
        downsample: Ratio of a strided convolution behind it (Mimi: 2, from 25 to 12.5 Hz); 1 for none.
        channelwise_upsampling: The decoder's convolution against ``downsample`` keeps channels apart, as Mimi's released weights have it.
        whole_frames: Sound that ends within a frame is filled up with silence before the first layer, and not in every layer by itself.
    """

    axes: ClassVar[Axes | None] = ALONG_TIME

    channels: PositiveInt = 32
    ratios: tuple[PositiveInt, ...] = Field(default=(8, 5, 4, 2), min_length=1)
    residual_layers: NonNegativeInt = 1
    dilation_base: PositiveInt = 2
    kernel: PositiveInt = 7
    last_kernel: PositiveInt | tuple[PositiveInt, PositiveInt] = 7
    residual_kernel: PositiveInt = 3
    compress: PositiveInt = 2
    shortcut: Shortcut = "convolution"
    lstm: NonNegativeInt = 2
    activation: Nonlinearity = "elu"
    causal: bool = True
    norm: ConvNorm = "weight_norm"
    padding: Padding = "constant"
    bounded: bool = False
    decoder_channels: PositiveInt | None = None
    transformer: Context | None = None
    downsample: PositiveInt = 1
    channelwise_upsampling: bool = False
    whole_frames: bool = False

    @model_validator(mode="after")
    def _options_agree(self) -> SEANet:
        if self.transformer is not None and not self.causal:
            raise ValueError("the transformer looks back only: set causal: true beside it, or leave it out")
        if self.transformer is not None and self.transformer.width is not None and self.channelwise_upsampling:
            raise ValueError("channelwise_upsampling keeps the tokenizer's dim: leave the transformer's width out beside it")
        if self.causal and self.norm == "time_group_norm":
            raise ValueError("time_group_norm looks at all of a sound, so nothing is causal beside it: take norm: weight_norm or none")
        return self

    @property
    def hop_length(self) -> int:
        """Samples that a token covers."""
        return math.prod(self.ratios) * self.downsample

    def build(
        self, *, channels: int, size: tuple[int, ...], dim: int, outputs: int | None = None, encoded: int | None = None
    ) -> Autoencoder:
        """The networks, see :meth:`AutoencoderSettings.build`.

        Raises:
            ValueError: if the media are pictures, or their length is no multiple of :attr:`hop`.
        """
        self.grid(size, self.hop_length)
        encoder = SEANetEncoder(self._shape(self.channels, dim), channels, dim if encoded is None else encoded)
        decoder = SEANetDecoder(self._shape(self.decoder_channels or self.channels, dim), dim, channels if outputs is None else outputs)
        return Autoencoder(encoder, decoder, self.hop_length)

    def _shape(self, channels: int, dim: int) -> SEANetShape:
        last = self.last_kernel if isinstance(self.last_kernel, tuple) else (self.last_kernel, self.last_kernel)
        context, between = self.transformer, None
        if context is not None:
            width = context.width or dim
            between = TransformerShape(context.layers, width, context.heads, context.window, context.hidden or 4 * width, context.scale)
        return SEANetShape(
            channels=channels,
            ratios=self.ratios,
            kernel=self.kernel,
            last_kernel=last,
            residual_kernel=self.residual_kernel,
            residual_layers=self.residual_layers,
            dilation_base=self.dilation_base,
            compress=self.compress,
            convolved_shortcut=self.shortcut == "convolution",
            lstm=self.lstm,
            activation=self.activation,
            causal=self.causal,
            norm=self.norm,
            padding=self.padding,
            bounded=self.bounded,
            transformer=between,
            downsample=self.downsample,
            channelwise_upsampling=self.channelwise_upsampling,
            whole_frames=self.whole_frames,
        )


class DAC(SEANet, family="autoencoder", name="dac"):
    """SEANet as the Descript audio codec has it (arXiv 2306.06546): Snake, dilated units, context on both sides, sound in (-1, 1)."""

    channels: PositiveInt = 64
    ratios: tuple[PositiveInt, ...] = Field(default=(8, 8, 4, 2), min_length=1)
    residual_layers: NonNegativeInt = 3
    dilation_base: PositiveInt = 3
    last_kernel: PositiveInt | tuple[PositiveInt, PositiveInt] = (3, 7)
    residual_kernel: PositiveInt = 7
    compress: PositiveInt = 1
    shortcut: Shortcut = "identity"
    lstm: NonNegativeInt = 0
    activation: Nonlinearity = "snake"
    causal: bool = False
    bounded: bool = True
    whole_frames: bool = True
