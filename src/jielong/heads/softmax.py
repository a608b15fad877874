"""The softmax head: the next token is one of ``V`` codes."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import NO_CONTEXT, Head, HeadContext, HeadSettings, SampleOutput


def filter_logits(logits: Tensor, sampling: SamplingConfig) -> Tensor:
    """Apply temperature, then top-k, then top-p (nucleus sampling, arXiv 1904.09751) to logits ``(..., V)``.

    A dropped code gets minus infinity. Codes tied with the k-th stay; of codes tied at the edge of the nucleus the first stay. The most
    likely code always stays.
    """
    logits = logits.float()
    if sampling.temperature != 1.0:
        logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest = logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if sampling.top_p < 1.0:
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        probability = ordered.softmax(-1)
        # A code is dropped when those before it already reach p.
        beyond = probability.cumsum(-1) - probability >= sampling.top_p
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
    return logits


def draw_codes(probability: Tensor, uniform: Tensor) -> Tensor:
    """Sample by inverting the cumulative distribution: probabilities ``(..., V)``, uniforms ``(...)`` in [0, 1), codes ``(...)``.

    One random number per code, whatever the vocabulary. Codes of probability zero are never drawn.
    """
    cumulative = probability.cumsum(-1, dtype=torch.double)
    threshold = uniform[..., None] * cumulative[..., -1:]
    # right=True finds the first code whose cumulative probability exceeds the threshold, so its own probability is positive.
    return torch.searchsorted(cumulative, threshold, right=True)[..., 0].clamp_max(probability.shape[-1] - 1)


def cross_entropies(scores: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy in nats of every code: scores ``(M, K, V)``, targets ``(M, K)`` to ``(M, K)``; 0 where a target is ``V``."""
    flat, size = scores.float().flatten(0, 1), scores.shape[-1]
    each = F.cross_entropy(flat, targets.flatten(), reduction="none", ignore_index=size, label_smoothing=label_smoothing)
    return each.unflatten(0, targets.shape)


def over_codebooks(each: Tensor, targets: Tensor, vocabulary: int) -> Tensor:
    """Mean ``(M,)`` of losses ``(M, K)`` over the codebooks that have a code (their target is not ``V``)."""
    present = targets != vocabulary
    return each.mean(-1) if bool(present.all()) else each.sum(-1) / present.sum(-1).clamp_min(1)


def sample_codes(scores: Tensor, sampling: SamplingConfig, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
    """Codes ``(...)`` and their log-probabilities from guided logits ``(..., V)``; the most likely codes without ``uniform`` numbers."""
    if uniform is None:
        codes, probability = scores.argmax(-1), scores.softmax(-1)
    else:
        probability = filter_logits(scores, sampling).softmax(-1)
        codes = draw_codes(probability, uniform)
    return codes, probability.gather(-1, codes[..., None])[..., 0].clamp_min(torch.finfo(torch.float32).tiny).log()


class Softmax(HeadSettings, family="head", name="softmax"):
    """Settings of the softmax head.

    Attributes:
        label_smoothing: Fraction of the target spread over all codes (arXiv 1512.00567).
        confidence: Of a sampled code, for orders that keep the most confident: its ``log_probability`` after temperature, top-k and top-p
            (MaskGIT), or its guided ``logit`` (TiTok, arXiv 2406.07550).
        bias: Whether the logits have a bias (VAR, TiTok).
    """

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    confidence: Literal["log_probability", "logit"] = "log_probability"
    bias: bool = False

    def build(self, width: int, layout: Layout, condition_width: int | None = None) -> SoftmaxHead:
        """See :meth:`HeadSettings.build`."""
        return SoftmaxHead(width, layout, self)


def vocabulary_of(head: str, layout: Layout) -> int:
    """The vocabulary of a layout of codes. Raises ``ValueError`` if the tokens are continuous."""
    if layout.vocabulary is None:
        raise ValueError(f"a {head} head needs discrete tokens; this tokenizer's are continuous: choose a head such as diffusion")
    return layout.vocabulary


class SoftmaxHead(Head):
    """A linear map to logits over the codes, one map a codebook. Raises ``ValueError`` if the tokens are continuous."""

    discrete = True
    missing_codes_allowed = True
    guides_twice = True

    def __init__(self, width: int, layout: Layout, settings: Softmax = Softmax()) -> None:
        super().__init__()
        self.codebooks, self.vocabulary = layout.channels, vocabulary_of("softmax", layout)
        self.label_smoothing, self.confidence = settings.label_smoothing, settings.confidence
        self.logits = nn.Linear(width, self.codebooks * self.vocabulary, bias=settings.bias)
        # Zero weights: the untrained head is uniform, and its first loss is exactly ln V.
        nn.init.zeros_(self.logits.weight)
        if self.logits.bias is not None:
            nn.init.zeros_(self.logits.bias)

    def scores(self, hidden: Tensor) -> Tensor:
        """Logits ``(..., K, V)`` of hidden vectors ``(..., D)``."""
        return self.logits(hidden).unflatten(-1, (self.codebooks, self.vocabulary))

    def log_prob(self, hidden: Tensor, values: Tensor) -> Tensor:
        """Log-probability of codes in nats, summed over the codebooks: hidden ``(..., D)``, codes ``(..., K)`` to ``(...)``."""
        scores = self.scores(hidden)
        with torch.autocast(scores.device.type, enabled=False):
            return scores.float().log_softmax(-1).gather(-1, values[..., None])[..., 0].sum(-1)

    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        """Cross-entropy in nats, ``(M,)``, averaged over the codebooks that have a code."""
        present = targets != self.vocabulary
        if bool(present.all()):
            scores = self.scores(hidden)
            with torch.autocast(scores.device.type, enabled=False):
                return over_codebooks(cross_entropies(scores, targets, self.label_smoothing), targets, self.vocabulary)
        # A pattern of codebooks has one code at most positions: compute only the logits of codes that exist.
        each = torch.zeros(targets.shape, device=hidden.device)
        biases = [None] * self.codebooks if self.logits.bias is None else self.logits.bias.chunk(self.codebooks)
        for book, (weight, bias) in enumerate(zip(self.logits.weight.chunk(self.codebooks), biases, strict=True)):
            rows = present[:, book].nonzero()[:, 0]
            scores = F.linear(hidden[rows], weight, bias)[:, None]
            with torch.autocast(scores.device.type, enabled=False):
                each[rows, book] = cross_entropies(scores, targets[rows, book, None], self.label_smoothing)[:, 0]
        return over_codebooks(each, targets, self.vocabulary)

    def nats_a_value(self, loss: float) -> float | None:
        """The loss, unless labels are smoothed."""
        return None if self.label_smoothing else loss

    def sample(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> SampleOutput:
        """Draw codes ``(B, n, K)`` and their confidence, summed over the codebooks, ``(B, n)``."""
        scores = self._guided(hidden, context)
        codes, confidence = sample_codes(scores, sampling, rng.uniform(*scores.shape[1:-1]) if sampling.temperature else None)
        if self.confidence == "logit":
            confidence = scores.gather(-1, codes[..., None])[..., 0]
        return SampleOutput(codes, confidence.sum(-1))

    def soft_codes(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> Tensor:
        """Gumbel-softmax weights over the codes: ``softmax(((1 + r) logits + g) / tau)``, ``tau = max(0.27 (1 - 0.95 r), 0.005)``.

        ``r`` is the progress and ``g`` Gumbel noise: early steps mix codes, the last is nearly one-hot (VAR's "more smooth" sampling).
        """
        scores = self._guided(hidden, context)
        if sampling.temperature == 0.0:
            return F.one_hot(scores.argmax(-1), self.vocabulary).float()
        logits = filter_logits(scores, sampling) * (1 + context.progress)
        return ((logits + rng.gumbel(*logits.shape[1:])) / max(0.27 * (1 - 0.95 * context.progress), 0.005)).softmax(-1)

    def _guided(self, hidden: Tensor, context: HeadContext) -> Tensor:
        # Logits are linear in hidden vectors, so guiding the latter guides the former, with one product instead of two.
        return self.scores(context.guided(hidden)).float()
