"""The gradient difference loss (arXiv 1511.05440, equation 6): edges of a reconstruction are as steep as the target's."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from jielong.core.medium import ALONG_ROWS, Axes
from jielong.losses.base import LossContext, ReconstructionLoss, ReconstructionSettings, check_same_shape


class GradientDifferenceLoss(ReconstructionLoss):
    """``weight sum_d mean | |D_d y| - |D_d x| |^alpha``; ``D_d x`` are the differences of an image's neighbours along rows or columns."""

    def __init__(self, settings: GradientDifference) -> None:
        super().__init__(settings.weight)
        self.alpha = settings.alpha

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Weighted scalar of images ``(B, C, H, W)``, in float32."""
        check_same_shape(reconstruction, target)
        with torch.autocast(reconstruction.device.type, enabled=False):
            x, y = reconstruction.float(), target.float()
            terms = [(y.diff(dim=axis).abs() - x.diff(dim=axis).abs()).abs().pow(self.alpha).mean() for axis in (-2, -1)]
            return self.weight * torch.stack(terms).sum()


class GradientDifference(ReconstructionSettings, family="loss", name="gradient_difference"):
    """Settings: the exponent ``alpha``. It does not see brightness, so it needs a regression loss beside it."""

    axes: ClassVar[Axes | None] = ALONG_ROWS
    alpha: float = Field(default=1.0, ge=1)

    def build(self, context: LossContext) -> GradientDifferenceLoss:
        """The loss."""
        return GradientDifferenceLoss(self)
