"""Ways back from noise to a token, given a network that says what it thinks of any noisy token.

All take and give ``x`` of any shape, and tell ``see`` of it after each step. Coefficients are numbers made in float64; ``x`` stays in
float32.
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
class Guess:
    """What the network makes of ``x = a x_0 + s e``; of shape ``x``.

    Attributes:
        data: Its ``x_0``.
        noise: Its ``e``.
        share: How far the logarithm of the variance is from the smallest (0) to the largest (1) a step back can have; ``None`` is at 0.
    """

    data: Tensor
    noise: Tensor
    share: Tensor | None = None


Look = Callable[[Tensor, float, float, float], Guess]
"""``(x, time, a, s)`` to what is seen in it."""
Normal = Callable[[], Tensor]
"""Draws normal numbers of ``x``'s shape."""


def ddpm(look: Look, x: Tensor, plan: Schedule, normal: Normal, temperature: float = 1.0, on_state: StateCallback = ignore_state) -> Tensor:
    """Ancestral steps ``x <- mean of q(x_{k-1} | x_k, x_0) + temperature sigma_k z`` (DDPM, algorithm 2); the last adds no noise.

    ``log sigma_k^2`` lies between those of ``beta~_k`` and ``beta_k``, where the network says (2102.09672, equation 15), or at the first.

    Args:
        look: The network.
        x: Standard normal noise.
        plan: The steps, each one evaluation.
        normal: Noise of the steps.
        temperature: Multiplies the noise of the steps, not that which is given (MAR, arXiv 2406.11838, section 3.2).
        on_state: Called with ``x`` after every step.
    """
    rows = zip(*(each.tolist() for each in _steps_back(plan)), strict=True)
    for step, (time, signal, spread, of_data, of_noisy, least, most) in enumerate(rows):
        guess = look(x, time, signal, spread)
        x = of_data * guess.data + of_noisy * x
        if step < len(plan) - 1 and temperature > 0:
            log_variance = torch.as_tensor(least) if guess.share is None else least + (most - least) * guess.share
            x = x + temperature * torch.exp(log_variance / 2).to(x) * normal()
        on_state(x)
    return x


def _steps_back(plan: Schedule) -> list[Tensor]:
    columns = plan.times, plan.signal, plan.spread, plan.of_data, plan.of_noisy, plan.log_variance, plan.log_betas
    return [column.flip(0) for column in columns]


def ddim(
    look: Look,
    x: Tensor,
    plan: Schedule,
    normal: Normal,
    temperature: float = 1.0,
    eta: float = 0.0,
    on_state: StateCallback = ignore_state,
) -> Tensor:
    """``x <- a' x_0 + sqrt(s'^2 - sigma^2) e + temperature sigma z`` (2010.02502, equations 12 and 16); ``a'`` and ``s'`` are one step on.

    ``sigma = eta s' / s sqrt(1 - a^2 / a'^2)``: 0 adds no noise and 1 as much as :func:`ddpm` at the smaller variance.

    Args:
        look: The network.
        x: Standard normal noise.
        plan: The steps, each one evaluation.
        normal: Noise of the steps.
        temperature: Multiplies the noise of the steps.
        eta: How much noise they add.
        on_state: Called with ``x`` after every step.
    """
    kept = [*plan.kept.flip(0).tolist(), 1.0]
    for time, (now, then) in zip(plan.times.flip(0).tolist(), pairwise(kept), strict=True):
        guess = look(x, time, now**0.5, (1 - now) ** 0.5)
        sigma = eta * ((1 - then) / (1 - now) * (1 - now / then)) ** 0.5
        x = then**0.5 * guess.data + max(1 - then - sigma**2, 0.0) ** 0.5 * guess.noise
        if sigma > 0 and temperature > 0:
            x = x + temperature * sigma * normal()
        on_state(x)
    return x


def edm(look: Look, x: Tensor, schedule: Schedule, evaluations: int, rho: float = 7.0, on_state: StateCallback = ignore_state) -> Tensor:
    """Heun's method on ``dy / d sigma = (y - x_0(y, sigma)) / sigma`` (EDM, arXiv 2206.00364, algorithm 1 without churn).

    The change of variables from a schedule that keeps variance (its table 1): ``y = x / a`` and ``sigma = s / a``, so the network sees
    ``a y`` with ``a = 1 / sqrt(1 + sigma^2)``, at the time where the schedule has this ``sigma`` (between its steps, as a real number).
    The levels are ``(sigma_max^(1/rho) + i / (n - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho``, then 0, between the schedule's most
    and its least. The last interval has one evaluation and the others two: ``2 n - 1`` in all.

    Args:
        look: The network.
        x: Standard normal noise.
        schedule: The steps of training.
        evaluations: At most so many; an even number leaves one unused.
        rho: How much closer the levels lie near the data.
        on_state: Called after every interval with ``a y``, which unlike ``y`` has the tokens' own variance at every level.
    """
    most, least = (float(each) ** (1 / rho) for each in (schedule.sigma[-1], schedule.sigma[0]))
    levels = max(1, (evaluations + 1) // 2)
    sigmas = [(most + place / max(levels - 1, 1) * (least - most)) ** rho for place in range(levels)]

    def signal_at(sigma: float) -> float:
        return float((1 + sigma**2) ** -0.5)

    def slope(y: Tensor, sigma: float) -> Tensor:
        signal = signal_at(sigma)
        return (y - look(signal * y, schedule.time_at(sigma), signal, sigma * signal).data) / sigma

    y = sigmas[0] * x
    for sigma, after in pairwise([*sigmas, 0.0]):
        first = slope(y, sigma)
        end = y + (after - sigma) * first
        y = y + (after - sigma) * (first + slope(end, after)) / 2 if after > 0 else end
        on_state(signal_at(after) * y)
    return y
