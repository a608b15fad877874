"""How much of a token is left after so many steps of noise, and what follows for the way back (DDPM, arXiv 2006.11239; 2102.09672).

Step ``t`` of ``T`` (the first is 0 and has noise already) leaves ``x_t = a_t x_0 + s_t e`` with ``e ~ N(0, I)``:

    abar_t = prod_{i <= t} (1 - beta_i),    a_t = sqrt(abar_t),    s_t = sqrt(1 - abar_t)

Everything here is float64 on the CPU, a number a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["cosine", "linear"]
TRAINED = 1000
"""Steps ``T`` of training."""


def betas_of(kind: Kind, steps: int = TRAINED) -> Tensor:
    """The variance ``beta_t`` that each step adds, ``(T,)``.

    ``linear``: from 1e-4 to 0.02 in 1000 steps, as DDPM. ``cosine``: such that ``abar(t)`` is ``cos^2((t / T + 0.008) / 1.008 pi / 2)``
    over the same at 0, and at most 0.999 (improved DDPM, equation 17).
    """
    if kind == "linear":
        return torch.linspace(1e-4, 0.02, steps, dtype=torch.float64) * (1000 / steps)
    share = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    kept = torch.cos((share + 0.008) / 1.008 * math.pi / 2).square()
    return (1 - kept[1:] / kept[:-1]).clamp_max(0.999)


@dataclass(frozen=True)
class Schedule:
    """Some steps, from little noise to much; see :meth:`of` and :meth:`respaced`.

    Attributes:
        kept: ``abar``, ``(n,)``, falling.
        times: What the network is told of each step, ``(n,)``: ``t / T`` of the ``T`` steps of training.
    """

    kept: Tensor
    times: Tensor

    @staticmethod
    def of(kind: Kind, steps: int = TRAINED) -> Schedule:
        """The steps of training."""
        return Schedule((1 - betas_of(kind, steps)).cumprod(0), torch.arange(steps, dtype=torch.float64) / steps)

    def __len__(self) -> int:
        return len(self.kept)

    def respaced(self, steps: int) -> Schedule:
        """``n`` of these steps, evenly spread from the first to the last, which keep their noise and their time (2102.09672, section 4).

        One alone is the last. More than there are cannot be asked for: then it is all of them.
        """
        places = torch.linspace(len(self) - 1, 0, min(steps, len(self)), dtype=torch.float64).round().long().flip(0)
        return Schedule(self.kept[places], self.times[places])

    def up_to(self, sigma: float) -> Schedule:
        """The steps at which noise over signal is at most ``sigma``, and at least the first."""
        count = max(1, int((self.sigma <= sigma).sum()))
        return Schedule(self.kept[:count], self.times[:count])

    @property
    def before(self) -> Tensor:
        """``abar`` of the step before; 1, no noise, before the first."""
        return torch.cat([self.kept.new_ones(1), self.kept[:-1]])

    @property
    def betas(self) -> Tensor:
        """``beta_k = 1 - abar_k / abar_{k-1}``: of steps left out, what they add together."""
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
        """``s / a``: noise over signal, as EDM counts it."""
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

        The first step's is 0 and has no logarithm: it takes the second's in its place, as improved DDPM does, or ``beta`` if it is alone.
        """
        variance = self.betas * (1 - self.before) / (1 - self.kept)
        return torch.cat([variance[1:2] if len(self) > 1 else self.betas[:1], variance[1:]]).log()

    @property
    def log_betas(self) -> Tensor:
        """``log beta_k``: the largest variance that a step back can need."""
        return self.betas.log()

    def time_at(self, sigma: float) -> float:
        """The time at which noise over signal is ``sigma``, between steps in a straight line over ``log sigma``; at the ends, theirs."""
        logs, wanted = self.sigma.log(), math.log(sigma)
        place = int(torch.searchsorted(logs, wanted).clamp(1, len(self) - 1))
        low, high = float(logs[place - 1]), float(logs[place])
        share = min(max((wanted - low) / (high - low), 0.0), 1.0)
        return float(torch.lerp(self.times[place - 1], self.times[place], share))
