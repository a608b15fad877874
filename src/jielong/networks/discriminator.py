"""PatchGAN: a convolutional discriminator of patches (Isola et al., arXiv 1611.07004)."""

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
    """

    def __init__(self, in_channels: int = 3, channels: int = 64, layers: int = 3, norm: Norm = "group") -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"a PatchGAN needs at least one layer, not {layers}")
        widths = [channels * min(2**n, 8) for n in range(layers + 1)]
        self.first = nn.Conv2d(in_channels, widths[0], 4, stride=2, padding=1)
        # The layer before the logits has stride 1: a larger receptive field at the same resolution.
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 4, stride=2 if n < layers else 1, padding=1, bias=norm == "none"), normalisation(norm, after)
            )
            for n, (before, after) in enumerate(pairwise(widths), start=1)
        )
        self.logits = nn.Conv2d(widths[-1], 1, 4, stride=1, padding=1)
        self.receptive_field = 9 * 2**layers - 2
        self._smallest = 3 * 2**layers
        self.apply(initialise)

    def check_size(self, size: Sequence[int]) -> None:
        """Raise ``ValueError`` if pictures of a height and width are too small for a logit."""
        if min(size) < self._smallest:
            raise ValueError(
                f"a PatchGAN of {len(self.blocks)} layers needs pictures of at least {self._smallest} pixels a side, "
                f"not {tuple(size)}; use fewer layers"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Logits, ``(B, C, H, W) -> (B, 1, h, w)``; positive means "real". Raises ``ValueError`` if the picture is too small."""
        self.check_size(images.shape[-2:])
        x = F.leaky_relu(self.first(images), 0.2)
        for block in self.blocks:
            x = F.leaky_relu(block(x), 0.2)
        return self.logits(x)


def normalisation(norm: Norm, channels: int) -> nn.Module:
    """The norm of feature maps ``(B, channels, H, W)``."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(max(1, min(32, channels // 4)), channels)
    return nn.Identity()


def initialise(module: nn.Module) -> None:
    """DCGAN's: convolutions N(0, 0.02), norms N(1, 0.02), biases zero."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
        nn.init.normal_(module.weight, 1.0, 0.02)
    bias = getattr(module, "bias", None)
    if isinstance(bias, nn.Parameter):
        nn.init.zeros_(bias)
