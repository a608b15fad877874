"""Tokens of a distribution that is known, and how far from it a head's draws are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

STRETCHED, SPREAD, BLUR, APART = 2, 0.5, 0.1, 1.0
"""Directions along which a component is stretched, how far, its blur in all others, and how far apart components are: standard
deviations, before tokens are brought to unit deviation."""


@dataclass(frozen=True)
class Mixtures:
    """What a token may be given each of ``K`` hidden vectors: ``M`` normals of unequal weight, each stretched its own way.

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
        """Mixtures drawn at random, standardised: over all hidden vectors every number has mean 0 and standard deviation 1.

        Args:
            kinds: Hidden vectors ``K``.
            components: Normals ``M`` of each mixture.
            channels: Numbers ``C`` of a token.
            width: Of the hidden vectors.
            seed: Of all that is drawn.
        """
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        hidden, weights = normal(kinds, width), (0.5 * normal(kinds, components)).softmax(-1)
        means = APART * normal(kinds, components, channels)
        blur = (BLUR * torch.eye(channels)).expand(kinds, components, -1, -1)
        factors = torch.cat([SPREAD * normal(kinds, components, channels, STRETCHED), blur], dim=-1)
        share = weights[..., None] / kinds
        mean = (share * means).sum((0, 1))
        variance = (share * (means.square() + factors.square().sum(-1))).sum((0, 1)) - mean.square()
        scale = variance.rsqrt()
        return Mixtures(hidden, weights, (means - mean) * scale, factors * scale[:, None])

    @property
    def channels(self) -> int:
        """Numbers ``C`` of a token."""
        return self.means.shape[-1]

    def right(self, count: int) -> Tensor:
        """Tokens, ``(K, count, C)``, from torch's global generator."""
        kinds = torch.arange(len(self.weights))[:, None]
        which = torch.multinomial(self.weights, count, replacement=True)
        white = torch.randn(*which.shape, self.factors.shape[-1])
        return self.means[kinds, which] + (self.factors[kinds, which] @ white[..., None])[..., 0]

    def rounds(self, rounds: int, count: int, seed: int) -> Tensor:
        """Independent rounds of tokens, ``(rounds, K, count, C)``; torch's global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return torch.stack([self.right(count) for _ in range(rounds)])


def energy_distance(draws: Tensor, right: Tensor) -> Tensor:
    """Energy distance of draws and true tokens in each round, ``(rounds, K, n, C)`` each to ``(rounds,)`` float64: the mean over kinds.

    ``2 E|x - y| - E|x - x'| - E|y - y'|`` (Szekely and Rizzo 2013) without bias: no vector is compared with itself, so that where both are
    of one distribution the mean is 0, and single rounds may be below.
    """
    x, y = draws.double(), right.double()
    return (2 * _apart(x, y).mean((-2, -1)) - _among(x) - _among(y)).mean(1)


def _apart(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _among(x: Tensor) -> Tensor:
    count = x.shape[-2]
    return _apart(x, x).sum((-2, -1)) / (count * (count - 1))
