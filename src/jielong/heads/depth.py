"""The depth head: a small transformer draws the codebooks of a position in sequence (RQ-Transformer, Moshi)."""

from __future__ import annotations

import torch
from pydantic import Field, model_validator
from torch import Tensor

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import NO_CONTEXT, Head, HeadContext, HeadSettings, SampleOutput
from jielong.heads.softmax import cross_entropies, over_codebooks, sample_codes, vocabulary_of
from jielong.networks.depth import DepthTransformer, Memory, PerCodebook
from jielong.networks.embedding import CodeEmbedding


class Depth(HeadSettings, family="head", name="depth"):
    """Settings of the depth head.

    Attributes:
        layers: Layers of the transformer over the codebooks.
        width: Channels of the transformer.
        heads: Attention heads of a layer.
        shared: Use one set of layer weights for all codebooks.
        first_weight: Weight of the first codebook's loss relative to each of the others (Moshi: 100, for its semantic codebook).
    """

    layers: int = Field(default=2, ge=1)
    width: int = Field(default=128, ge=1)
    heads: int = Field(default=4, ge=1)
    shared: bool = False
    first_weight: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Depth:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self

    def build(self, width: int, layout: Layout, condition_width: int | None = None) -> DepthHead:
        """See :meth:`HeadSettings.build`."""
        return DepthHead(width, layout, self)


class DepthHead(Head):
    """``p(c_1 .. c_K | h) = prod_k p(c_k | h, c_1 .. c_{k-1})``, exactly (arXiv 2203.01941, eq. 8; 2410.00037, section 3.4.1).

    The input at codebook ``k`` is ``W_k h + E_{k-1}(c_{k-1})``, and ``W_1 h`` at the first. Each codebook has its own weights. Raises
    ``ValueError`` if the tokens are continuous.
    """

    discrete = True
    missing_codes_allowed = True
    sequential_codebooks = True

    def __init__(self, width: int, layout: Layout, settings: Depth = Depth()) -> None:
        super().__init__()
        self.codebooks, self.vocabulary = layout.channels, vocabulary_of("depth", layout)
        depth_width, self.first_weight = settings.width, settings.first_weight
        self.enter = PerCodebook(self.codebooks, width, depth_width)
        # The last codebook is never an input; padding may be, where a pattern leaves a codebook out.
        self.embedding = CodeEmbedding(1, max(self.codebooks - 1, 1) * (self.vocabulary + 1), depth_width)
        self.depth = DepthTransformer(self.codebooks, settings.layers, depth_width, settings.heads, settings.shared)
        # Zero weights: the untrained head is uniform, and its first loss is exactly ln V.
        self.logits = PerCodebook(self.codebooks, depth_width, self.vocabulary, std=0.0)

    def _embedded(self, codes: Tensor, first: int) -> Tensor:
        """Vectors of the codes ``(M, k)`` of codebooks ``first`` on, ``(M, k, depth width)``."""
        tables = torch.arange(first, first + codes.shape[1], device=codes.device) * (self.vocabulary + 1)
        return self.embedding((codes + tables)[..., None])

    def scores(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Logits ``(M, K, V)`` of hidden vectors ``(M, D)``, each given the codes ``(M, K)`` of the codebooks before it."""
        x = self.enter(hidden[:, None].expand(-1, self.codebooks, -1))
        if self.codebooks > 1:
            x = torch.cat((x[:, :1], x[:, 1:] + self._embedded(codes[:, :-1], 0)), dim=1)
        return self.logits(self.depth(x))

    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        """Cross-entropy in nats, ``(M,)``, averaged over the codebooks that have a code, weighted by ``first_weight``."""
        scores = self.scores(hidden, targets)
        with torch.autocast(scores.device.type, enabled=False):
            each = cross_entropies(scores, targets)
            if self.first_weight == 1.0:
                return over_codebooks(each, targets, self.vocabulary)
            weights = each.new_ones(self.codebooks)
            weights[0] = self.first_weight
            weights = weights * (targets != self.vocabulary)
            return (each * weights).sum(-1) / weights.sum(-1).clamp_min(1e-9)

    def nats_a_value(self, loss: float) -> float | None:
        """The loss, unless the first codebook has another weight."""
        return loss if self.first_weight == 1.0 else None

    def log_prob(self, hidden: Tensor, values: Tensor) -> Tensor:
        """Log-probability of codes in nats, summed over the codebooks: hidden ``(..., D)``, codes ``(..., K)`` to ``(...)``."""
        flat = values.reshape(-1, self.codebooks)
        scores = self.scores(hidden.reshape(len(flat), -1), flat)
        with torch.autocast(scores.device.type, enabled=False):
            return -cross_entropies(scores, flat).sum(-1).view(values.shape[:-1])

    def sample(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> SampleOutput:
        """Draw codes ``(B, n, K)`` in turn, with log-probabilities; guidance combines logits, both branches given the same codes."""
        batch, n, _ = hidden.shape
        null = context.unconditional
        rows = hidden.flatten(0, 1)
        if null is not None:
            rows = torch.cat((rows, null.flatten(0, 1)))
        uniform = rng.uniform(n, self.codebooks).flatten(0, 1) if sampling.temperature > 0 else None  # (M, K)
        given = None if context.given is None else context.given.flatten(0, 1)
        memory: Memory = []
        drawn: list[Tensor] = []
        confidence = torch.zeros(batch * n, device=hidden.device)
        for book in range(self.codebooks):
            x = self.enter(rows[:, None], book)
            if drawn:
                before = self._embedded(drawn[-1][:, None], book - 1)
                x = x + (torch.cat((before, before)) if null is not None else before)
            scores = self.logits(self.depth.step(x, book, memory), book)[:, 0].float()
            if null is not None:
                conditional, unconditional = scores.chunk(2)
                scores = torch.lerp(unconditional, conditional, context.guidance)
            codes, log_probability = sample_codes(scores, sampling, None if uniform is None else uniform[:, book])
            confidence += log_probability
            drawn.append(codes if given is None else torch.where(given[:, book] < 0, codes, given[:, book]))
        return SampleOutput(torch.stack(drawn, dim=-1).unflatten(0, (batch, n)), confidence.view(batch, n))
