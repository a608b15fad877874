"""Gumbel-softmax quantization with an annealed temperature (the discrete VAE of DALL-E, arXiv 2102.12092)."""

from __future__ import annotations

import math

import torch
from pydantic import Field, PositiveFloat
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from jielong.config.schedule import End
from jielong.core.rng import Draws, PerSampleRNG
from jielong.core.whole_batch import at_step_end
from jielong.quantizers.base import Quantized, Quantizer, QuantizerSettings
from jielong.quantizers.checks import check_indices, checked, generator_or_seeded, item_draws, refuse_repetition
from jielong.quantizers.estimators import straight_through
from jielong.quantizers.parallel import sum_over_processes
from jielong.quantizers.precision import KeepsPrecision
from jielong.quantizers.usage import CodebookUsage


def cosine(start: float, end: float, samples: int, samples_seen: int) -> float:
    """From ``start`` to ``end`` along half a cosine wave, in ``samples`` samples."""
    done = min(1.0, samples_seen / samples) if samples else 1.0
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


class GumbelQuantizer(KeepsPrecision, Quantizer):
    r"""Maps a vector to logits over ``V`` codes and mixes the codes by a relaxed sample of them.

    With logits ``l``, ``q = softmax(l)`` and Gumbel noise ``g``, in training ``y = softmax((ln q + g) / tau)`` and the value is
    ``sum_v y_v e_v``; otherwise, and in :meth:`encode`, the code is ``argmax l``. Loss ``kl``: ``beta`` times the mean over vectors of
    ``KL(q || uniform) = ln V + sum_v q_v ln q_v``, in nats. Both ``tau`` and ``beta`` follow half a cosine wave in samples seen.

    Published: ``tau`` from 1 to 1/16 over 77 M samples and ``beta`` from 0 to 6.6 over 2.6 M, the loss being the sum over pixels and
    positions divided by the number of sub-pixels. Where both are means, as here, that is ``6.6 / (3 f^2)`` with ``f`` pixels a side of
    a token (0.034 at ``f = 8``), beside a likelihood in nats; beside other reconstruction losses 5e-4 is customary.

    The state is the count of the codes assigned in training; under data parallelism all processes must call forward together.
    """

    updates: Tensor

    def __init__(self, settings: Gumbel, dim: int) -> None:
        super().__init__()
        self.settings, self.codebook_size, self.dim = settings, settings.codebook_size, dim
        self.logits = nn.Linear(dim, self.codebook_size)
        self.codebook = nn.Parameter(torch.randn(self.codebook_size, dim) * dim**-0.5)
        self.register_buffer("updates", torch.tensor(0))
        self.usage = CodebookUsage(self.codebook_size)

    def extra_repr(self) -> str:
        """The sizes, for printing."""
        return f"codebook_size={self.codebook_size}, dim={self.dim}, hard={self.settings.hard}"

    def forward(
        self,
        vectors: Tensor,
        *,
        generator: Generator | None = None,
        update: bool = True,
        samples_seen: int = 0,
        rng: PerSampleRNG | None = None,
    ) -> Quantized:
        """See :meth:`Quantizer.forward`: a relaxed sample in training, the most probable code otherwise; indices as of :meth:`encode`."""
        if self.training:
            refuse_repetition("a Gumbel-softmax quantizer")
        settings, update = self.settings, update and self.training and torch.is_grad_enabled()
        with torch.autocast(vectors.device.type, enabled=False):
            logits = self.logits(checked(vectors, self.dim, together=update))  # (M, V)
            indices = logits.detach().argmax(dim=-1)
            log_q = logits.log_softmax(dim=-1)
            kl = (log_q.exp() * log_q).sum(dim=-1).mean() + math.log(self.codebook_size)
            tau = cosine(*settings.temperature, settings.temperature_samples, samples_seen)
            if self.training:
                draws = item_draws(rng, generator_or_seeded(generator, self.updates), vectors)
                values = self._sample(log_q, tau, draws) @ self.codebook
            else:
                values = F.embedding(indices, self.codebook)
            if update:
                at_step_end(self._count, None, indices)
        return Quantized(
            values.to(vectors.dtype).view(vectors.shape),
            indices.view(*vectors.shape[:-1], 1),
            {"kl": cosine(0.0, settings.kl, settings.kl_samples, samples_seen) * kl},
            {"kl": kl.detach(), "temperature": kl.new_tensor(tau)},
        )

    def _count(self, _: Generator | None, indices: Tensor) -> None:
        self.usage.update(sum_over_processes(torch.bincount(indices, minlength=self.codebook_size)))
        self.updates += 1

    def _sample(self, log_q: Tensor, tau: float, draws: Draws) -> Tensor:
        """Weights of the codes, ``(M, V)``, of log-probabilities ``(M, V)``; ``draws``: a stream for each item."""
        streams = Draws(draws.each(len(log_q) // max(1, len(draws))).keys.flatten())
        noise = streams.uniform(log_q.shape[1]).log().neg_().log_()  # -g
        soft = ((log_q - noise) / tau).softmax(dim=-1)
        if not self.settings.hard:
            return soft
        return straight_through(soft, torch.zeros_like(soft).scatter_(1, soft.detach().argmax(dim=1, keepdim=True), 1.0))

    @torch.no_grad()
    def encode(self, vectors: Tensor) -> Tensor:
        """The most probable codes, ``(..., D) -> (..., 1)``."""
        with torch.autocast(vectors.device.type, enabled=False):
            return self.logits(checked(vectors, self.dim)).argmax(dim=-1).view(*vectors.shape[:-1], 1)

    def decode(self, indices: Tensor) -> Tensor:
        """The codes at ``indices``, ``(..., 1) -> (..., D)`` float32."""
        check_indices(indices, self.codebook_size, 1)
        return F.embedding(indices[..., 0], self.codebook)

    def figures(self) -> dict[str, float]:
        """Usage and perplexity of the most probable codes."""
        return self.usage.figures()

    def advice(self) -> str | None:
        """A higher weight or a slower temperature, when few codes are used."""
        settings = self.settings
        return self.usage.advice(
            [
                f"raise the weight of the divergence from uniform (kl: {max(settings.kl * 3, 1e-4):g})",
                f"anneal the temperature for longer (temperature_samples: {2 * settings.temperature_samples or 1_000_000})",
            ]
        )


class Gumbel(QuantizerSettings, family="quantizer", name="gumbel"):
    """Settings of :class:`GumbelQuantizer`."""

    codebook_size: int = Field(default=1024, ge=2, description="V")
    temperature: tuple[PositiveFloat, PositiveFloat] = Field(default=(1.0, 1 / 16), description="tau at the beginning and at the end")
    temperature_samples: End = Field(default=1_000_000, description="samples seen when tau reaches its end, or a share of the budget")
    kl: float = Field(default=5e-4, ge=0, description="weight beta of the divergence from uniform, at the end")
    kl_samples: End = Field(default=100_000, description="samples seen when beta reaches its end, from 0, or a share of the budget")
    hard: bool = Field(default=False, description="return the sampled code, not the mixture; the gradient is the mixture's")

    def build(self, dim: int) -> GumbelQuantizer:
        """The quantizer for vectors of width ``dim``."""
        return GumbelQuantizer(self, dim)
