"""How well a tokenizer gives back what it was given. All figures are of 8-bit pictures, averaged over pictures."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jielong.core.json import JSON
from jielong.evaluation.features import FeatureExtractor
from jielong.evaluation.provenance import Measurement, check_pictures, package_version, picture_hash
from jielong.losses.base import check_same_shape
from jielong.losses.perceptual import unit_distance
from jielong.media.images import to_bytes

PSNR_CAP = 100.0
"""Decibels given to a picture that came back without a single changed value (its PSNR is infinite)."""
SSIM_BATCH = 64
"""Pictures at a time: the window's convolution holds about 16 MB a picture of 64 x 64, in double precision."""


def psnr(reconstruction: Tensor, target: Tensor) -> Measurement:
    """Peak signal-to-noise ratio in decibels: the mean over pictures of ``10 log10(255^2 / MSE)``.

    The details also hold ``of_mean_mse``, the PSNR of the MSE averaged over all pictures, which some papers print: it is never larger.

    Args:
        reconstruction: ``(B, C, H, W)`` in [-1, 1].
        target: The same shape.

    Raises:
        ValueError: if the shapes differ or a batch is not pictures in [-1, 1].
    """
    ours, theirs = _eight_bits(reconstruction, target)
    mse = (ours - theirs).square().mean(dim=(1, 2, 3))
    floor = 255**2 / 10 ** (PSNR_CAP / 10)
    each = 10 * torch.log10(255**2 / mse.clamp_min(floor))
    aggregated = 10 * math.log10(255**2 / max(mse.mean().item(), floor))
    details = _protocol(target) | {"unit": "dB", "mean_over": "pictures", "of_mean_mse": aggregated, "cap_db": PSNR_CAP}
    return Measurement("psnr", each.mean().item(), len(each), details)


def ssim(reconstruction: Tensor, target: Tensor) -> Measurement:
    """Structural similarity (Wang et al., 2004; Gaussian window 11, sigma 1.5), at most 1, computed by torchmetrics.

    Arguments as :func:`psnr`.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    ours, theirs = _eight_bits(reconstruction, target)
    parts: list[Tensor] = []
    for pair in zip(ours.split(SSIM_BATCH), theirs.split(SSIM_BATCH), strict=True):
        part = structural_similarity_index_measure(*pair, data_range=255.0, reduction="none")
        if not isinstance(part, Tensor):
            raise TypeError("torchmetrics returned more than the similarity")
        parts.append(part)
    each = torch.cat(parts)
    details = _protocol(target) | {"window": "Gaussian 11, sigma 1.5", "library": f"torchmetrics {package_version('torchmetrics')}"}
    return Measurement("ssim", each.mean().item(), len(ours), details)


@torch.no_grad()
def perceptual_distance(reconstruction: Tensor, target: Tensor, extractor: FeatureExtractor | None = None, batch: int = 32) -> Measurement:
    """Distance in the stages of EfficientNet-lite2: the perceptual loss's formula through a network that no loss uses.

    Features are unit-normalised over channels at each position; the squared distance is averaged over positions and over the seven stages,
    so the figure lies between 0 and 4. Arguments as :func:`psnr`.
    """
    extractor = extractor or FeatureExtractor()
    _eight_bits(reconstruction, target)
    total = 0.0
    for ours, theirs in zip(reconstruction.split(batch), target.split(batch), strict=True):
        stages = [extractor.network.features(extractor.prepare(pictures)) for pictures in (ours, theirs)]
        distances = [unit_distance(x, y) for x, y in zip(*stages, strict=True)]
        total += torch.stack(distances).mean().item() * len(ours)
    details = _protocol(target) | {"features": extractor.provenance() | {"network": "EfficientNet-lite2, stages 1 to 7"}}
    return Measurement("perceptual", total / len(target), len(target), details)


def _eight_bits(reconstruction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both batches as 8-bit values in float64, after checking them."""
    check_same_shape(reconstruction, target)
    check_pictures(reconstruction, "the reconstructions")
    check_pictures(target, "the targets")
    return to_bytes(reconstruction).double(), to_bytes(target).double()


def _protocol(target: Tensor) -> JSON:
    return {"rounding": "8 bits, nearest", "size": list(target.shape[-2:]), "reference_sha256": picture_hash(target)}
