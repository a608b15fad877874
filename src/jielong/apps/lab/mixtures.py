"""Gaussian mixtures with known distribution, and the energy distance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RANK, SPREAD, BLUR, SEPARATION = 2, 0.5, 0.1, 1.0
"""Rank and scale of a component's low-rank covariance, its isotropic standard deviation, and that of the means, before standardisation."""


@dataclass(frozen=True)
class Mixtures:
    """A mixture of ``M`` normals for each of ``K`` hidden vectors.

    Attributes:
        hidden: ``(K, D)``.
        weights: ``(K, M)``, whose sums are 1.
        means: ``(K, M, C)``.
        factors: ``(K, M, C, R)``; the covariance of a component is ``F F^T``.
    """

    hidden: Tensor
    weights: Tensor
    means: Tensor
    factors: Tensor

    @staticmethod
    def drawn(kinds: int, components: int, channels: int, width: int, seed: int) -> Mixtures:
        """Random mixtures, standardised over all hidden vectors to mean 0 and standard deviation 1 per channel.

        Args:
            kinds: Number ``K`` of hidden vectors.
            components: Normals ``M`` per mixture.
            channels: Channels ``C`` of a token.
            width: Width of the hidden vectors.
            seed: Random seed.
        """
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        hidden, weights = normal(kinds, width), (0.5 * normal(kinds, components)).softmax(-1)
        means = SEPARATION * normal(kinds, components, channels)
        blur = (BLUR * torch.eye(channels)).expand(kinds, components, -1, -1)
        factors = torch.cat([SPREAD * normal(kinds, components, channels, RANK), blur], dim=-1)
        share = weights[..., None] / kinds
        mean = (share * means).sum((0, 1))
        variance = (share * (means.square() + factors.square().sum(-1))).sum((0, 1)) - mean.square()
        scale = variance.rsqrt()
        return Mixtures(hidden, weights, (means - mean) * scale, factors * scale[:, None])

    @property
    def channels(self) -> int:
        """Channels ``C`` of a token."""
        return self.means.shape[-1]

    def sample(self, count: int) -> Tensor:
        """Tokens ``(K, count, C)``, from torch's global generator."""
        kinds = torch.arange(len(self.weights))[:, None]
        which = torch.multinomial(self.weights, count, replacement=True)
        white = torch.randn(*which.shape, self.factors.shape[-1])
        return self.means[kinds, which] + (self.factors[kinds, which] @ white[..., None])[..., 0]

    def rounds(self, rounds: int, count: int, seed: int) -> Tensor:
        """Independent rounds of tokens ``(rounds, K, count, C)``; keeps torch's global generator."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return torch.stack([self.sample(count) for _ in range(rounds)])


def energy_distance(samples: Tensor, targets: Tensor) -> Tensor:
    """Unbiased energy distance of samples and targets, ``(rounds, K, n, C)`` each, to ``(rounds,)`` float64: the mean over ``K``.

    ``2 E|x - y| - E|x - x'| - E|y - y'|`` (Szekely and Rizzo 2013) without self-distances; it can be negative.
    """
    x, y = samples.double(), targets.double()
    return (2 * _distances(x, y).mean((-2, -1)) - _mean_within(x) - _mean_within(y)).mean(1)


def _distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _mean_within(x: Tensor) -> Tensor:
    count = x.shape[-2]
    return _distances(x, x).sum((-2, -1)) / (count * (count - 1))
