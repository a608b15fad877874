"""The discretised mixture of logistics: a pixel's colours together, as levels in order (PixelCNN++, arXiv 1701.05517).

A level ``v`` of ``V`` stands at ``x = 2 v / (V - 1) - 1`` and has a bin of half-width ``d = 1 / (V - 1)`` to either side; the first and the
last bin reach to infinity. With ``sigma`` the logistic function, one component gives colour ``c`` the probability

    P(x_c) = sigma((x_c + d - m_c) / s_c) - sigma((x_c - d - m_c) / s_c)
    m_c = mu_c + sum_{e < c} tanh(k_ce) x_e                                              (section 2.2: red, green given red, ...)

and a pixel has ``sum_i pi_i prod_c P_i(x_c)``: the colours share the component.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import NO_CONTEXT, Head, HeadContext, HeadSettings, SampleOutput, SamplingConfig
from jielong.heads.softmax import draw_codes, filter_logits, vocabulary_of

SCALE = 7.0
"""Logarithms of scales are kept in [-SCALE, SCALE]; the lower end is PixelCNN++'s."""


def log_bins(x: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """Log-probability of the bins at ``x`` under logistics; all broadcast against each other. Exact, over all levels the bins sum to 1.

    ``log(sigma(a) - sigma(b)) = log sigma(a) + log sigma(-b) + log(1 - exp(b - a))``: no difference of near numbers is taken, so nothing
    has to be put in its place where it would vanish, and gradients are finite everywhere.

    Args:
        x: Levels as numbers in [-1, 1].
        mean: Centres.
        log_scale: Logarithms of the scales.
        levels: Number of levels ``V``.
    """
    half = 1.0 / (levels - 1)
    inverse = torch.exp(-log_scale.clamp(-SCALE, SCALE))
    apart = x - mean
    below = F.logsigmoid((apart + half) * inverse)  # log P(not above the bin)
    above = F.logsigmoid((half - apart) * inverse)  # log P(not below the bin)
    both = torch.log(-torch.expm1(-2 * half * inverse))
    first, last = x < half - 1, x > 1 - half
    return below.masked_fill(last, 0.0) + above.masked_fill(first, 0.0) + both.expand_as(below).masked_fill(first | last, 0.0)


class LogisticMixture(HeadSettings, family="head", name="logistic_mixture"):
    """Settings of the discretised mixture of logistics, for ordered levels such as those of pixels.

    Attributes:
        components: Size of the mixture.
    """

    components: int = Field(default=10, ge=1)

    def build(self, width: int, layout: Layout) -> LogisticMixtureHead:
        """See :meth:`HeadSettings.build`."""
        return LogisticMixtureHead(width, layout, self)


class LogisticMixtureHead(Head):
    """A linear map to the parameters of a mixture over all colours of a pixel.

    For a component: one logit, a mean and a scale a colour, and a coefficient for each pair of colours: 3 numbers for grey, 10 for RGB.
    Levels are taken to be in order, as those of pixels are; codes of a learned codebook are not.

    Args:
        width: Width ``D`` of the hidden vectors.
        layout: The tokens to predict: ``channels`` colours of ``vocabulary`` levels.
        settings: See :class:`LogisticMixture`.
    """

    discrete = True
    levels: Tensor

    def __init__(self, width: int, layout: Layout, settings: LogisticMixture = LogisticMixture()) -> None:
        super().__init__()
        self.colours, self.vocabulary = layout.channels, vocabulary_of("logistic_mixture", layout)
        self.components = settings.components
        self.pairs = self.colours * (self.colours - 1) // 2
        self.parameters_of = nn.Linear(width, self.components * (1 + 2 * self.colours + self.pairs))
        self.register_buffer("levels", torch.linspace(-1, 1, self.vocabulary), persistent=False)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Weights 0; the components start side by side over all levels, equally likely, as wide as they are apart, colours uncoupled."""
        nn.init.zeros_(self.parameters_of.weight)
        nn.init.zeros_(self.parameters_of.bias)
        _, mean, log_scale, _ = self._split(self.parameters_of.bias)
        mean.copy_(((2 * torch.arange(self.components) + 1) / self.components - 1)[:, None])
        log_scale.fill_(-math.log(self.components))

    def _split(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits ``(..., M)``, means and log-scales ``(..., M, C)``, and raw coefficients ``(..., M, pairs)``, of ``M`` components."""
        parts = numbers.unflatten(-1, (self.components, -1)).split([1, self.colours, self.colours, self.pairs], dim=-1)
        return parts[0][..., 0], parts[1], parts[2], parts[3]

    def _means(self, mean: Tensor, raw: Tensor, x: Tensor, colour: int) -> Tensor:
        """Centres of a colour ``(..., M)``, given the earlier colours ``x``, ``(..., C)`` numbers."""
        first = colour * (colour - 1) // 2
        along = raw[..., first : first + colour].tanh() * x[..., None, :colour]
        return mean[..., colour] + along.sum(-1)

    def log_prob(self, hidden: Tensor, values: Tensor) -> Tensor:
        """Log-probability of whole positions in nats: hidden ``(..., D)``, levels ``(..., C)`` to ``(...)``."""
        numbers = self.parameters_of(hidden)
        with torch.autocast(numbers.device.type, enabled=False):
            logits, mean, log_scale, raw = self._split(numbers.float())
            x = self.levels[values]
            total = logits.log_softmax(-1)
            for colour in range(self.colours):
                centre = self._means(mean, raw, x, colour)
                total = total + log_bins(x[..., None, colour], centre, log_scale[..., colour], self.vocabulary)
            return total.logsumexp(-1)

    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        """Negative log-likelihood, ``(M,)``, in nats a *position*, all its colours together: bits a colour are ``loss / (C ln 2)``."""
        return -self.log_prob(hidden, targets)

    def nats_a_value(self, loss: float) -> float | None:
        """The loss shared by the colours."""
        return loss / self.colours

    def sample(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> SampleOutput:
        """Draw levels ``(B, n, C)``, and the log-probability of each draw, summed over the colours, ``(B, n)``.

        Colours are drawn one after the other from their exact distribution over the levels, given those before. Guidance, temperature,
        top-k and top-p act on its log-probabilities as they do on a softmax head's logits.
        """
        chain = _Colours(self, hidden)
        other = None if context.unconditional is None else _Colours(self, context.unconditional)
        levels, confidence = [], torch.zeros(hidden.shape[:-1], device=hidden.device)
        uniform = rng.uniform(hidden.shape[1], self.colours) if sampling.temperature else None
        for colour in range(self.colours):
            scores = chain.scores(colour)
            if other is not None:
                without = other.scores(colour)
                scores = without + context.guidance * (scores - without)
            if uniform is None:
                probability = scores.softmax(-1)
                level = scores.argmax(-1)
            else:
                probability = filter_logits(scores, sampling).softmax(-1)
                level = draw_codes(probability, uniform[..., colour])
            for each in (chain, other):
                if each is not None:
                    each.take(colour, level)
            levels.append(level)
            confidence += probability.gather(-1, level[..., None])[..., 0].clamp_min(torch.finfo(torch.float32).tiny).log()
        return SampleOutput(torch.stack(levels, dim=-1), confidence)


class _Colours:
    """The mixture while colours are drawn: the weights of the components follow what was drawn."""

    def __init__(self, head: LogisticMixtureHead, hidden: Tensor) -> None:
        self.head = head
        logits, self.mean, self.log_scale, self.raw = head._split(head.parameters_of(hidden).float())
        self.weights = logits.log_softmax(-1)  # (B, n, M)
        self.x = self.mean.new_zeros(*hidden.shape[:-1], head.colours)
        self.bins = self.weights[..., None]  # (B, n, M, V) of the colour asked last

    def scores(self, colour: int) -> Tensor:
        """Log-probabilities of all levels of a colour, ``(B, n, V)``."""
        centre = self.head._means(self.mean, self.raw, self.x, colour)
        self.bins = log_bins(self.head.levels, centre[..., None], self.log_scale[..., colour, None], self.head.vocabulary)
        return torch.logsumexp(self.weights[..., None] + self.bins, dim=-2)

    def take(self, colour: int, level: Tensor) -> None:
        """A colour is drawn, ``(B, n)``: components that make it likely gain weight (Bayes)."""
        which = level[..., None, None].expand(*self.weights.shape, 1)
        self.weights = (self.weights + self.bins.gather(-1, which)[..., 0]).log_softmax(-1)
        self.x[..., colour] = self.head.levels[level]
