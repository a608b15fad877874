"""Discriminators of sound: of complex spectra (EnCodec), of every p-th sample (HiFi-GAN) and of waveforms at several rates (SoundStream).

Each is a stack of convolutions with weight norm and returns logits and intermediate features. None normalises activations: statistics of a
batch must not distinguish real from generated sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

SLOPE = 0.2


@dataclass(frozen=True)
class DiscriminatorOutput:
    """Output of a discriminator."""

    logits: Tensor  # of any shape; positive means "real"
    features: list[Tensor]  # after each layer before the last


class Discriminator(nn.Module):
    """Layers of convolutions with a leaky ReLU after each but the last.

    Args:
        layers: The convolutions; weights are normalised here.
    """

    def __init__(self, layers: Sequence[nn.Conv1d | nn.Conv2d]) -> None:
        super().__init__()
        for layer in layers[:-1]:
            # Variance-preserving, so that initial logits differ and gradients do not vanish.
            nn.init.kaiming_normal_(layer.weight, SLOPE)
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)

    def prepare(self, sound: Tensor) -> Tensor:
        """Sound ``(B, C, T)`` as the first layer reads it."""
        return sound

    def forward(self, sound: Tensor) -> DiscriminatorOutput:
        """Logits and features of ``(B, C, T)``."""
        x, features = self.prepare(sound), []
        *hidden, last = self.layers
        for layer in hidden:
            x = F.leaky_relu(layer(x), SLOPE)
            features.append(x)
        return DiscriminatorOutput(last(x), features)


class SpectrumDiscriminator(Discriminator):
    """Discriminator of the complex STFT at one resolution (arXiv 2210.13438, section 3.4): real and imaginary parts are channels.

    3 x 9 convolutions over time and frequency; the three in the middle halve the frequencies and have dilations 1, 2 and 4 over time.

    Args:
        channels: Width of every layer; 32 as published.
        window: Samples of a window; the hop is a quarter of it.
    """

    def __init__(self, in_channels: int, channels: int, window: int) -> None:
        first = nn.Conv2d(2 * in_channels, channels, (3, 9), padding=(1, 4))
        wider = [nn.Conv2d(channels, channels, (3, 9), stride=(1, 2), dilation=(d, 1), padding=(d, 4)) for d in (1, 2, 4)]
        super().__init__([first, *wider, nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, 1, 3, padding=1)])
        self.window = window
        self.register_buffer("shape", torch.hann_window(window) / torch.hann_window(window).square().sum().sqrt(), persistent=False)

    def prepare(self, sound: Tensor) -> Tensor:
        """``(B, 2 C, frames, bins)``, zero-padded at both ends."""
        hop, shape = self.window // 4, self.get_buffer("shape")
        spectrum = torch.stft(sound.flatten(0, 1), self.window, hop, window=shape, pad_mode="constant", return_complex=True)
        return torch.view_as_real(spectrum).unflatten(0, sound.shape[:2]).permute(0, 1, 4, 3, 2).flatten(1, 2)


class PeriodDiscriminator(Discriminator):
    """Discriminator of every ``period``-th sample (HiFi-GAN, arXiv 2010.05646, section 2.3): ``(B, C, T)`` as ``(B, C, T / p, p)``.

    Kernels have one column, so the phases of the period are processed separately.

    Args:
        channels: Width of the first layer, multiplied by 4 in each layer, by 32 at most; 32 as published.
        period: ``p``.
    """

    def __init__(self, in_channels: int, channels: int, period: int) -> None:
        widths = [in_channels, channels, *(channels * min(4**n, 32) for n in (1, 2, 3))]
        strided = [nn.Conv2d(a, b, (5, 1), stride=(3, 1), padding=(2, 0)) for a, b in pairwise(widths)]
        top = widths[-1]
        super().__init__([*strided, nn.Conv2d(top, top, (5, 1), padding=(2, 0)), nn.Conv2d(top, 1, (3, 1), padding=(1, 0))])
        self.period = period

    def prepare(self, sound: Tensor) -> Tensor:
        """``(B, C, T / p, p)``, padded by reflection."""
        missing = -sound.shape[-1] % self.period
        return F.pad(sound, (0, missing), mode="reflect").unflatten(-1, (-1, self.period))


class WaveDiscriminator(Discriminator):
    """Discriminator of the waveform at ``1 / scale`` of its rate (SoundStream, arXiv 2107.03312, section III.E; MelGAN, 1910.06711).

    One convolution, four grouped ones of stride 4 that widen four times each, and two more.

    Args:
        channels: Width of the first layer, up to 64 times as much in later ones; 16 as published.
        scale: Average pooling before the first layer.
    """

    def __init__(self, in_channels: int, channels: int, scale: int) -> None:
        widths = [channels * min(4**n, 64) for n in range(5)]
        # Groups of four channels.
        grouped = [nn.Conv1d(a, b, 41, stride=4, padding=20, groups=max(1, a // 4)) for a, b in pairwise(widths)]
        top = widths[-1]
        super().__init__(
            [nn.Conv1d(in_channels, channels, 15, padding=7), *grouped, nn.Conv1d(top, top, 5, padding=2), nn.Conv1d(top, 1, 3, padding=1)]
        )
        self.scale = scale

    def prepare(self, sound: Tensor) -> Tensor:
        """``(B, C, T / scale)``."""
        return sound if self.scale == 1 else F.avg_pool1d(sound, 2 * self.scale, self.scale, self.scale // 2, count_include_pad=False)
