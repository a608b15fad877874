"""Regression: alike means the same numbers. It fixes alignment and low frequencies; on its own it prefers blur to a wrong guess.

Beside distances there is a likelihood, for tokenizers that predict how sure they are of each number: the logit-Laplace distribution of
DALL-E's tokenizer (arXiv 2102.12092, appendix A.3). Colour values lie in a bounded range, and a Laplace density (the likelihood behind
``l1``) does not; put through a sigmoid it does.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.core.medium import ALONG_ROWS, Axes
from jielong.losses.base import LossSettings

MARGIN = 0.1
"""How far pictures are kept from the ends of (0, 1), where the logit is infinite."""

LEAST_LOG_SCALE = -5.0
"""Floor of ``ln b``: half a step of 8-bit pictures at mid grey is 0.006 = exp(-5.1). Without it flat areas, predicted exactly, would be
worth an unbounded likelihood."""


class RegressionLoss(nn.Module):
    """``weight`` times the mean absolute (``l1``) or squared (``l2``) difference over all numbers, in float32."""

    def __init__(self, kind: Literal["l1", "l2"] = "l1", weight: float = 1.0) -> None:
        super().__init__()
        self.kind, self.weight = kind, weight

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Weighted scalar distance of two tensors of one shape.

        Raises:
            ValueError: if the shapes differ (a silent broadcast would train on nonsense).
        """
        same_shape(reconstruction, target)
        with torch.autocast(reconstruction.device.type, enabled=False):
            difference = reconstruction.float() - target.float()
            return self.weight * (difference.abs() if self.kind == "l1" else difference.square()).mean()


class Regression(LossSettings, family="loss", name="regression"):
    """Distance sample by sample.

    Attributes:
        kind: ``l1`` (VQGAN) or ``l2`` (LlamaGen).
        weight: Its share of the objective.
    """

    reconstructs: ClassVar[bool] = True
    kind: Literal["l1", "l2"] = "l1"
    weight: NonNegativeFloat = 1.0

    def build(self) -> RegressionLoss:
        """The loss, ``loss(reconstruction, target) -> scalar``."""
        return RegressionLoss(self.kind, self.weight)


def same_shape(reconstruction: Tensor, target: Tensor) -> None:
    """Raise a ``ValueError`` unless both tensors have one shape."""
    if reconstruction.shape != target.shape:
        raise ValueError(f"reconstruction {tuple(reconstruction.shape)} and target {tuple(target.shape)} must have the same shape")


def to_unit(media: Tensor) -> Tensor:
    """Colour values in [-1, 1] to ``[MARGIN, 1 - MARGIN]``: ``phi(x) = (1 - 2 eps) (x + 1) / 2 + eps``."""
    return (1 - 2 * MARGIN) * (media + 1) / 2 + MARGIN


def from_unit(values: Tensor) -> Tensor:
    """The inverse of :func:`to_unit`."""
    return 2 * (values - MARGIN) / (1 - 2 * MARGIN) - 1


def logit_laplace_median(maps: Tensor) -> Tensor:
    """The picture in the middle of the distribution, ``phi^-1(sigmoid(mu))``, ``(B, 2 C, H, W) -> (B, C, H, W)``.

    What lies beyond ``[-1, 1]`` is left there, up to a quarter; ``maps`` as in :class:`LogitLaplaceLoss`.
    """
    location, _ = maps.chunk(2, dim=1)
    return from_unit(torch.sigmoid(location))


class LogitLaplaceLoss(nn.Module):
    r"""``weight`` times the mean negative log-likelihood of a value ``y = phi(x)``, in nats a value, in float32.

    The density on (0, 1) is ``f(y) = exp(-|logit y - mu| / b) / (2 b y (1 - y))``. The first half of the channels of ``maps`` is ``mu``;
    the second, ``r``, gives ``ln b = c + softplus(r - c)``, which is ``r`` but for a floor ``c = LEAST_LOG_SCALE``.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, maps: Tensor, target: Tensor) -> Tensor:
        """Weighted scalar surprise at a picture.

        Args:
            maps: ``(B, 2 C, H, W)``: what the decoder predicts.
            target: ``(B, C, H, W)`` in [-1, 1].

        Raises:
            ValueError: if there are not two maps a channel.
        """
        if maps.ndim != 4 or maps.shape[1] % 2:
            raise ValueError(
                f"a logit-Laplace likelihood needs two maps a channel, (batch, 2 channels, height, width), not {tuple(maps.shape)}"
            )
        location, raw = maps.chunk(2, dim=1)
        same_shape(location, target)
        with torch.autocast(maps.device.type, enabled=False):
            log_scale = LEAST_LOG_SCALE + F.softplus(raw.float() - LEAST_LOG_SCALE)
            value = to_unit(target.float())
            off = (torch.logit(value) - location.float()).abs() * torch.exp(-log_scale)
            # ln f = -off - ln b - ln 2 - ln(y (1 - y))
            return self.weight * (off + log_scale + (value * (1 - value)).log()).mean() + self.weight * math.log(2)


class LogitLaplace(LossSettings, family="loss", name="logit_laplace"):
    """Surprise under a distribution that the tokenizer predicts for every colour value; it needs ``likelihood: logit_laplace`` there.

    Attributes:
        weight: Its share of the objective.
    """

    axes: ClassVar[Axes | None] = ALONG_ROWS
    reconstructs: ClassVar[bool] = True
    weight: NonNegativeFloat = 1.0

    def build(self) -> LogitLaplaceLoss:
        """The loss, ``loss(maps, target) -> scalar``."""
        return LogitLaplaceLoss(self.weight)
