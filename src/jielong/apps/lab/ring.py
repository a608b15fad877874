"""A ring of normals in the plane, with the velocity of flow matching in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

NEAR = 3.0
"""Standard deviations within which a point belongs to a mode: 98.9 % of a normal in the plane."""


@dataclass(frozen=True)
class Ring:
    """Normals ``N(m_k, s^2 I)`` of equal weight at even angles; each coordinate has mean 0 and standard deviation 1.

    Attributes:
        modes: Number of normals, at least three.
        sharpness: Radius of the ring over the standard deviation ``s`` of a normal.
    """

    modes: int
    sharpness: float

    @property
    def deviation(self) -> float:
        """Standard deviation ``s``: the variance of a coordinate is ``r^2 / 2 + s^2 = 1``."""
        return 1 / math.sqrt(self.sharpness**2 / 2 + 1)

    @property
    def radius(self) -> float:
        """Distance ``r`` of the means from 0."""
        return self.sharpness * self.deviation

    @cached_property
    def means(self) -> Tensor:
        """``(modes, 2)``."""
        angles = 2 * math.pi * torch.arange(self.modes) / self.modes
        return self.radius * torch.stack([angles.cos(), angles.sin()], dim=-1)

    @property
    def hidden(self) -> Tensor:
        """One hidden vector, ``(1, 1)``, as the data have no condition."""
        return torch.ones(1, 1)

    @property
    def channels(self) -> int:
        """Two."""
        return 2

    def sample(self, count: int) -> Tensor:
        """Points ``(1, count, 2)``, from torch's global generator."""
        which = torch.randint(self.modes, (count,))
        return (self.means[which] + self.deviation * torch.randn(count, 2))[None]

    def velocity(self, x: Tensor, time: float) -> Tensor:
        """``E[x_1 - x_0 | x_t = x]`` at ``x_t = (1 - t) x_0 + t x_1`` with noise ``x_0 ~ N(0, I)``: points ``(..., 2)`` to ``(..., 2)``.

        Given the mode, ``x_t ~ N(t m, c I)`` with ``c = (1 - t)^2 + t^2 s^2``, and the velocity is ``m + (t s^2 - (1 - t)) / c (x - t m)``
        (arXiv 2210.02747, Theorem 3); modes count by their posterior.
        """
        means, variance = self.means.to(x), self.deviation**2
        total = (1 - time) ** 2 + time**2 * variance
        offset = x[..., None, :] - time * means
        posterior = (-offset.square().sum(-1) / (2 * total)).softmax(-1)
        return (posterior[..., None] * (means + (time * variance - (1 - time)) / total * offset)).sum(-2)

    def mode_of(self, points: Tensor) -> Tensor:
        """The mode within :data:`NEAR` deviations of each of the points ``(..., 2)``, ``(...)`` long; -1 where there is none."""
        distance, mode = torch.cdist(points.reshape(-1, 2), self.means.to(points)).min(-1)
        return mode.masked_fill(distance > NEAR * self.deviation, -1).view(points.shape[:-1])
