"""Do two sets of vectors come from one distribution? The energy distance, with a bound on what chance makes of it.

    E = 2 mean|x - y| - mean|x - x'| - mean|y - y'|           (Szekely & Rizzo 2013; all pairs, those of a vector with itself too)

is zero in the limit if and only if the distributions agree. If they do, ``T = E n m / (n + m)`` follows ``sum_i l_i chi^2_1`` with the
eigenvalues ``l`` of the doubly centred matrix ``-|z - z'| / (n + m)`` over both sets together (Gretton et al. 2009, for the kernel
``-|z - z'|``), and

    P(T > sum l + 2 |l|_2 sqrt(u) + 2 max l u) < exp(-u)      (Laurent & Massart 2000, lemma 1)

so that a right implementation is called wrong with a probability that is named and not guessed from a few permutations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ALARM = 1e-6
"""Probability of calling equal distributions different."""


@dataclass(frozen=True)
class Gap:
    """How far apart two samples are.

    Attributes:
        distance: The energy distance ``E``, in units of the vectors.
        bound: What chance alone exceeds with a probability below the alarm.
    """

    distance: float
    bound: float

    @property
    def by_chance(self) -> bool:
        """Whether chance explains the distance."""
        return self.distance <= self.bound


def gap(found: Tensor, exact: Tensor, alarm: float = ALARM) -> Gap:
    """The distance of two samples, ``(n, C)`` and ``(m, C)``; a thousand vectors each take a fifth of a second."""
    n, m = len(found), len(exact)
    both = torch.cat([found, exact]).double()
    apart = torch.cdist(both, both, compute_mode="donot_use_mm_for_euclid_dist")
    across, within_found, within_exact = apart[:n, n:].mean(), apart[:n, :n].mean(), apart[n:, n:].mean()
    kernel = -apart
    centred = kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()
    eigenvalues = torch.linalg.eigvalsh(centred / (n + m)).clamp_min(0)
    u = -math.log(alarm)
    most = eigenvalues.sum() + 2 * eigenvalues.norm() * math.sqrt(u) + 2 * eigenvalues.max() * u
    return Gap(float(2 * across - within_found - within_exact), float(most * (n + m) / (n * m)))


def assert_same_distribution(found: Tensor, exact: Tensor) -> None:
    """Fail if chance does not explain how far apart the samples are."""
    measured = gap(found.detach(), exact.detach())
    assert measured.by_chance, f"energy distance {measured.distance:.4g}, where chance stays below {measured.bound:.4g}"
