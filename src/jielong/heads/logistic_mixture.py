"""The discretised mixture of logistics over the ordered levels of a pixel's channels (PixelCNN++, arXiv 1701.05517).

Level ``v`` of ``V`` is at ``x = 2 v / (V - 1) - 1`` with a bin of half-width ``d = 1 / (V - 1)``; the first and the last bin extend to
infinity. With the logistic function ``sigma``, one component gives channel ``c`` the probability

    P(x_c) = sigma((x_c + d - m_c) / s_c) - sigma((x_c - d - m_c) / s_c)
    m_c = mu_c + sum_{e < c} tanh(k_ce) x_e                                              (section 2.2: red, green given red, ...)

and a pixel has ``sum_i pi_i prod_c P_i(x_c)``: channels share the component.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import NO_CONTEXT, Head, HeadContext, HeadSettings, SampleOutput
from jielong.heads.softmax import sample_codes, vocabulary_of

SCALE = 7.0
"""Log-scales are clamped to [-SCALE, SCALE]; PixelCNN++ has the lower bound."""


def log_bins(x: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """Log-probability of the bins at ``x`` in [-1, 1] under logistics, broadcast; over all levels the bins sum to 1.

    ``log(sigma(a) - sigma(b)) = log sigma(a) + log sigma(-b) + log(1 - exp(b - a))`` avoids cancellation; gradients are finite everywhere.
    """
    half = 1.0 / (levels - 1)
    inverse = torch.exp(-log_scale.clamp(-SCALE, SCALE))
    offset = x - mean
    below = F.logsigmoid((offset + half) * inverse)  # log P(not above the bin)
    above = F.logsigmoid((half - offset) * inverse)  # log P(not below the bin)
    both = torch.log(-torch.expm1(-2 * half * inverse))
    first, last = x < half - 1, x > 1 - half
    return below.masked_fill(last, 0.0) + above.masked_fill(first, 0.0) + both.expand_as(below).masked_fill(first | last, 0.0)


class LogisticMixture(HeadSettings, family="head", name="logistic_mixture"):
    """Settings of the discretised mixture of logistics, for ordered levels such as those of pixels.

    Attributes:
        components: Logistic distributions in a mixture.
    """

    components: int = Field(default=10, ge=1)

    def build(self, width: int, layout: Layout, condition_width: int | None = None) -> LogisticMixtureHead:
        """See :meth:`HeadSettings.build`."""
        return LogisticMixtureHead(width, layout, self)


class LogisticMixtureHead(Head):
    """A linear map to the parameters of a mixture over a pixel's channels.

    Per component: one logit, a mean and a scale per channel, and a coefficient per pair of channels: 3 numbers for grey, 10 for RGB. Levels
    must be ordered, as pixel values are and codes of a learned codebook are not.
    """

    discrete = True
    levels: Tensor

    def __init__(self, width: int, layout: Layout, settings: LogisticMixture = LogisticMixture()) -> None:
        super().__init__()
        self.channels, self.vocabulary = layout.channels, vocabulary_of("logistic_mixture", layout)
        self.components = settings.components
        self.pairs = self.channels * (self.channels - 1) // 2
        self.parameters_of = nn.Linear(width, self.components * (1 + 2 * self.channels + self.pairs))
        self.register_buffer("levels", torch.linspace(-1, 1, self.vocabulary), persistent=False)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Zero weights; components are equally likely, evenly spaced over the levels, as wide as their distance, channels uncoupled."""
        nn.init.zeros_(self.parameters_of.weight)
        nn.init.zeros_(self.parameters_of.bias)
        _, mean, log_scale, _ = self._split(self.parameters_of.bias)
        mean.copy_(((2 * torch.arange(self.components) + 1) / self.components - 1)[:, None])
        log_scale.fill_(-math.log(self.components))

    def _split(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits ``(..., M)``, means and log-scales ``(..., M, C)``, and raw coefficients ``(..., M, pairs)``, of ``M`` components."""
        parts = numbers.unflatten(-1, (self.components, -1)).split([1, self.channels, self.channels, self.pairs], dim=-1)
        return parts[0][..., 0], parts[1], parts[2], parts[3]

    def _means(self, mean: Tensor, raw: Tensor, x: Tensor, channel: int) -> Tensor:
        """Means of a channel ``(..., M)``, given the earlier channels of ``x``, ``(..., C)``."""
        first = channel * (channel - 1) // 2
        coupling = raw[..., first : first + channel].tanh() * x[..., None, :channel]
        return mean[..., channel] + coupling.sum(-1)

    def log_prob(self, hidden: Tensor, values: Tensor) -> Tensor:
        """Log-probability of whole positions in nats: hidden ``(..., D)``, levels ``(..., C)`` to ``(...)``."""
        numbers = self.parameters_of(hidden)
        with torch.autocast(numbers.device.type, enabled=False):
            logits, mean, log_scale, raw = self._split(numbers.float())
            x = self.levels[values]
            total = logits.log_softmax(-1)
            for channel in range(self.channels):
                centre = self._means(mean, raw, x, channel)
                total = total + log_bins(x[..., None, channel], centre, log_scale[..., channel], self.vocabulary)
            return total.logsumexp(-1)

    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        """Negative log-likelihood, ``(M,)``, in nats per *position*; bits per channel are ``loss / (C ln 2)``."""
        return -self.log_prob(hidden, targets)

    def nats_a_value(self, loss: float) -> float | None:
        """The loss over the number of channels."""
        return loss / self.channels

    def sample(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> SampleOutput:
        """Draw levels ``(B, n, C)`` and their log-probability, summed over the channels, ``(B, n)``.

        Channels are drawn in sequence from their exact conditional distribution. Guidance, temperature, top-k and top-p act on its
        log-probabilities as on logits.
        """
        state = _Channels(self, hidden)
        other = None if context.unconditional is None else _Channels(self, context.unconditional)
        levels, confidence = [], torch.zeros(hidden.shape[:-1], device=hidden.device)
        uniform = rng.uniform(hidden.shape[1], self.channels) if sampling.temperature else None
        for channel in range(self.channels):
            scores = state.scores(channel)
            if other is not None:
                without = other.scores(channel)
                scores = without + context.guidance * (scores - without)
            level, log_probability = sample_codes(scores, sampling, None if uniform is None else uniform[..., channel])
            for each in (state, other):
                if each is not None:
                    each.take(channel, level)
            levels.append(level)
            confidence += log_probability
        return SampleOutput(torch.stack(levels, dim=-1), confidence)


class _Channels:
    """The mixture while channels are drawn; the component weights are conditioned on the drawn levels."""

    def __init__(self, head: LogisticMixtureHead, hidden: Tensor) -> None:
        self.head = head
        logits, self.mean, self.log_scale, self.raw = head._split(head.parameters_of(hidden).float())
        self.weights = logits.log_softmax(-1)  # (B, n, M)
        self.x = self.mean.new_zeros(*hidden.shape[:-1], head.channels)
        self.bins = self.weights[..., None]  # (B, n, M, V) of the last channel

    def scores(self, channel: int) -> Tensor:
        """Log-probabilities of all levels of a channel, ``(B, n, V)``."""
        centre = self.head._means(self.mean, self.raw, self.x, channel)
        self.bins = log_bins(self.head.levels, centre[..., None], self.log_scale[..., channel, None], self.head.vocabulary)
        return torch.logsumexp(self.weights[..., None] + self.bins, dim=-2)

    def take(self, channel: int, level: Tensor) -> None:
        """Condition the component weights on the drawn level ``(B, n)`` of a channel (Bayes)."""
        index = level[..., None, None].expand(*self.weights.shape, 1)
        self.weights = (self.weights + self.bins.gather(-1, index)[..., 0]).log_softmax(-1)
        self.x[..., channel] = self.head.levels[level]
