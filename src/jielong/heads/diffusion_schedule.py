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

Kind = Literal["cosine", "linear", "scaled_linear"]
Spacing = Literal["linspace", "leading", "trailing"]
"""Which of the training steps sampling takes, under the names of ``diffusers`` (arXiv 2305.08891, table 2)."""
ENDS = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012)}
"""First and last ``beta`` of these schedules."""
TRAINED = 1000
"""Training steps ``T``."""


def betas_of(kind: Kind, steps: int = TRAINED, ends: tuple[float, float] | None = None) -> Tensor:
    """``beta_t``, ``(T,)``.

    ``linear``: from 1e-4 to 0.02 in 1000 steps, as DDPM. ``scaled_linear``: linear in the square root, from 0.00085 to 0.012, as Stable
    Diffusion (arXiv 2112.10752). ``cosine``: ``abar(t)`` is proportional to ``cos^2((t / T + 0.008) / 1.008 pi / 2)``, and ``beta_t`` at
    most 0.999 (improved DDPM, equation 17). ``ends``: others than those, of the first two.
    """
    if kind in ENDS:
        (first, last), power = ends or ENDS[kind], 2 if kind == "scaled_linear" else 1
        return torch.linspace(first ** (1 / power), last ** (1 / power), steps, dtype=torch.float64) ** power * (1000 / steps)
    fraction = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    kept = torch.cos((fraction + 0.008) / 1.008 * math.pi / 2).square()
    return (1 - kept[1:] / kept[:-1]).clamp_max(0.999)


@dataclass(frozen=True)
class Level:
    """A noise level: ``x = a x_0 + s e`` with ``a^2 + s^2 = 1``, and the number by which the network is given it."""

    time: float
    signal: float  # a; 0 for pure noise
    spread: float  # s; 0 for data

    @property
    def sigma(self) -> float:
        """``s / a``."""
        return self.spread / self.signal

    @property
    def log_ratio(self) -> float:
        """``ln(a / s)``: half the logarithm of the signal-to-noise ratio."""
        if not self.signal or not self.spread:
            return math.inf if self.signal else -math.inf
        return math.log(self.signal / self.spread)


DATA = Level(0.0, 1.0, 0.0)
"""Where sampling ends; no network is evaluated there."""


@dataclass(frozen=True)
class Schedule:
    """A sequence of steps of increasing noise."""

    kept: Tensor  # abar, (n,), decreasing
    times: Tensor  # input of the network, (n,): t / T

    @staticmethod
    def of(kind: Kind, steps: int = TRAINED, ends: tuple[float, float] | None = None) -> Schedule:
        """The training steps; ``ends``: see :func:`betas_of`."""
        return Schedule((1 - betas_of(kind, steps, ends)).cumprod(0), torch.arange(steps, dtype=torch.float64) / steps)

    def __len__(self) -> int:
        return len(self.kept)

    def respaced(self, steps: int, spacing: Spacing = "linspace", offset: int = 0) -> Schedule:
        """Some of these steps, evenly spaced, with their noise and time (2102.09672, section 4); a single one is the last.

        ``linspace`` takes the first and the last; ``leading`` every ``T // steps``-th from ``offset`` on; ``trailing`` every
        ``T / steps``-th down from the last.

        Raises ``ValueError`` for more steps than there are.
        """
        if steps > len(self):
            raise ValueError(
                f"{steps} sampling steps are more than the {len(self)} training steps of the noise schedule (up to `start`, if it is set): "
                f"set at most {len(self)}"
            )
        if spacing == "linspace":
            index = torch.linspace(len(self) - 1, 0, steps, dtype=torch.float64).round().long().flip(0)
        elif spacing == "leading":
            index = (torch.arange(steps) * (len(self) // steps) + offset).clamp_max(len(self) - 1).unique()
        else:
            index = torch.arange(steps, 0, -1, dtype=torch.float64).mul(len(self) / steps).round().long().flip(0) - 1
        return Schedule(self.kept[index], self.times[index])

    def first(self, share: float) -> Schedule:
        """A share of the steps, those of least noise, and at least one."""
        count = max(1, round(share * len(self)))
        return self if count == len(self) else Schedule(self.kept[:count], self.times[:count])

    def up_to(self, sigma: float) -> Schedule:
        """The steps at which noise over signal is at most ``sigma``, and at least the first."""
        count = max(1, int((self.sigma <= sigma).sum()))
        return Schedule(self.kept[:count], self.times[:count])

    def levels(self) -> list[Level]:
        """The steps from most noise to least, as sampling takes them, and then the data."""
        columns = zip(self.times.flip(0).tolist(), self.signal.flip(0).tolist(), self.spread.flip(0).tolist(), strict=True)
        return [*(Level(*row) for row in columns), DATA]

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
