"""VAE: one normal vector decoded to all tokens of an item, learned with an encoder (Kingma and Welling, arXiv 1312.6114).

With ``q(z | x, c) = N(m, diag exp(v))`` of the encoder and ``p(x | z, c) = N(x; mu(z, c), diag s^2)`` of the decoder

    -log p(x | c) <= E_q[-log p(x | z, c)] + KL,     KL = sum_j (m_j^2 + exp(v_j) - 1 - v_j) / 2

in nats, divided by the number of values of an item. In training the second term is ``beta sum_j max(KL_j, free_bits)`` (free bits: arXiv
1606.04934, here of each item). In evaluation mode the loss is the bound itself, or with ``importance_draws`` above 1 the tighter
``-log mean_k p(x | z_k, c) p(z_k) / q(z_k | x, c)`` (IWAE, arXiv 1509.00519, equation 8).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, SerializeAsAny
from torch import Tensor, nn

from jielong.config.registry import OfFamily
from jielong.config.sampling import SamplingConfig
from jielong.core.rng import Draws, PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import NO_CONTEXT, HeadContext, SampleOutput
from jielong.heads.continuous import upcast
from jielong.heads.whole_block import WholeBlockHead, WholeBlockSettings, block_inputs
from jielong.networks.vector_residual import ResidualFromTokens
from jielong.networks.vectors import BlockSizes, PooledCondition, VectorEncoderSettings, conditioning_of

_LOG_VARIANCES = (-30.0, 20.0)
"""Range of the encoder's log-variances, as of LDM's autoencoder (arXiv 2112.10752)."""
COLLAPSED = 0.1
"""A KL divergence of an item below it, in nats: the vector carries almost no information about the item."""


class Posterior(NamedTuple):
    """``q(z | x, c)`` of items: means and log-variances, ``(B, Z)``."""

    mean: Tensor
    log_variance: Tensor

    def kl(self) -> Tensor:
        """``KL(q | N(0, I))`` of each number of the vector, nats, ``(B, Z)``."""
        return (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance) / 2

    def sample(self, noise: Tensor) -> Tensor:
        """``m + exp(v / 2) e`` with noise ``(B, Z)``."""
        return self.mean + (self.log_variance / 2).exp() * noise


def log_normal(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """``log N(x; m, exp(v))`` of each number."""
    return -((x - mean).square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi)) / 2


class VAE(WholeBlockSettings, family="head", name="vae"):
    """Settings of the VAE head, for continuous tokens and the order at_once.

    Attributes:
        encoder: Network from all tokens to the features that determine the posterior.
        beta: Factor of the KL divergence in training; 1 is the bound on the likelihood.
        free_bits: Nats of each number of the vector below which the KL divergence is not reduced further.
        scale: Standard deviation of the decoder's distribution; ``null`` learns one for each number of a token.
        least_scale: Lower bound of a learned one, without which the density of flat areas grows without bound.
        draw: What is drawn, the ``mean`` of the decoder's distribution or a ``sample`` of it.
        importance_draws: Samples of the bound in evaluation; 1 is the ELBO.
        condition: Numbers of the vector that the encoder reduces the condition to.
    """

    encoder: Annotated[SerializeAsAny[VectorEncoderSettings], OfFamily("vector_encoder")] = ResidualFromTokens()
    beta: PositiveFloat = 1.0
    free_bits: NonNegativeFloat = 0.0
    scale: PositiveFloat | None = None
    least_scale: PositiveFloat = 0.01
    draw: Literal["mean", "sample"] = "mean"
    importance_draws: int = Field(default=1, ge=1)
    condition: int = Field(default=128, ge=8)

    def build(self, width: int, layout: Layout, condition_width: int | None = None) -> VAEHead:
        """See :meth:`HeadSettings.build`."""
        return VAEHead(self.sizes(width, layout, condition_width), self)


class VAEHead(WholeBlockHead):
    """Samples all tokens of an item in one evaluation, and bounds their likelihood; see :mod:`jielong.heads.vae`."""

    def __init__(self, sizes: BlockSizes, settings: VAE) -> None:
        super().__init__(settings.generator.build(settings.noise, sizes))
        self.settings, self.values, vector = settings, sizes.positions * sizes.channels, self.generator.size
        self.encoder, width = settings.encoder.build(sizes), settings.condition
        self.pooled = None if sizes.condition is None else PooledCondition(sizes.condition, width)
        self.posterior = nn.Linear(self.encoder.features + (0 if self.pooled is None else width), 2 * vector)
        nn.init.normal_(self.posterior.weight, std=0.01)
        nn.init.zeros_(self.posterior.bias)
        self.log_scale = nn.Parameter(torch.zeros(sizes.channels)) if settings.scale is None else None
        # The better bound is the better model only where the bound is what is minimised.
        self.loss_ranks_weights = settings.beta == 1 and settings.free_bits == 0

    def encode(self, tokens: Tensor, hidden: Tensor, context: HeadContext = NO_CONTEXT) -> Posterior:
        """The posterior of tokens ``(B, n, C)``, in float32 (float64)."""
        features = self.encoder(tokens.to(hidden.dtype))
        if self.pooled is not None:
            features = torch.cat([features, self.pooled(conditioning_of(block_inputs(hidden, context)))], 1)
        mean, log_variance = upcast(self.posterior(features)).chunk(2, dim=1)
        return Posterior(mean, log_variance.clamp(*_LOG_VARIANCES))

    @property
    def log_variance(self) -> Tensor:
        """Of the decoder's distribution, ``(C,)`` or a scalar; that of a learned one is ``log(exp(2 l) + least_scale^2)``."""
        if self.log_scale is None:
            return torch.tensor(2 * math.log(self.settings.scale or 1.0))
        return torch.logaddexp(2 * self.log_scale, self.log_scale.new_tensor(2 * math.log(self.settings.least_scale)))

    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        """Nats a value of each item ``(B,)``: what training minimises, or in evaluation mode the bound on the likelihood."""
        targets, posterior, draws = upcast(targets), self.encode(targets, hidden, context), context.streams(hidden)
        if not self.training and self.settings.importance_draws > 1:
            return -self._importance_weighted(posterior, hidden, targets, context, draws) / self.values
        vectors = posterior.sample(draws.normal(self.generator.size).to(posterior.mean.dtype))
        reconstruction, each = -self._log_likelihood(vectors, hidden, targets, context), posterior.kl()
        context.on_figure("reconstruction", (reconstruction / self.values).detach())
        context.on_figure("kl", (each.sum(1) / self.values).detach())
        kl = each.sum(1) if not self.training else self.settings.beta * each.clamp_min(self.settings.free_bits).sum(1)
        return (reconstruction + kl) / self.values

    def _log_likelihood(self, vectors: Tensor, hidden: Tensor, targets: Tensor, context: HeadContext) -> Tensor:
        """``log p(x | z, c)`` of items, ``(B,)``."""
        mean = self.decode(vectors, hidden, context)
        with torch.autocast(mean.device.type, enabled=False):
            return log_normal(targets.to(mean.dtype), mean, self.log_variance.to(mean)).flatten(1).sum(1)

    def _importance_weighted(self, posterior: Posterior, hidden: Tensor, targets: Tensor, context: HeadContext, draws: Draws) -> Tensor:
        """``log mean_k p(x | z_k, c) p(z_k) / q(z_k | x, c)`` of items, ``(B,)``."""
        weights = []
        for _ in range(self.settings.importance_draws):
            vectors = posterior.sample(draws.normal(self.generator.size).to(posterior.mean.dtype))
            prior = log_normal(vectors, torch.zeros_like(vectors), torch.zeros_like(vectors))
            ratio = (prior - log_normal(vectors, *posterior)).sum(1)
            weights.append(self._log_likelihood(vectors, hidden, targets, context) + ratio)
        return torch.stack(weights).logsumexp(0) - math.log(len(weights))

    @property
    def bound(self) -> str:
        """See :attr:`Head.bound`."""
        samples = self.settings.importance_draws
        return "evidence lower bound" if samples == 1 else f"importance-weighted bound of {samples} samples"

    def nats_a_value(self, loss: float) -> float:
        """The loss: in evaluation mode a bound on the negative log-likelihood."""
        return loss

    def advice(self, figures: Mapping[str, float]) -> str | None:
        """See :meth:`Head.advice`."""
        if figures.get("kl", math.inf) * self.values >= COLLAPSED:
            return None
        return (
            "the posterior has collapsed onto the prior, and the vector is unused: set head.vae.free_bits (0.1 and more), "
            "lower beta, or take a weaker generator"
        )

    def sample(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> SampleOutput:
        """See :meth:`Head.sample`; ``draw: sample`` adds the decoder's noise, times the temperature."""
        drawn = super().sample(hidden, rng, sampling, context)
        if self.settings.draw == "mean":
            return drawn
        noise = rng.normal(*drawn.values.shape[1:]) * sampling.temperature
        return SampleOutput(drawn.values + (self.log_variance / 2).exp().to(noise) * noise)
