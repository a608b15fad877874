"""Kernel distance of two sets of pictures in EfficientNet-lite2 features: unbiased, and so fit for a hundred pictures.

The formula is the KID's (Binkowski et al., arXiv 1801.01401), the features are not Inception's: values compare only with values of this
same protocol.
"""

from __future__ import annotations

import torch
from torch import Tensor


def polynomial_kernel(x: Tensor, y: Tensor) -> Tensor:
    """``k(x, y) = (x . y / D + 1)^3`` of each pair of rows, ``(N, D)`` and ``(M, D)`` to ``(N, M)`` float64."""
    return (x.double() @ y.double().T / x.shape[1] + 1) ** 3


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of features ``(N, D)`` and ``(M, D)``; negative values are chance around zero.

    ``mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)``

    Raises:
        ValueError: if a set has fewer than two rows, or the widths differ.
    """
    _check(x, y)
    return _alone(polynomial_kernel(x, x)) + _alone(polynomial_kernel(y, y)) - 2 * polynomial_kernel(x, y).mean().item()


def contributions(x: Tensor, y: Tensor) -> Tensor:
    """What each row of ``x`` adds to the distance from ``y``, ``(N,)``, for differences between models and their uncertainty.

    The Hoeffding projection of :func:`kernel_distance` on ``x``, with ``y`` taken as given and its own term left out: the mean is exactly
    the rest of the distance, and the spread over items is, to first order, that of the distance. Two models drawn on the same conditions
    compare by the difference of their contributions, item by item; the term of ``y`` cancels.
    """
    _check(x, y)
    kernel = polynomial_kernel(x, x)
    within = (kernel.sum(1) - kernel.diagonal()) / (len(x) - 1)
    return 2 * within - within.mean() - 2 * polynomial_kernel(x, y).mean(1)


def _alone(kernel: Tensor) -> float:
    n = len(kernel)
    return ((kernel.sum() - kernel.trace()) / (n * (n - 1))).item()


def _check(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"a kernel distance needs two sets (2 or more, features), not {tuple(x.shape)} and {tuple(y.shape)}")
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise ValueError("a kernel distance needs features that are finite")
