"""SEANet (arXiv 2009.02095) as used by codecs: SoundStream, EnCodec, Mimi, and, with the activation Snake, DAC.

The encoder is a convolution; for each ratio residual units and a strided convolution that doubles the channels; optionally an LSTM; a
convolution to the output width; optionally a transformer and a last strided convolution. The decoder is its mirror.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.convolution1d import Conv1d, ConvTranspose1d, Residual, SequentialDecoder
from jielong.networks.streaming import StreamingModule, StreamingSequential, StreamState
from jielong.networks.time_kernels import elu
from jielong.networks.time_layer import ConvNorm, Padding
from jielong.networks.windowed import WindowedTransformer

Nonlinearity = Literal["elu", "snake"]


@dataclass(frozen=True)
class TransformerShape:
    """Sizes of the :class:`WindowedTransformer` between SEANet and the bottleneck; ``width`` is that of SEANet's features."""

    layers: int
    width: int
    heads: int
    window: int
    hidden: int
    scale: float


@dataclass(frozen=True)
class SEANetShape:
    """Sizes shared by encoder and decoder."""

    channels: int  # at the full rate; doubled after every ratio
    ratios: tuple[int, ...]  # of the decoder's stages, coarsest first
    kernel: int  # of the first convolution of each half
    last_kernel: tuple[int, int]  # of the last convolution of each half, encoder first
    residual_kernel: int  # of the first convolution of a residual unit; the second has 1
    residual_layers: int  # residual units of a stage
    dilation_base: int  # unit j of a stage has dilation dilation_base^j
    compress: int  # channels of a stage over those inside a residual unit
    convolved_shortcut: bool  # a 1x1 convolution as the shortcut of residual units instead of the identity
    lstm: int  # layers of the LSTM; 0 for none
    activation: Nonlinearity  # elu, or snake: x + sin^2(a x) / a, with a parameter a for each channel (2006.08195)
    causal: bool  # whether all layers are causal
    norm: ConvNorm  # as in TimeLayer
    padding: Padding  # as in Conv1d
    bounded: bool  # whether the decoder ends in a hyperbolic tangent
    transformer: TransformerShape | None  # next to the bottleneck, in each half
    downsample: int  # ratio of the encoder's last strided convolution and the decoder's first transposed one; 1 for none
    channelwise_upsampling: bool  # that transposed convolution is depthwise, as in Mimi's released weights
    whole_frames: bool  # the last frame is filled with zeros before the first layer, not padded by every layer

    def conv(self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> Conv1d:
        """A convolution of this network."""
        return Conv1d(inputs, outputs, kernel, stride, dilation, causal=self.causal, padding=self.padding, norm=self.norm)

    def act(self, channels: int) -> nn.Module:
        """Its activation."""
        return ELU() if self.activation == "elu" else Snake(channels)

    def units(self, channels: int) -> list[nn.Module]:
        """The residual units of a stage."""
        inner = max(1, channels // self.compress)
        units: list[nn.Module] = []
        for number in range(self.residual_layers):
            branch = StreamingSequential(
                self.act(channels),
                self.conv(channels, inner, self.residual_kernel, dilation=self.dilation_base**number),
                self.act(inner),
                self.conv(inner, channels, 1),
            )
            units.append(Residual(branch, self.conv(channels, channels, 1) if self.convolved_shortcut else nn.Identity()))
        return units

    def context(self) -> list[nn.Module]:
        """The transformer, if there is one."""
        shape = self.transformer
        if shape is None:
            return []
        return [
            WindowedTransformer(
                shape.width, layers=shape.layers, heads=shape.heads, window=shape.window, hidden=shape.hidden, scale=shape.scale
            )
        ]


class ELU(nn.ELU):
    """``x`` where positive, ``exp(x) - 1`` elsewhere (arXiv 1511.07289)."""

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return super().forward(x) if torch.is_grad_enabled() or x.device.type != "cpu" else elu(x)


class Snake(nn.Module):
    """``x + sin^2(a x) / a`` on ``(B, C, T)``, ``a`` being learned for each channel (arXiv 2006.08195, eq. 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return torch.addcmul(x, torch.sin(self.alpha * x).square(), (self.alpha + 1e-9).reciprocal())


@dataclass
class _LSTMState(StreamState):
    """Hidden state and cell, ``(layers, B, C)`` each; ``None`` before the first chunk."""

    tensors: tuple[Tensor, Tensor] | None = None

    def reset(self, row: int) -> None:
        if self.tensors is not None:
            hidden, cell = (tensor.clone() for tensor in self.tensors)
            hidden[:, row], cell[:, row] = 0, 0
            self.tensors = hidden, cell


class SkipLSTM(StreamingModule):
    """``x + LSTM(x)`` over time, ``(B, C, T)``."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        steps = x.permute(2, 0, 1).contiguous()  # (T, B, C)
        if (stream := self.stream) is None:
            return (steps + self.lstm(steps)[0]).permute(1, 2, 0)
        stream.check(x)
        if not x.shape[-1]:
            return x
        state = stream.state(self, _LSTMState)
        outputs, state.tensors = self.lstm(steps, state.tensors)
        return (steps + outputs).permute(1, 2, 0)


@dataclass
class _FrameFill(StreamState):
    """Samples of the frame in progress."""

    samples: int = 0


class SEANetEncoder(StreamingSequential):
    """Sound ``(B, C, T)`` to features ``(B, outputs, ceil(T / hop))``."""

    def __init__(self, shape: SEANetShape, inputs: int, outputs: int) -> None:
        channels, inner = shape.channels, outputs if shape.transformer is None else shape.transformer.width
        layers: list[nn.Module] = [shape.conv(inputs, channels, shape.kernel)]
        for ratio in reversed(shape.ratios):
            layers += [*shape.units(channels), shape.act(channels), shape.conv(channels, 2 * channels, 2 * ratio, ratio)]
            channels *= 2
        layers += [SkipLSTM(channels, shape.lstm)] if shape.lstm else []
        layers += [shape.act(channels), shape.conv(channels, inner, shape.last_kernel[0]), *shape.context()]
        if shape.downsample > 1:
            layers.append(
                Conv1d(inner, outputs, 2 * shape.downsample, shape.downsample, bias=False, causal=shape.causal, padding="replicate")
            )
        elif inner != outputs:
            layers.append(Conv1d(inner, outputs, 1))
        super().__init__(*layers)
        self.hop_length, self.whole_frames = math.prod(shape.ratios) * shape.downsample, shape.whole_frames

    def extra_repr(self) -> str:
        """What the layers do not show; token files are identified by the printed tokenizer."""
        return "whole_frames=True" if self.whole_frames else ""

    def forward(self, x: Tensor) -> Tensor:
        """Sound ``(B, C, T)`` to features; of a chunk, those that are determined by now."""
        return super().forward(self._filled(x) if self.whole_frames else x)

    def _filled(self, x: Tensor) -> Tensor:
        """The sound, with zeros up to the end of its last frame."""
        if (stream := self.stream) is None:
            return F.pad(x, (0, -x.shape[-1] % self.hop_length))
        state = stream.state(self, _FrameFill)
        state.samples = (state.samples + x.shape[-1]) % self.hop_length
        if not stream.last:
            return x
        missing, state.samples = -state.samples % self.hop_length, 0
        return F.pad(x, (0, missing))


class SEANetDecoder(SequentialDecoder):
    """Features ``(B, inputs, n)`` to sound ``(B, C, n hop)``, unbounded unless ``shape.bounded``."""

    def __init__(self, shape: SEANetShape, inputs: int, outputs: int) -> None:
        channels, inner = shape.channels * 2 ** len(shape.ratios), inputs if shape.transformer is None else shape.transformer.width
        layers: list[nn.Module] = []
        if shape.downsample > 1:
            groups = inputs if shape.channelwise_upsampling else 1
            layers.append(ConvTranspose1d(inputs, inner, 2 * shape.downsample, shape.downsample, groups, bias=False, causal=shape.causal))
        elif inner != inputs:
            layers.append(Conv1d(inputs, inner, 1))
        layers += [*shape.context(), shape.conv(inner, channels, shape.kernel)]
        layers += [SkipLSTM(channels, shape.lstm)] if shape.lstm else []
        for ratio in shape.ratios:
            up = ConvTranspose1d(channels, channels // 2, 2 * ratio, ratio, causal=shape.causal, norm=shape.norm)
            layers += [shape.act(channels), up, *shape.units(channels // 2)]
            channels //= 2
        layers += [shape.act(channels), shape.conv(channels, outputs, shape.last_kernel[1])]
        layers += [nn.Tanh()] if shape.bounded else []
        super().__init__(*layers)
        self.hop_length = math.prod(shape.ratios) * shape.downsample
