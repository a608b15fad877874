"""Codecs that think in frames: spectra in, ConvNeXt blocks at their rate, spectra out (Vocos, arXiv 2306.00814; APCodec, 2402.10533).

The transforms are convolutions whose weights are fixed, so a sound can be streamed through them as through any other layer. Nothing learned
works at the rate of samples, which is what a codec of samples spends most of its time on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.convolution1d import Conv1d, ConvTranspose1d, Residual, SequentialDecoder
from jielong.networks.streaming import StreamingSequential

QUIETEST = 1e-4
"""Magnitude below which the encoder hears nothing; white noise at full scale has about 1."""
LOUDEST = 100.0
"""Largest magnitude that a decoder says (Vocos, section 3.3)."""


@dataclass(frozen=True)
class VocosShape:
    """What encoder and decoder have in common.

    Attributes:
        window: Samples of a spectrum.
        stride: Samples from one spectrum to the next.
        width: Channels of the blocks.
        hidden: Channels within them.
        layers: Blocks of each half.
        kernel: Frames that a block's convolution spans.
        causal: Whether the blocks look back only.
        downsample: Frames that become one token.
    """

    window: int
    stride: int
    width: int
    hidden: int
    layers: int
    kernel: int
    causal: bool
    downsample: int

    @property
    def bins(self) -> int:
        """Of a spectrum."""
        return self.window // 2 + 1

    def conv(self, inputs: int, groups: int = 1) -> Conv1d:
        """A convolution over neighbouring frames, to the width of the blocks."""
        return Conv1d(inputs, self.width, self.kernel, groups=groups, causal=self.causal)

    def blocks(self) -> list[nn.Module]:
        """ConvNeXt blocks (arXiv 2201.03545)."""
        made: list[nn.Module] = []
        for _ in range(self.layers):
            branch = StreamingSequential(self.conv(self.width, groups=self.width), FeedForward(self.width, self.hidden, 1 / self.layers))
            made.append(Residual(branch, nn.Identity()))
        return made


class FeedForward(nn.Module):
    """Layer norm and two linear maps of every frame by itself, times learned scales: ``(B, width, n)`` to the same shape."""

    def __init__(self, width: int, hidden: int, scale: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return (self.scale * self.down(F.gelu(self.up(self.norm(x.mT))))).mT


class FrameNorm(nn.LayerNorm):
    """Layer norm of every frame of ``(B, width, n)``."""

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return super().forward(x.mT).mT


class Analysis(Conv1d):
    """Short-time spectra: ``(B, C, T)`` to ``(B, C 2 bins, ceil(T / stride))``, for each channel real parts and then imaginary ones.

    Hann windows, scaled so that white noise of variance 1 has spectra of about 1. Frame ``i`` is centred on the samples from
    ``i stride`` to ``(i + 1) stride``.
    """

    def __init__(self, channels: int, window: int, stride: int) -> None:
        super().__init__(channels, channels * 2 * (window // 2 + 1), window, stride, groups=channels, bias=False, causal=False)
        _fix(self, _waves(window) / math.sqrt(3 * window / 8), channels)

    def forward(self, x: Tensor) -> Tensor:
        """The spectra, in float32 whatever the autocast; of a chunk, what is settled by now."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


class Synthesis(ConvTranspose1d):
    """The inverse of :class:`Analysis`, but for half a window at either end, where fewer windows add up."""

    def __init__(self, channels: int, window: int, stride: int) -> None:
        super().__init__(channels * 2 * (window // 2 + 1), channels, window, stride, groups=channels, bias=False, causal=False)
        # A transform's inverse counts every bin but the first and the last twice; squared windows add up to 3/8 of those in sight.
        twice = torch.full((window // 2 + 1, 1), 2.0)
        twice[0] = twice[-1] = 1.0
        scale = math.sqrt(3 * window / 8) / window * (8 / 3) * stride / window
        _fix(self, _waves(window) * twice.repeat(2, 1) * scale, channels)

    def forward(self, x: Tensor) -> Tensor:
        """The sound, in float32 whatever the autocast; of a chunk, what is settled by now."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


def _waves(window: int) -> Tensor:
    """Windowed waves ``(2 bins, window)``: cosines, then negated sines."""
    time = torch.arange(window, dtype=torch.float64)
    angles = 2 * math.pi / window * (torch.arange(window // 2 + 1, dtype=torch.float64)[:, None] * time % window)
    return (torch.cat([angles.cos(), -angles.sin()]) * torch.hann_window(window, dtype=torch.float64)).float()


def _fix(layer: Conv1d | ConvTranspose1d, weight: Tensor, channels: int) -> None:
    """Give a layer the same weight ``(outputs, taps)`` for each channel; it is neither learned nor stored."""
    del layer.weight
    layer.register_buffer("weight", weight.repeat(channels, 1)[:, None], persistent=False)


class LogMagnitudes(nn.Module):
    """Logarithms of the magnitudes of spectra ``(B, C 2 bins, n)``, about as large as 1: ``(B, C bins, n)``.

    Real and imaginary parts of a steady sound turn with every frame. An encoder that is given these has to learn squares before anything
    else, which takes it longer than all that comes after.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Half as many rows."""
        power = x.unflatten(1, (self.channels, 2, -1)).square().sum(2)
        return (power.clamp_min(QUIETEST**2).log() - math.log(QUIETEST)).flatten(1, 2) / 4


class Polar(nn.Module):
    """Logarithms of magnitudes, and then phases, ``(B, C 2 bins, n)``, to real and imaginary parts (Vocos, section 3.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """The same shape, float32 whatever the autocast."""
        logarithms, phases = x.float().unflatten(1, (self.channels, 2, -1)).unbind(2)
        sizes = logarithms.clamp_max(math.log(LOUDEST)).exp()
        return torch.stack([sizes * phases.cos(), sizes * phases.sin()], 2).flatten(1, 3)


class VocosEncoder(StreamingSequential):
    """Sound ``(B, C, T)`` to features ``(B, outputs, ceil(T / (stride downsample)))``.

    Args:
        shape: Of the network.
        inputs: Channels of the sound.
        outputs: Width of the features.
    """

    def __init__(self, shape: VocosShape, inputs: int, outputs: int) -> None:
        ratio = shape.downsample
        super().__init__(
            Analysis(inputs, shape.window, shape.stride),
            LogMagnitudes(inputs),
            Conv1d(inputs * shape.bins, shape.width, 1),
            FrameNorm(shape.width),
            *shape.blocks(),
            FrameNorm(shape.width),
            Conv1d(shape.width, outputs, 2 * ratio if ratio > 1 else 1, ratio, causal=shape.causal),
        )


class VocosDecoder(SequentialDecoder):
    """Features ``(B, inputs, n)`` to sound ``(B, C, n stride downsample)``, unbounded.

    Args:
        shape: Of the network.
        inputs: Width of the features.
        outputs: Channels of the sound.
    """

    def __init__(self, shape: VocosShape, inputs: int, outputs: int) -> None:
        ratio = shape.downsample
        spread = [ConvTranspose1d(inputs, shape.width, 2 * ratio, ratio, causal=shape.causal)] if ratio > 1 else []
        super().__init__(
            *spread,
            shape.conv(shape.width if spread else inputs),
            FrameNorm(shape.width),
            *shape.blocks(),
            FrameNorm(shape.width),
            Conv1d(shape.width, outputs * 2 * shape.bins, 1),
            Polar(outputs),
            Synthesis(outputs, shape.window, shape.stride),
        )
