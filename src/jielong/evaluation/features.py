"""Image features for evaluation: a frozen EfficientNet-lite2, pooled. Losses use lite0, so that no metric is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.core.json import JSON
from jielong.evaluation.provenance import check_pictures, package_version, picture_hash
from jielong.media.images import to_bytes, to_float
from jielong.networks.efficientnet import SOURCES, EfficientNetLite

SIZE = 128
"""Input size in pixels. Lite2 was trained at 260; 128 keeps the detail of a 64-pixel image in a quarter of the time."""


@dataclass(frozen=True)
class FeatureSet:
    """Features of images.

    Attributes:
        values: ``(N, 1280)`` float32 on the CPU.
        pictures: SHA-256 of the images in 8 bits.
        details: Provenance of the features.
    """

    values: Tensor
    pictures: str
    details: JSON

    def __len__(self) -> int:
        return len(self.values)


class FeatureExtractor(nn.Module):
    """Features of images: rounding to 8 bits, resizing to 128 x 128, EfficientNet-lite2, average pooling.

    Rounding comes first since saved images have 8 bits, and features of rounded and unrounded images differ. Resizing is bicubic with
    antialiasing, corners not aligned, clamped to [-1, 1] afterwards (bicubic overshoots); other aspects are squeezed to the square, real
    and generated ones in the same way, as is usual for Frechet distances.

    Raises:
        jielong.networks.efficientnet.WeightsError: if the weights are not installed.
    """

    num_features = EfficientNetLite.num_features

    def __init__(self) -> None:
        super().__init__()
        self.network = EfficientNetLite("lite2")

    def prepare(self, pictures: Tensor) -> Tensor:
        """Network inputs ``(B, C, 128, 128)`` of images ``(B, C, H, W)`` in [-1, 1]."""
        rounded = to_float(to_bytes(pictures)).to(pictures.device)
        if rounded.shape[-2:] == (SIZE, SIZE):
            return rounded
        return F.interpolate(rounded, size=(SIZE, SIZE), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """Features ``(B, 1280)`` of images ``(B, 1 or 3, H, W)`` in [-1, 1], in float32."""
        with torch.autocast(pictures.device.type, enabled=False):
            return self.network(self.prepare(pictures)).pooled

    def extract(self, pictures: Tensor, batch: int = 32) -> FeatureSet:
        """Features of any number of images, in batches, with provenance.

        Raises:
            ValueError: if they are not images in [-1, 1].
        """
        check_pictures(pictures)
        values = torch.cat([self(part).cpu() for part in pictures.split(batch)])
        return FeatureSet(values, picture_hash(pictures), self.provenance())

    def provenance(self) -> JSON:
        """Network, weights and preprocessing."""
        source = SOURCES["lite2"]
        return {
            "network": "EfficientNet-lite2, pooled, 1280 features",
            "weights": f"{source.package} {package_version(source.package)}",
            "weights_sha256": source.sha256,
            "rounding": "8 bits, nearest",
            "resize": f"{SIZE}x{SIZE}, bicubic, antialiased, clamped",
        }
