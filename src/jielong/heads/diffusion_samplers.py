"""Samplers of the reverse diffusion process, under the names of ``diffusers``.

``x = a x_0 + s e`` has any shape and stays float32; coefficients are computed in float64. All start from standard normal ``x`` and evaluate
the network once at each level of the ``plan``, but for :func:`heun`. ``on_state`` receives ``x`` after each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from jielong.heads.base import StateCallback, ignore_state
from jielong.heads.diffusion_schedule import Level, Schedule


@dataclass(frozen=True)
class Denoised:
    """The network's estimates at ``x = a x_0 + s e``; of shape ``x``."""

    data: Tensor  # x_0
    noise: Tensor  # e
    fraction: Tensor | None = None  # position of the log-variance between the smallest (0) and the largest (1) of a reverse step; None is 0


Denoise = Callable[[Tensor, Level], Denoised]
"""``x`` at a level to estimates."""
Normal = Callable[[], Tensor]
"""Draws standard normal numbers of ``x``'s shape."""


def ddpm(
    denoise: Denoise, x: Tensor, plan: Schedule, normal: Normal, temperature: float = 1.0, on_state: StateCallback = ignore_state
) -> Tensor:
    """Ancestral steps ``x <- mean of q(x_{k-1} | x_k, x_0) + temperature sigma_k z`` (DDPM, algorithm 2); the last adds no noise.

    ``log sigma_k^2`` lies between those of ``beta~_k`` and ``beta_k`` at the predicted fraction (2102.09672, equation 15), or at the first.

    Args:
        denoise: The network.
        x: Standard normal noise.
        plan: The steps.
        normal: Noise of the steps.
        temperature: Multiplies the noise of the steps, not the initial noise (MAR, arXiv 2406.11838, section 3.2).
        on_state: Called with ``x`` after every step.
    """
    columns = (each.flip(0).tolist() for each in (plan.of_data, plan.of_noisy, plan.log_variance, plan.log_betas))
    for step, (level, of_data, of_noisy, least, most) in enumerate(zip(plan.levels()[:-1], *columns, strict=True)):
        output = denoise(x, level)
        x = of_data * output.data + of_noisy * x
        if step < len(plan) - 1 and temperature > 0:
            log_variance = torch.as_tensor(least) if output.fraction is None else least + (most - least) * output.fraction
            x = x + temperature * torch.exp(log_variance / 2).to(x) * normal()
        on_state(x)
    return x


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
    for level, (now, then) in zip(plan.levels(), pairwise(kept), strict=False):
        output = denoise(x, level)
        sigma = eta * ((1 - then) / (1 - now) * (1 - now / then)) ** 0.5
        x = then**0.5 * output.data + max(1 - then - sigma**2, 0.0) ** 0.5 * output.noise
        if sigma > 0 and temperature > 0:
            x = x + temperature * sigma * normal()
        on_state(x)
    return x


@dataclass(frozen=True)
class Churn:
    """Noise that is added before a step, which then removes more (EDM, arXiv 2206.00364, algorithm 2)."""

    amount: float  # S_churn; over all steps
    least: float  # S_tmin, of s / a, and so is the next
    most: float  # S_tmax
    scale: float  # S_noise times the temperature
    level_at: Callable[[float], Level]  # the level at s / a
    normal: Normal

    def apply(self, y: Tensor, level: Level, steps: int) -> tuple[Tensor, Level]:
        """``y = x / a`` with more noise, and its level: ``s / a`` grows by ``gamma = min(S_churn / N, sqrt(2) - 1)``."""
        sigma = level.sigma
        if not self.amount or not self.least <= sigma <= self.most:
            return y, level
        raised = (1 + min(self.amount / steps, 2**0.5 - 1)) * sigma
        return y + (raised**2 - sigma**2) ** 0.5 * self.scale * self.normal(), self.level_at(raised)


def euler(denoise: Denoise, x: Tensor, plan: Schedule, churn: Churn | None = None, on_state: StateCallback = ignore_state) -> Tensor:
    """Euler's method on ``dy / d sigma = (y - x_0(y, sigma)) / sigma`` with ``y = x / a`` and ``sigma = s / a``; see :func:`heun`.

    Without churn it is :func:`ddim` without noise, but for the start: ``y = sigma z`` where that takes ``x = z``.
    """
    return _integrated(denoise, x, plan, churn, on_state, corrected=False)


def heun(denoise: Denoise, x: Tensor, plan: Schedule, churn: Churn | None = None, on_state: StateCallback = ignore_state) -> Tensor:
    """Heun's method on the equation of :func:`euler` (EDM, algorithm 1; with ``churn``, 2): ``2 n - 1`` evaluations for ``n`` levels.

    The last step, to ``sigma = 0``, takes one evaluation and the others two. ``on_state`` is called with ``a y``, of the tokens' variance.
    """
    return _integrated(denoise, x, plan, churn, on_state, corrected=True)


def _integrated(denoise: Denoise, x: Tensor, plan: Schedule, churn: Churn | None, on_state: StateCallback, corrected: bool) -> Tensor:
    def slope(y: Tensor, level: Level) -> Tensor:
        return (y - denoise(level.signal * y, level).data) / level.sigma

    levels = plan.levels()
    y = levels[0].sigma * x
    for now, then in pairwise(levels):
        if churn is not None:
            y, now = churn.apply(y, now, len(plan))
        step, first = then.sigma - now.sigma, slope(y, now)
        end = y + step * first
        y = y + step * (first + slope(end, then)) / 2 if corrected and then.spread else end
        on_state(then.signal * y)
    return y


def dpmpp_2m(denoise: Denoise, x: Tensor, plan: Schedule, on_state: StateCallback = ignore_state) -> Tensor:
    """DPM-Solver++(2M): second order by the estimate of the step before (arXiv 2211.01095, algorithm 2); the last step is of first."""
    step: _Step | None = None
    for now, then in pairwise(plan.levels()):
        step = _Step(x, now, denoise(x, now).data, step)
        x = step.predicted(then)
        on_state(x)
    return x


def unipc(denoise: Denoise, x: Tensor, plan: Schedule, on_state: StateCallback = ignore_state) -> Tensor:
    """UniPC of second order, B2 (arXiv 2302.04867): the predictor of :func:`dpmpp_2m`, corrected by the estimate at its end.

    That estimate is the next step's, so a step takes one evaluation; the last step is not corrected.
    """
    step: _Step | None = None
    for now, then in pairwise(plan.levels()):
        data = denoise(x, now).data
        if step is not None:
            x = step.corrected(data, now)
        step = _Step(x, now, data, step)
        x = step.predicted(then)
        on_state(x)
    return x


class _Step:
    """A step in ``l = ln(a / s)`` from ``x`` at a level with its estimate of ``x_0``, by that of the step before."""

    def __init__(self, x: Tensor, level: Level, data: Tensor, before: _Step | None) -> None:
        self.x, self.level, self.data = x, level, data
        self.other = None if before is None else (before.level.log_ratio, before.data)

    def predicted(self, then: Level) -> Tensor:
        """``s' / s x - a' (e^-h - 1) D``, with ``D`` on the line through both estimates, at the middle of the step of size ``h``."""
        data, here = self.data, self.level.log_ratio
        if self.other is not None and then.spread:
            before, other = self.other
            data = data + (then.log_ratio - here) / (here - before) / 2 * (data - other)
        return self._constant(data, then)

    def corrected(self, data: Tensor, then: Level) -> Tensor:
        """The end of the step by the estimate there too (UniPC, equation 5 with ``B(h) = e^h - 1``)."""
        here, h = self.level.log_ratio, then.log_ratio - self.level.log_ratio
        whole, change = math.expm1(-h), data - self.data
        if self.other is None:
            change = change / 2
        else:
            before, other = self.other
            ratio = (before - here) / h
            second = whole / -h - 1
            first, third = second / whole, 2 * (second / -h - 0.5) / whole
            share = (first - third) / (1 - ratio)
            change = share / ratio * (other - self.data) + (first - share) * change
        return self._constant(self.data, then) - then.signal * whole * change

    def _constant(self, data: Tensor, then: Level) -> Tensor:
        """The exact solution for a constant ``x_0``."""
        return then.spread / self.level.spread * self.x - then.signal * math.expm1(self.level.log_ratio - then.log_ratio) * data
