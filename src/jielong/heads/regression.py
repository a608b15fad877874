"""Regression: the token is said outright, and the squared error judges it. The baseline that fails, kept to show that and why.

The best answer to the squared error is the mean of all tokens that could stand there. Where one of two could, that is neither: between
two dogs a blur (MAR, arXiv 2406.11838, section 1, asks for a *distribution* of continuous tokens for this reason).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import NO_CONTEXT, Head, HeadContext, HeadSettings, SampleOutput, SamplingConfig
from jielong.heads.continuous import check_continuous, widened


class Regression(HeadSettings, family="head", name="regression"):
    """Predicts the token by least squares: a baseline that answers with averages. It has no settings."""

    def build(self, width: int, layout: Layout) -> RegressionHead:
        """See :meth:`HeadSettings.build`."""
        return RegressionHead(width, layout)


class RegressionHead(Head):
    """A linear map to the token. It has no temperature: every draw is the prediction. *Guidance* combines predictions.

    Args:
        width: Width ``D`` of the hidden vectors.
        layout: The tokens to predict.
    """

    discrete = False

    def __init__(self, width: int, layout: Layout) -> None:
        super().__init__()
        check_continuous("regression", layout)
        self.token = nn.Linear(width, layout.channels)
        # Zero weights: the untrained head says the mean of tokens of zero mean, and its first loss is their variance.
        nn.init.zeros_(self.token.weight)
        nn.init.zeros_(self.token.bias)

    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        """Squared error, mean over the channels, ``(M,)``."""
        said = self.token(hidden)
        with torch.autocast(said.device.type, enabled=False):
            return (widened(said) - widened(targets)).square().mean(-1)

    def check_sampling(self, sampling: SamplingConfig) -> None:
        """See :meth:`Head.check_sampling`; nothing is drawn at random, so there is no temperature.

        Raises:
            ValueError: if any is asked for.
        """
        super().check_sampling(sampling)
        if sampling.temperature != 1:
            raise ValueError("the RegressionHead draws nothing at random, so it has no temperature: leave it at 1")

    def sample(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> SampleOutput:
        """The prediction itself, ``(B, n, C)``; see :meth:`Head.sample`.

        Raises:
            ValueError: if temperature, top-k or top-p is asked for.
        """
        self.check_sampling(sampling)
        said = widened(self.token(hidden))
        if (null := context.unconditional) is not None:
            said = torch.lerp(widened(self.token(null)), said, context.guidance)
        return SampleOutput(said)
