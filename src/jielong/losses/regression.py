"""Regression losses: absolute or squared error, and the logit-Laplace likelihood of DALL-E's tokenizer (arXiv 2102.12092, appendix A.3).

Errors fix alignment and low frequencies; alone they prefer blur. The likelihood is for tokenizers that predict a distribution of every
colour value: values are bounded, which the Laplace density behind ``l1`` is not.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from jielong.core.medium import ALONG_ROWS, Axes
from jielong.losses.base import LossContext, ReconstructionLoss, ReconstructionSettings, check_same_shape

MARGIN = 0.1
"""Distance of values from the ends of (0, 1), where the logit is infinite."""

LEAST_LOG_SCALE = -5.0
"""Floor of ``ln b``: half a step of 8-bit pixels at mid grey is 0.006 = exp(-5.1). Without it the likelihood of flat areas is unbounded."""


class RegressionLoss(ReconstructionLoss):
    """``weight`` times the mean absolute (``l1``) or squared (``l2``) difference, in float32."""

    def __init__(self, settings: Regression) -> None:
        super().__init__(settings.weight)
        self.kind = settings.kind

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Weighted scalar of two tensors of one shape."""
        check_same_shape(reconstruction, target)
        with torch.autocast(reconstruction.device.type, enabled=False):
            difference = reconstruction.float() - target.float()
            return self.weight * (difference.abs() if self.kind == "l1" else difference.square()).mean()


class Regression(ReconstructionSettings, family="loss", name="regression"):
    """Elementwise error, absolute or squared.

    Attributes:
        kind: Mean absolute error (``l1``, VQGAN) or mean square error (``l2``, LlamaGen).
    """

    reconstructs: ClassVar[bool] = True
    kind: Literal["l1", "l2"] = "l1"

    def build(self, context: LossContext) -> RegressionLoss:
        """The loss."""
        return RegressionLoss(self)


def to_unit(media: Tensor) -> Tensor:
    """Values in [-1, 1] to ``[MARGIN, 1 - MARGIN]``: ``phi(x) = (1 - 2 eps) (x + 1) / 2 + eps``."""
    return (1 - 2 * MARGIN) * (media + 1) / 2 + MARGIN


def from_unit(values: Tensor) -> Tensor:
    """The inverse of :func:`to_unit`."""
    return 2 * (values - MARGIN) / (1 - 2 * MARGIN) - 1


def logit_laplace_median(maps: Tensor) -> Tensor:
    """Median image ``phi^-1(sigmoid(mu))`` of the distribution, ``(B, 2 C, H, W) -> (B, C, H, W)``, in [-1.25, 1.25]."""
    location, _ = maps.chunk(2, dim=1)
    return from_unit(torch.sigmoid(location))


class LogitLaplaceLoss(ReconstructionLoss):
    r"""``weight`` times the mean negative log-likelihood of a value ``y = phi(x)``, in nats, in float32.

    The density on (0, 1) is ``f(y) = exp(-|logit y - mu| / b) / (2 b y (1 - y))``. The first half of the channels of ``maps`` is ``mu``;
    the second, ``r``, gives ``ln b = c + softplus(r - c)``, which is ``r`` but for a floor ``c = LEAST_LOG_SCALE``.
    """

    reads = "likelihood"

    def __init__(self, settings: LogitLaplace) -> None:
        super().__init__(settings.weight)

    def forward(self, maps: Tensor, target: Tensor) -> Tensor:
        """Weighted scalar of ``maps (B, 2 C, H, W)`` at images ``(B, C, H, W)`` in [-1, 1]. Raises ``ValueError`` for other shapes."""
        if maps.ndim != 4 or maps.shape[1] % 2:
            raise ValueError(
                f"a logit-Laplace likelihood needs two maps a channel, (batch, 2 channels, height, width), not {tuple(maps.shape)}"
            )
        location, raw = maps.chunk(2, dim=1)
        check_same_shape(location, target)
        with torch.autocast(maps.device.type, enabled=False):
            log_scale = LEAST_LOG_SCALE + F.softplus(raw.float() - LEAST_LOG_SCALE)
            value = to_unit(target.float())
            off = (torch.logit(value) - location.float()).abs() * torch.exp(-log_scale)
            # ln f = -off - ln b - ln 2 - ln(y (1 - y))
            return self.weight * (off + log_scale + (value * (1 - value)).log()).mean() + self.weight * math.log(2)


class LogitLaplace(ReconstructionSettings, family="loss", name="logit_laplace"):
    """Logit-Laplace likelihood of colour values (DALL-E, arXiv 2102.12092); it needs a tokenizer with ``likelihood: logit_laplace``."""

    axes: ClassVar[Axes | None] = ALONG_ROWS
    reconstructs: ClassVar[bool] = True

    def build(self, context: LossContext) -> LogitLaplaceLoss:
        """The loss, ``loss(maps, target) -> scalar``."""
        return LogitLaplaceLoss(self)
