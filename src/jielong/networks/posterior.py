"""The diagonal Gaussian posterior of an encoder (VAE, arXiv 1312.6114)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST, MOST = -30.0, 20.0
"""Bounds of a log-variance, as published, so that its exponential does not overflow."""


@dataclass(frozen=True)
class DiagonalGaussian:
    """``N(mean, exp(log_variance))``, elementwise. ``mean``: ``(..., D)``, float32; ``log_variance``: ``(..., D)``, float32."""

    mean: Tensor
    log_variance: Tensor

    @staticmethod
    def of(moments: Tensor) -> DiagonalGaussian:
        """From ``(..., 2 D)``: means, then log-variances, which are clamped; in float32."""
        with torch.autocast(moments.device.type, enabled=False):
            mean, log_variance = moments.float().chunk(2, dim=-1)
            return DiagonalGaussian(mean, log_variance.clamp(LEAST, MOST))

    def kl(self) -> Tensor:
        """KL divergence from ``N(0, 1)``, ``(mean^2 + exp(lv) - 1 - lv) / 2`` nats, elementwise, ``(..., D)`` (1312.6114, appendix B)."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance)

    def std(self) -> Tensor:
        """Standard deviations, ``(..., D)``."""
        return torch.exp(0.5 * self.log_variance)

    def sample(self, normal: Tensor) -> Tensor:
        """The reparametrised sample for standard normal noise ``(..., D)``."""
        return self.mean + self.std() * normal

    def standardized(self, shift: Tensor, scale: Tensor) -> DiagonalGaussian:
        """The distribution of ``(x - shift) * scale``; ``scale`` is positive."""
        return DiagonalGaussian((self.mean - shift) * scale, self.log_variance + 2 * scale.log())
