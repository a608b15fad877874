"""Regression: alike means the same numbers. It fixes alignment and low frequencies; on its own it prefers blur to a wrong guess."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from jielong.config import Part


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


class Regression(Part, family="loss", name="regression"):
    """Distance sample by sample.

    Attributes:
        kind: ``l1`` (VQGAN) or ``l2`` (LlamaGen).
        weight: Its share of the objective.
    """

    kind: Literal["l1", "l2"] = "l1"
    weight: NonNegativeFloat = 1.0

    def build(self) -> RegressionLoss:
        """The loss, ``loss(reconstruction, target) -> scalar``."""
        return RegressionLoss(self.kind, self.weight)


def same_shape(reconstruction: Tensor, target: Tensor) -> None:
    """Raise a ``ValueError`` unless both tensors have one shape."""
    if reconstruction.shape != target.shape:
        raise ValueError(f"reconstruction {tuple(reconstruction.shape)} and target {tuple(target.shape)} must have the same shape")
