"""Fréchet distance of two sets of pictures in EfficientNet-lite2 features.

The formula is the FID's (Heusel et al., arXiv 1706.08500), the features are not Inception's: values compare only with values of this
same protocol, and never with a published FID.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from jielong.evaluation.features import FeatureExtractor, FeatureSet
from jielong.evaluation.provenance import Measurement, package_version


class SmallSampleWarning(UserWarning):
    """There are too few pictures for what is measured."""


class _Given(nn.Module):
    """Stands where torchmetrics expects a network: the features are already there."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two sets of features, in float64.

    ``|mean_x - mean_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2))`` with unbiased covariances, computed by torchmetrics.

    Args:
        x: ``(N, D)``.
        y: ``(M, D)``.

    Raises:
        ValueError: if a set has fewer than two rows, or the widths differ.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"a Fréchet distance needs two sets (2 or more, features), not {tuple(x.shape)} and {tuple(y.shape)}")
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Given(x.shape[1]))
    metric.update(y.double(), real=True)
    metric.update(x.double(), real=False)
    # Rounding of the eigenvalues can leave a tiny negative number where the distance is zero.
    return max(0.0, metric.compute().item())


def frechet(generated: Tensor | FeatureSet, reference: Tensor | FeatureSet, extractor: FeatureExtractor | None = None) -> Measurement:
    """Fréchet distance of generated pictures to reference pictures, named ``frechet``; its provenance says in which features.

    With fewer pictures than features (1280) a covariance is singular and the value is biased upwards: it is still fit to
    compare models at equal numbers of pictures, and it says so.

    Args:
        generated: Pictures ``(N, C, H, W)`` in [-1, 1], or their features.
        reference: Pictures ``(M, C, H, W)`` in [-1, 1], or their features.
        extractor: The network; made if absent.

    Raises:
        ValueError: if there are fewer than two pictures on a side, or features were made in different ways.
    """
    ours, theirs = (_features(pictures, extractor) for pictures in (generated, reference))
    if ours.details != theirs.details:
        raise ValueError("the two sets of features were made in different ways; extract both with the same extractor")
    few = min(len(ours), len(theirs)) <= ours.values.shape[1]  # singular values are as exact there, and ten times as fast
    value = (distance_of_few if few else frechet_distance)(ours.values, theirs.values)
    details = {
        "formula": "squared Fréchet distance of fitted Gaussians, float64, unbiased covariances",
        "library": "singular values" if few else f"torchmetrics {package_version('torchmetrics')}",
        "features": ours.details,
        "n_generated": len(ours),
        "n_reference": len(theirs),
        "generated_sha256": ours.pictures,
        "reference_sha256": theirs.pictures,
    }
    fewest, width = min(len(ours), len(theirs)), ours.values.shape[1]
    if few:
        details["warning"] = f"small sample: {fewest} pictures for {width} features; compare at equal numbers only"
        warnings.warn(str(details["warning"]), SmallSampleWarning, stacklevel=2)
    return Measurement("frechet", value, len(ours), details)


def distance_of_few(x: Tensor, y: Tensor) -> float:
    """:func:`frechet_distance` by another way, fast where there are fewer rows than features.

    With centred rows ``A, B`` over ``sqrt(N - 1)`` and ``sqrt(M - 1)`` the covariances are ``A^T A`` and ``B^T B``, and the trace of
    ``(C_x C_y)^(1/2)`` is the sum of the singular values of ``A B^T``, a matrix of ``(N, M)``.

    Args:
        x: ``(N, D)``.
        y: ``(M, D)``.
    """
    x, y = x.double(), y.double()
    a, b = ((rows - rows.mean(0)) / math.sqrt(len(rows) - 1) for rows in (x, y))
    apart = (x.mean(0) - y.mean(0)).square().sum()
    return float(apart + a.square().sum() + b.square().sum() - 2 * torch.linalg.svdvals(a @ b.T).sum())


def _features(pictures: Tensor | FeatureSet, extractor: FeatureExtractor | None) -> FeatureSet:
    return pictures if isinstance(pictures, FeatureSet) else (extractor or FeatureExtractor()).extract(pictures)
