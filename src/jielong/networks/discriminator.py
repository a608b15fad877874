"""PatchGAN: a convolutional discriminator of patches of pictures or clips (Isola et al., arXiv 1611.07004)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

Norm = Literal["group", "batch", "none"]


class PatchDiscriminator(nn.Module):
    """4x4 convolutions, ``layers`` of them with stride 2, to a map of logits, one per patch.

    The published networks use batch norm, whose statistics are noisy for small batches, differ between processes, and differ between real
    and reconstructed batches, which reveals the label. Group norm, the default, has none of these problems, but a patch then depends on the
    mean and variance of the whole picture.

    Args:
        channels: Width after the first convolution; doubled in each layer, up to eight times.
        layers: Convolutions of stride 2. Receptive field: 16, 34, 70, 142 pixels for 1 to 4 layers.
        norm: ``group`` (see above), ``batch`` (as published) or ``none``.
        axes: 2 for pictures; 3 for clips, whose convolutions are 4x4x4 and treat frames as rows and columns.
    """

    def __init__(self, in_channels: int = 3, channels: int = 64, layers: int = 3, norm: Norm = "group", axes: Literal[2, 3] = 2) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"a PatchGAN needs at least one layer, not {layers}")
        widths = [channels * min(2**n, 8) for n in range(layers + 1)]
        convolution = nn.Conv2d if axes == 2 else nn.Conv3d
        self.axes = axes
        self.first = convolution(in_channels, widths[0], 4, stride=2, padding=1)
        # The layer before the logits has stride 1: a larger receptive field at the same resolution.
        self.blocks = nn.ModuleList(
            nn.Sequential(
                convolution(before, after, 4, stride=2 if n < layers else 1, padding=1, bias=norm == "none"),
                normalisation(norm, after, axes),
            )
            for n, (before, after) in enumerate(pairwise(widths), start=1)
        )
        self.logits = convolution(widths[-1], 1, 4, stride=1, padding=1)
        self.receptive_field = 9 * 2**layers - 2
        self._smallest = 3 * 2**layers
        self.apply(initialise)

    def check_size(self, size: Sequence[int]) -> None:
        """Raise ``ValueError`` if pictures of a height and width, or clips of frames, height and width, are too small for a logit."""
        if min(size) < self._smallest:
            wanted = (
                f"pictures of at least {self._smallest}" if self.axes == 2 else f"clips of at least {self._smallest} frames and as many"
            )
            raise ValueError(f"a PatchGAN of {len(self.blocks)} layers needs {wanted} pixels a side, not {tuple(size)}; use fewer layers")

    def forward(self, images: Tensor) -> Tensor:
        """Logits, ``(B, C, H, W) -> (B, 1, h, w)``, or with a time axis; positive means "real". Raises as :meth:`check_size`."""
        self.check_size(images.shape[2:])
        x = F.leaky_relu(self.first(images), 0.2)
        for block in self.blocks:
            x = F.leaky_relu(block(x), 0.2)
        return self.logits(x)


def normalisation(norm: Norm, channels: int, axes: Literal[2, 3] = 2) -> nn.Module:
    """The norm of feature maps ``(B, channels, H, W)``, or with a time axis."""
    if norm == "batch":
        return nn.BatchNorm2d(channels) if axes == 2 else nn.BatchNorm3d(channels)
    if norm == "group":
        return nn.GroupNorm(max(1, min(32, channels // 4)), channels)
    return nn.Identity()


def initialise(module: nn.Module) -> None:
    """DCGAN's: convolutions N(0, 0.02), norms N(1, 0.02), biases zero."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d | nn.GroupNorm):
        nn.init.normal_(module.weight, 1.0, 0.02)
    bias = getattr(module, "bias", None)
    if isinstance(bias, nn.Parameter):
        nn.init.zeros_(bias)
