"""SEANet (arXiv 2009.02095), the autoencoder of SoundStream (2107.03312), EnCodec (2210.13438), Mimi and DAC."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from torch import nn

from jielong.autoencoders.base import AutoencoderSettings, NetworkSizes
from jielong.config.registry import Config
from jielong.core.medium import ALONG_TIME, Axes
from jielong.networks.decoder import Decoder
from jielong.networks.seanet import Nonlinearity, SEANetDecoder, SEANetEncoder, SEANetShape, TransformerShape
from jielong.networks.time_layer import ConvNorm, Padding

Shortcut = Literal["convolution", "identity"]


class Context(Config):
    """Settings of the transformer between SEANet and the bottleneck, one in each half.

    Attributes:
        layers: Transformer layers.
        width: Its channels, and those of SEANet's features; the tokenizer's ``dim`` when not given.
        heads: Attention heads of a layer.
        window: Frames of attention, the current one included.
        hidden: Channels of the feed-forward part; four times the width when not given.
        scale: Initial scale of residual branches.
    """

    layers: PositiveInt = 8
    width: PositiveInt | None = None
    heads: PositiveInt = 8
    window: PositiveInt = 250
    hidden: PositiveInt | None = None
    scale: NonNegativeFloat = 0.01


class SEANet(AutoencoderSettings, family="autoencoder", name="seanet"):
    """SEANet (arXiv 2009.02095), of SoundStream, EnCodec and Mimi; a token covers the product of ``ratios`` and ``downsample`` in samples.

    EnCodec's at 24 kHz, but for its ``padding: reflect``, is the default; at 48 kHz it is ``{causal: false, norm: time_group_norm}``.
    SoundStream's is ``{residual_layers: 3, dilation_base: 3, residual_kernel: 7, compress: 1, shortcut: identity, lstm: 0, norm: none,
    last_kernel: [3, 7]}``. Mimi's is ``{channels: 64, ratios: [8, 6, 5, 4], shortcut: identity, lstm: 0, norm: none, last_kernel: 3,
    transformer: {}, downsample: 2, channelwise_upsampling: true}`` at ``dim: 512``.

    Attributes:
        channels: At the full rate; twice as many after every ratio.
        ratios: Of the decoder's stages, as papers list them; the encoder's are reversed.
        residual_layers: Residual units a stage.
        dilation_base: Dilation of unit ``j`` of a stage is ``dilation_base^j``.
        kernel: Of the first convolution of each half.
        last_kernel: Of the last one; two numbers where encoder and decoder differ.
        residual_kernel: Of residual units.
        compress: Factor by which these are narrower inside.
        shortcut: ``convolution`` (1x1) or ``identity`` around them.
        lstm: Layers of the LSTM; 0 for none.
        activation: ``elu`` or ``snake``.
        causal: Nothing looks ahead, so that the codec can stream.
        norm: ``weight_norm``, ``time_group_norm`` (over all of a clip, which excludes streaming) or ``none``.
        padding: ``constant`` (zeros) or ``reflect``, which delays the start of a stream.
        bounded: A hyperbolic tangent keeps the decoder's output in (-1, 1).
        decoder_channels: Of the decoder; the encoder's if not given.
        transformer: Between SEANet and the bottleneck, in each half.
        downsample: Ratio of a strided convolution after it (Mimi: 2, from 25 to 12.5 Hz); 1 for none.
        channelwise_upsampling: The decoder's transposed convolution for ``downsample`` is depthwise, as in Mimi's released weights.
        whole_frames: Pad with silence to whole frames before the first layer, and not in every layer.
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
            raise ValueError("the transformer is causal: set causal: true beside it, or leave it out")
        if self.transformer is not None and self.transformer.width is not None and self.channelwise_upsampling:
            raise ValueError("channelwise_upsampling keeps the tokenizer's dim: leave the transformer's width out beside it")
        if self.causal and self.norm == "time_group_norm":
            raise ValueError("time_group_norm is over all of a clip and not causal: set norm: weight_norm or none")
        return self

    @property
    def reduction(self) -> tuple[int, ...]:
        """Samples of a token."""
        return (math.prod(self.ratios) * self.downsample,)

    def networks(self, sizes: NetworkSizes) -> tuple[nn.Module, Decoder]:
        """See :meth:`AutoencoderSettings.networks`."""
        encoder = SEANetEncoder(self._shape(self.channels, sizes.dim), sizes.channels, sizes.encoded)
        return encoder, SEANetDecoder(self._shape(self.decoder_channels or self.channels, sizes.dim), sizes.dim, sizes.outputs)

    def _shape(self, channels: int, dim: int) -> SEANetShape:
        last = self.last_kernel if isinstance(self.last_kernel, tuple) else (self.last_kernel, self.last_kernel)
        context, between = self.transformer, None
        if context is not None:
            width = context.width or dim
            between = TransformerShape(context.layers, width, context.heads, context.window, context.hidden or 4 * width, context.scale)
        fields = {name: value for name, value in self if name not in ("shortcut", "decoder_channels")}
        changed = {"channels": channels, "last_kernel": last, "transformer": between}
        return SEANetShape(**fields | changed, convolved_shortcut=self.shortcut == "convolution")


class DAC(SEANet, family="autoencoder", name="dac"):
    """SEANet of the Descript audio codec (arXiv 2306.06546): Snake, dilated units, not causal, output in (-1, 1)."""

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
