"""The Bernoulli head: a grey level is the probability of white, learned by cross-entropy with soft targets.

Level ``v`` of ``V`` is ``z = v / (V - 1)`` in [0, 1], and the head predicts ``y``, the probability of white (video pixel networks on moving
digits, arXiv 1610.00527, section 5.1):

    H(z, y) = -(z ln y + (1 - z) ln(1 - y))

It is least at ``y = z`` (:mod:`jielong.evaluation.soft_targets` measures both), where it is the entropy ``H(z, z)`` and not 0.
Of two levels it is the negative log-likelihood, of more not.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import NO_CONTEXT, Head, HeadContext, HeadSettings, SampleOutput
from jielong.heads.softmax import vocabulary_of


class Bernoulli(HeadSettings, family="head", name="bernoulli"):
    """Settings of the Bernoulli head, for grey levels such as those of the tokenizer pixels.

    Attributes:
        draws: ``binary`` (black or white, with the predicted probability, so that what follows in the order sees one of several
            possibilities) or ``mean`` (the level nearest to the probability, without random numbers).
    """

    draws: Literal["binary", "mean"] = "binary"

    def build(self, width: int, layout: Layout, condition_width: int | None = None) -> BernoulliHead:
        """See :meth:`HeadSettings.build`."""
        return BernoulliHead(width, layout, self)


class BernoulliHead(Head):
    """A linear map to the logit of white, one a channel. Raises ``ValueError`` if the tokens are continuous.

    *Temperature* divides the logits of binary draws; at 0 the more probable of both is drawn. Guidance acts on the logits.
    """

    discrete = True
    guides_twice = True

    def __init__(self, width: int, layout: Layout, settings: Bernoulli = Bernoulli()) -> None:
        super().__init__()
        self.channels, self.vocabulary, self.draws = layout.channels, vocabulary_of("bernoulli", layout), settings.draws
        self.logits = nn.Linear(width, self.channels)
        # Zero weights: the untrained head predicts 1/2 everywhere, and its first loss is exactly ln 2.
        nn.init.zeros_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)

    def _shares(self, levels: Tensor, like: Tensor) -> Tensor:
        return levels.to(like.dtype) / (self.vocabulary - 1)

    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        """Cross-entropy with soft targets in nats, mean over the channels, ``(M,)``."""
        logits = self.logits(hidden)
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            return F.binary_cross_entropy_with_logits(logits, self._shares(targets, logits), reduction="none").mean(-1)

    def nats_a_value(self, loss: float) -> float | None:
        """The loss, of two levels."""
        return loss if self.vocabulary == 2 else None

    def log_prob(self, hidden: Tensor, values: Tensor) -> Tensor:
        """Log-probability in nats, summed over the channels, of two levels: ``(..., D)``, ``(..., C)`` to ``(...)``.

        Raises ``ValueError`` for more levels, of which the cross-entropy is not a likelihood.
        """
        if self.vocabulary != 2:
            raise ValueError(f"a bernoulli head has a likelihood of 2 levels, not of {self.vocabulary}: take the head softmax")
        return -self.loss(hidden, values) * self.channels

    def check_sampling(self, sampling: SamplingConfig) -> None:
        """See :meth:`Head.check_sampling`; it has two outcomes or none, so nothing to choose from by top-k or top-p."""
        super().check_sampling(sampling)
        if sampling.top_k or sampling.top_p < 1:
            raise ValueError("the BernoulliHead draws black or white, so top_k and top_p do not apply: leave them out")
        if self.draws == "mean" and sampling.temperature != 1:
            raise ValueError("head.bernoulli.draws: mean takes no random numbers and has no temperature: leave temperature at 1")

    def sample(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> SampleOutput:
        """Draw levels ``(B, n, C)``; of binary draws also their log-probability, summed over the channels, ``(B, n)``."""
        self.check_sampling(sampling)
        logits = self.logits(context.guided(hidden)).float()
        if self.draws == "mean":
            return SampleOutput((logits.sigmoid() * (self.vocabulary - 1)).round().long())
        if sampling.temperature:
            logits = logits / sampling.temperature
            white = rng.uniform(*logits.shape[1:]) < logits.sigmoid()
        else:
            white = logits > 0
        return SampleOutput(white.long() * (self.vocabulary - 1), F.logsigmoid(torch.where(white, logits, -logits)).sum(-1))
