"""Samplers of the reverse diffusion process.

``x`` has any shape and stays float32; coefficients are computed in float64. ``on_state`` receives ``x`` after each step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from jielong.heads.base import StateCallback, ignore_state
from jielong.heads.diffusion_schedule import Schedule


@dataclass(frozen=True)
class Denoised:
    """The network's estimates at ``x = a x_0 + s e``; of shape ``x``."""

    data: Tensor  # x_0
    noise: Tensor  # e
    fraction: Tensor | None = None  # position of the log-variance between the smallest (0) and the largest (1) of a reverse step; None is 0


Denoise = Callable[[Tensor, float, float, float], Denoised]
"""``(x, time, a, s)`` to estimates."""
Normal = Callable[[], Tensor]
"""Draws standard normal numbers of ``x``'s shape."""


def ddpm(
    denoise: Denoise, x: Tensor, plan: Schedule, normal: Normal, temperature: float = 1.0, on_state: StateCallback = ignore_state
) -> Tensor:
    """Ancestral steps ``x <- mean of q(x_{k-1} | x_k, x_0) + temperature sigma_k z`` (DDPM, algorithm 2); the last adds no noise.

    ``log sigma_k^2`` lies between those of ``beta~_k`` and ``beta_k`` at the predicted fraction (2102.09672, equation 15), or at the first.

    Args:
        x: Standard normal noise.
        plan: The steps, one evaluation each.
        temperature: Multiplies the noise of the steps, not the initial noise (MAR, arXiv 2406.11838, section 3.2).
        on_state: Called with ``x`` after every step.
    """
    rows = zip(*(each.tolist() for each in _steps_back(plan)), strict=True)
    for step, (time, signal, spread, of_data, of_noisy, least, most) in enumerate(rows):
        output = denoise(x, time, signal, spread)
        x = of_data * output.data + of_noisy * x
        if step < len(plan) - 1 and temperature > 0:
            log_variance = torch.as_tensor(least) if output.fraction is None else least + (most - least) * output.fraction
            x = x + temperature * torch.exp(log_variance / 2).to(x) * normal()
        on_state(x)
    return x


def _steps_back(plan: Schedule) -> list[Tensor]:
    columns = plan.times, plan.signal, plan.spread, plan.of_data, plan.of_noisy, plan.log_variance, plan.log_betas
    return [column.flip(0) for column in columns]


def ddim(
    denoise: Denoise,
    x: Tensor,
    plan: Schedule,
    normal: Normal,
    temperature: float = 1.0,
    eta: float = 0.0,
    on_state: StateCallback = ignore_state,
) -> Tensor:
    """``x <- a' x_0 + sqrt(s'^2 - sigma^2) e + temperature sigma z`` (2010.02502, equations 12 and 16); ``a'`` and ``s'`` are the
    next step's.

    ``sigma = eta s' / s sqrt(1 - a^2 / a'^2)``: 0 adds no noise and 1 as much as :func:`ddpm` at the smaller variance.

    Arguments as of :func:`ddpm`; ``eta``: amount of noise.
    """
    kept = [*plan.kept.flip(0).tolist(), 1.0]
    for time, (now, then) in zip(plan.times.flip(0).tolist(), pairwise(kept), strict=True):
        output = denoise(x, time, now**0.5, (1 - now) ** 0.5)
        sigma = eta * ((1 - then) / (1 - now) * (1 - now / then)) ** 0.5
        x = then**0.5 * output.data + max(1 - then - sigma**2, 0.0) ** 0.5 * output.noise
        if sigma > 0 and temperature > 0:
            x = x + temperature * sigma * normal()
        on_state(x)
    return x


def edm(
    denoise: Denoise, x: Tensor, schedule: Schedule, evaluations: int, rho: float = 7.0, on_state: StateCallback = ignore_state
) -> Tensor:
    """Heun's method on ``dy / d sigma = (y - x_0(y, sigma)) / sigma`` (EDM, arXiv 2206.00364, algorithm 1 without churn).

    Change of variables from a variance-preserving schedule (its table 1): ``y = x / a`` and ``sigma = s / a``, so the network reads ``a y``
    with ``a = 1 / sqrt(1 + sigma^2)``, at the schedule's (interpolated) time of ``sigma``. The levels are
    ``(sigma_max^(1/rho) + i / (n - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho``, then 0. The last interval takes one evaluation and
    the others two: ``2 n - 1`` in all.

    Args:
        x: Standard normal noise.
        evaluations: Maximum number; an even number leaves one unused.
        rho: Concentration of the levels near the data.
        on_state: Called after every interval with ``a y``, which has the tokens' variance at every level.
    """
    most, least = (float(each) ** (1 / rho) for each in (schedule.sigma[-1], schedule.sigma[0]))
    levels = max(1, (evaluations + 1) // 2)
    sigmas = [(most + index / max(levels - 1, 1) * (least - most)) ** rho for index in range(levels)]

    def signal_at(sigma: float) -> float:
        return float((1 + sigma**2) ** -0.5)

    def slope(y: Tensor, sigma: float) -> Tensor:
        signal = signal_at(sigma)
        return (y - denoise(signal * y, schedule.time_at(sigma), signal, sigma * signal).data) / sigma

    y = sigmas[0] * x
    for sigma, after in pairwise([*sigmas, 0.0]):
        first = slope(y, sigma)
        end = y + (after - sigma) * first
        y = y + (after - sigma) * (first + slope(end, after)) / 2 if after > 0 else end
        on_state(signal_at(after) * y)
    return y
