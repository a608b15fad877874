"""Noise that a diffusion head is trained at, and the levels of sampling (EDM, arXiv 2206.00364; DDPM's steps).

All samplers work in ``x = a x_0 + s e`` with ``a^2 + s^2 = 1`` and tokens ``x_0`` of unit deviation. EDM writes ``y = d x_0 + sigma e`` for
data of deviation ``d`` (``sigma_data``): ``x = y / sqrt(sigma^2 + d^2) = c_in y`` is what its network reads, and ``s / a = sigma / d``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from pydantic import Field, model_validator
from torch import Tensor

from jielong.config.registry import Config
from jielong.core.rng import Draws
from jielong.heads.diffusion_schedule import Level, Schedule, Spacing

RHO = 7.0
"""Concentration of the levels near the data."""


def karras(most: float, least: float, count: int, rho: float = RHO) -> list[float]:
    """``(most^(1/rho) + i / (n - 1) (least^(1/rho) - most^(1/rho)))^rho``: ``n`` noise levels, decreasing (EDM, equation 5)."""
    first, last = most ** (1 / rho), least ** (1 / rho)
    return [(first + index / max(count - 1, 1) * (last - first)) ** rho for index in range(count)]


class EDM(Config):
    """Noise and preconditioning of ``prediction: edm``: ``D(y) = c_skip y + c_out F(c_in y, c_noise)`` (EDM, equation 7 and table 1).

    Attributes:
        mean: Mean of ``ln sigma`` in training.
        std: Standard deviation of ``ln sigma`` in training.
        sigma_data: Deviation to which tokens are scaled, in whose units ``sigma`` is: 0.5 as pictures have in [-1, 1].
        sigma_min: Least noise of sampling.
        sigma_max: Noise that sampling starts from.
        rho: Concentration of the levels of sampling near the data (:func:`karras`).
    """

    mean: float = -1.2
    std: float = Field(default=1.2, gt=0)
    sigma_data: float = Field(default=0.5, gt=0)
    sigma_min: float = Field(default=0.002, gt=0)
    sigma_max: float = Field(default=80.0, gt=0)
    rho: float = Field(default=RHO, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> EDM:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min must be below sigma_max, but they are {self.sigma_min} and {self.sigma_max}")
        return self

    def draw(self, draws: Draws) -> Tensor:
        """``sigma`` of each row, log-normal, ``(M,)`` float32."""
        return torch.exp(self.mean + self.std * draws.normal())

    def c_skip(self, sigma: Tensor) -> Tensor:
        """``d^2 / (sigma^2 + d^2)``."""
        return self.sigma_data**2 / (sigma**2 + self.sigma_data**2)

    def c_out(self, sigma: Tensor) -> Tensor:
        """``sigma d / sqrt(sigma^2 + d^2)``."""
        return sigma * self.sigma_data / (sigma**2 + self.sigma_data**2).sqrt()

    def c_in(self, sigma: Tensor) -> Tensor:
        """``1 / sqrt(sigma^2 + d^2)``."""
        return 1 / (sigma**2 + self.sigma_data**2).sqrt()

    def c_noise(self, sigma: Tensor) -> Tensor:
        """``ln(sigma) / 4``."""
        return sigma.log() / 4

    def weight(self, sigma: Tensor) -> Tensor:
        """``(sigma^2 + d^2) / (sigma d)^2``: the weight of ``|D - y_0|^2``, by which the error of ``F`` has weight 1."""
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


class NoiseLevels(ABC):
    """The noise that a head was trained at."""

    @property
    def unit(self) -> float:
        """Deviation of the data in whose units the settings' ``sigma`` is; ``s / a`` is ``sigma / unit``."""
        return 1.0

    @abstractmethod
    def plan(self, count: int, karras: bool) -> Schedule:
        """``count`` levels of sampling: EDM's where ``karras``, else even in time where there are steps of training.

        Raises ``ValueError`` for more than those.
        """

    @abstractmethod
    def time_at(self, ratio: float) -> float:
        """The network's input at ``s / a``."""

    def level_at(self, ratio: float) -> Level:
        """The level at ``s / a``."""
        signal = float((1 + ratio**2) ** -0.5)
        return Level(self.time_at(ratio), signal, ratio * signal)

    def spaced(self, most: float, least: float, count: int, rho: float = RHO) -> Schedule:
        """EDM's levels between two values of ``s / a``."""
        rising = [self.level_at(ratio) for ratio in reversed(karras(most, least, count, rho))]
        kept = torch.tensor([level.signal**2 for level in rising], dtype=torch.float64)
        return Schedule(kept, torch.tensor([level.time for level in rising], dtype=torch.float64))


@dataclass(frozen=True)
class TrainedSteps(NoiseLevels):
    """Steps of a training schedule, of which sampling takes some."""

    schedule: Schedule
    spacing: Spacing = "linspace"
    offset: int = 0

    def plan(self, count: int, karras: bool) -> Schedule:
        """See :meth:`NoiseLevels.plan`."""
        if karras:
            return self.spaced(float(self.schedule.sigma[-1]), float(self.schedule.sigma[0]), count)
        return self.schedule.respaced(count, self.spacing, self.offset)

    def time_at(self, ratio: float) -> float:
        """See :meth:`NoiseLevels.time_at`; interpolated between steps."""
        return self.schedule.time_at(ratio)


@dataclass(frozen=True)
class LogNormalNoise(NoiseLevels):
    """Noise of any level, log-normal in training."""

    settings: EDM

    @property
    def unit(self) -> float:
        """See :attr:`NoiseLevels.unit`."""
        return self.settings.sigma_data

    def plan(self, count: int, karras: bool) -> Schedule:
        """See :meth:`NoiseLevels.plan`."""
        edm = self.settings
        return self.spaced(edm.sigma_max / self.unit, edm.sigma_min / self.unit, count, edm.rho)

    def time_at(self, ratio: float) -> float:
        """See :meth:`NoiseLevels.time_at`."""
        return math.log(ratio * self.unit) / 4
