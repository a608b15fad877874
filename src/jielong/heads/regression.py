"""Regression: predicts the token by least squares. A baseline that shows why continuous tokens need a distribution.

The minimiser of the squared error is the mean of all possible tokens: between two modes it predicts neither, which looks blurred (MAR,
arXiv 2406.11838, section 1).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import NO_CONTEXT, Head, HeadContext, HeadSettings, SampleOutput
from jielong.heads.continuous import check_continuous, upcast


class Regression(HeadSettings, family="head", name="regression"):
    """Predicts the token by least squares: a baseline that answers with averages. It has no settings."""

    gives_confidence: ClassVar[bool] = False

    def build(self, width: int, layout: Layout, condition_width: int | None = None) -> RegressionHead:
        """See :meth:`HeadSettings.build`."""
        return RegressionHead(width, layout)


class RegressionHead(Head):
    """A linear map to the token, deterministic and so without temperature. *Guidance* combines predictions."""

    discrete = False

    def __init__(self, width: int, layout: Layout) -> None:
        super().__init__()
        check_continuous("regression", layout)
        self.token = nn.Linear(width, layout.channels)
        # Zero weights: the first loss is the tokens' variance.
        nn.init.zeros_(self.token.weight)
        nn.init.zeros_(self.token.bias)

    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        """Squared error, mean over the channels, ``(M,)``."""
        prediction = self.token(hidden)
        with torch.autocast(prediction.device.type, enabled=False):
            return (upcast(prediction) - upcast(targets)).square().mean(-1)

    def check_sampling(self, sampling: SamplingConfig) -> None:
        """See :meth:`Head.check_sampling`; a deterministic head has no temperature."""
        super().check_sampling(sampling)
        if sampling.temperature != 1:
            raise ValueError("the RegressionHead draws nothing at random and has no temperature: leave temperature at 1")

    def sample(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> SampleOutput:
        """The prediction, ``(B, n, C)``."""
        self.check_sampling(sampling)
        prediction = upcast(self.token(hidden))
        if (null := context.unconditional) is not None:
            prediction = torch.lerp(upcast(self.token(null)), prediction, context.guidance)
        return SampleOutput(prediction)
