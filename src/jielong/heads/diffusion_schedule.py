"""Noise schedules of diffusion and the coefficients of reverse steps (DDPM, arXiv 2006.11239; 2102.09672).

Step ``t`` of ``T`` (0 is the first noisy one) gives ``x_t = a_t x_0 + s_t e`` with ``e ~ N(0, I)``:

    abar_t = prod_{i <= t} (1 - beta_i),    a_t = sqrt(abar_t),    s_t = sqrt(1 - abar_t)

All tensors are float64 on the CPU, one number per step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["cosine", "linear"]
TRAINED = 1000
"""Training steps ``T``."""


def betas_of(kind: Kind, steps: int = TRAINED) -> Tensor:
    """``beta_t``, ``(T,)``.

    ``linear``: from 1e-4 to 0.02 in 1000 steps, as DDPM. ``cosine``: ``abar(t)`` is proportional to
    ``cos^2((t / T + 0.008) / 1.008 pi / 2)``, and ``beta_t`` at most 0.999 (improved DDPM, equation 17).
    """
    if kind == "linear":
        return torch.linspace(1e-4, 0.02, steps, dtype=torch.float64) * (1000 / steps)
    fraction = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    kept = torch.cos((fraction + 0.008) / 1.008 * math.pi / 2).square()
    return (1 - kept[1:] / kept[:-1]).clamp_max(0.999)


@dataclass(frozen=True)
class Schedule:
    """A sequence of steps of increasing noise."""

    kept: Tensor  # abar, (n,), decreasing
    times: Tensor  # input of the network, (n,): t / T

    @staticmethod
    def of(kind: Kind, steps: int = TRAINED) -> Schedule:
        """The training steps."""
        return Schedule((1 - betas_of(kind, steps)).cumprod(0), torch.arange(steps, dtype=torch.float64) / steps)

    def __len__(self) -> int:
        return len(self.kept)

    def respaced(self, steps: int) -> Schedule:
        """At most ``steps`` of these, evenly spaced, with their noise and time (2102.09672, section 4); a single one is the last."""
        index = torch.linspace(len(self) - 1, 0, min(steps, len(self)), dtype=torch.float64).round().long().flip(0)
        return Schedule(self.kept[index], self.times[index])

    def up_to(self, sigma: float) -> Schedule:
        """The steps at which noise over signal is at most ``sigma``, and at least the first."""
        count = max(1, int((self.sigma <= sigma).sum()))
        return Schedule(self.kept[:count], self.times[:count])

    @property
    def before(self) -> Tensor:
        """``abar`` of the previous step; 1 before the first."""
        return torch.cat([self.kept.new_ones(1), self.kept[:-1]])

    @property
    def betas(self) -> Tensor:
        """``beta_k = 1 - abar_k / abar_{k-1}``, between the steps of this sequence."""
        return 1 - self.kept / self.before

    @property
    def signal(self) -> Tensor:
        """``a``."""
        return self.kept.sqrt()

    @property
    def spread(self) -> Tensor:
        """``s``."""
        return (1 - self.kept).sqrt()

    @property
    def sigma(self) -> Tensor:
        """``s / a``: EDM's noise level."""
        return self.spread / self.signal

    @property
    def of_data(self) -> Tensor:
        """``sqrt(abar_{k-1}) beta_k / (1 - abar_k)``: the weight of ``x_0`` in the mean of ``q(x_{k-1} | x_k, x_0)`` (DDPM, equation 7)."""
        return self.before.sqrt() * self.betas / (1 - self.kept)

    @property
    def of_noisy(self) -> Tensor:
        """``sqrt(1 - beta_k) (1 - abar_{k-1}) / (1 - abar_k)``: the weight of ``x_k`` in that mean."""
        return (1 - self.betas).sqrt() * (1 - self.before) / (1 - self.kept)

    @property
    def log_variance(self) -> Tensor:
        """Logarithm of the variance of ``q(x_{k-1} | x_k, x_0)``, ``beta_k (1 - abar_{k-1}) / (1 - abar_k)``.

        That of the first step is 0: as in improved DDPM it is replaced by the second's, or by ``beta`` if there is no second.
        """
        variance = self.betas * (1 - self.before) / (1 - self.kept)
        return torch.cat([variance[1:2] if len(self) > 1 else self.betas[:1], variance[1:]]).log()

    @property
    def log_betas(self) -> Tensor:
        """``log beta_k``: the largest variance of a reverse step."""
        return self.betas.log()

    def time_at(self, sigma: float) -> float:
        """The time at which ``s / a`` is ``sigma``, interpolated linearly in ``log sigma`` and clamped to the steps."""
        logs, target = self.sigma.log(), math.log(sigma)
        index = int(torch.searchsorted(logs, target).clamp(1, len(self) - 1))
        low, high = float(logs[index - 1]), float(logs[index])
        fraction = min(max((target - low) / (high - low), 0.0), 1.0)
        return float(torch.lerp(self.times[index - 1], self.times[index], fraction))
