"""Codecs on spectra: STFT, ConvNeXt blocks at the frame rate, inverse STFT (Vocos, arXiv 2306.00814; APCodec, 2402.10533).

The transforms are convolutions with fixed weights, so they can be streamed as any other layer. No learned layer runs at the sample rate,
where waveform codecs spend most of their time.
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
"""Floor of the encoder's magnitudes; white noise at full scale has about 1."""
LOUDEST = 100.0
"""Largest magnitude of the decoder (Vocos, section 3.3)."""


@dataclass(frozen=True)
class VocosShape:
    """Sizes shared by encoder and decoder."""

    window: int  # samples of a window
    stride: int  # samples between windows
    width: int  # channels of the blocks
    hidden: int  # channels inside them
    layers: int  # blocks of each half
    kernel: int  # frames of a block's convolution
    causal: bool  # whether the blocks are causal
    downsample: int  # frames of a token

    @property
    def bins(self) -> int:
        """Frequencies of a spectrum."""
        return self.window // 2 + 1

    def conv(self, inputs: int, groups: int = 1) -> Conv1d:
        """A convolution over frames, to the width of the blocks."""
        return Conv1d(inputs, self.width, self.kernel, groups=groups, causal=self.causal)

    def blocks(self) -> list[nn.Module]:
        """ConvNeXt blocks (arXiv 2201.03545)."""
        blocks: list[nn.Module] = []
        for _ in range(self.layers):
            branch = StreamingSequential(self.conv(self.width, groups=self.width), FeedForward(self.width, self.hidden, 1 / self.layers))
            blocks.append(Residual(branch, nn.Identity()))
        return blocks


class FeedForward(nn.Module):
    """Layer norm, MLP and LayerScale of every frame: ``(B, width, n)`` to the same shape."""

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
    """STFT: ``(B, C, T)`` to ``(B, C 2 bins, ceil(T / stride))``, for each channel real parts, then imaginary parts.

    Hann windows, scaled so that white noise of variance 1 has magnitudes of about 1. Frame ``i`` is centred on the samples from
    ``i stride`` to ``(i + 1) stride``.
    """

    def __init__(self, channels: int, window: int, stride: int) -> None:
        super().__init__(channels, channels * 2 * (window // 2 + 1), window, stride, groups=channels, bias=False, causal=False)
        _fix(self, _waves(window) / math.sqrt(3 * window / 8), channels)

    def forward(self, x: Tensor) -> Tensor:
        """The spectra, always in float32; of a chunk, those that are determined by now."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


class Synthesis(ConvTranspose1d):
    """The inverse of :class:`Analysis`, except for half a window at either end, where fewer windows overlap."""

    def __init__(self, channels: int, window: int, stride: int) -> None:
        super().__init__(channels * 2 * (window // 2 + 1), channels, window, stride, groups=channels, bias=False, causal=False)
        # The inverse counts every bin but the first and the last twice; the mean of squared Hann windows is 3/8.
        twice = torch.full((window // 2 + 1, 1), 2.0)
        twice[0] = twice[-1] = 1.0
        scale = math.sqrt(3 * window / 8) / window * (8 / 3) * stride / window
        _fix(self, _waves(window) * twice.repeat(2, 1) * scale, channels)

    def forward(self, x: Tensor) -> Tensor:
        """The sound, always in float32; of a chunk, the samples that are determined by now."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


def _waves(window: int) -> Tensor:
    """The windowed Fourier basis ``(2 bins, window)``: cosines, then negated sines."""
    time = torch.arange(window, dtype=torch.float64)
    angles = 2 * math.pi / window * (torch.arange(window // 2 + 1, dtype=torch.float64)[:, None] * time % window)
    return (torch.cat([angles.cos(), -angles.sin()]) * torch.hann_window(window, dtype=torch.float64)).float()


def _fix(layer: Conv1d | ConvTranspose1d, weight: Tensor, channels: int) -> None:
    """Fix the weight of a layer to ``(outputs, taps)`` for each channel; it is neither learned nor stored."""
    del layer.weight
    layer.register_buffer("weight", weight.repeat(channels, 1)[:, None], persistent=False)


class LogMagnitudes(nn.Module):
    """Log-magnitudes of spectra ``(B, C 2 bins, n)``, scaled to about 1: ``(B, C bins, n)``.

    The phase of a steady sound changes from frame to frame, so from real and imaginary parts an encoder would have to learn squares first.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C bins, n)``."""
        power = x.unflatten(1, (self.channels, 2, -1)).square().sum(2)
        return (power.clamp_min(QUIETEST**2).log() - math.log(QUIETEST)).flatten(1, 2) / 4


class Polar(nn.Module):
    """Log-magnitudes, then phases, ``(B, C 2 bins, n)``, to real and imaginary parts (Vocos, section 3.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """The same shape, always in float32."""
        logarithms, phases = x.float().unflatten(1, (self.channels, 2, -1)).unbind(2)
        sizes = logarithms.clamp_max(math.log(LOUDEST)).exp()
        return torch.stack([sizes * phases.cos(), sizes * phases.sin()], 2).flatten(1, 3)


class VocosEncoder(StreamingSequential):
    """Sound ``(B, C, T)`` to features ``(B, outputs, ceil(T / (stride downsample)))``."""

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
    """Features ``(B, inputs, n)`` to sound ``(B, C, n stride downsample)``, unbounded."""

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
