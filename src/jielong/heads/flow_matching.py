"""Flow matching: a velocity carries noise to the token along an ordinary differential equation (arXiv 2210.02747, 2209.03003).

Time runs from noise, ``t = 0``, to data, ``t = 1``, here and in the heads of few steps. With data ``x_1`` and noise ``x_0 ~ N(0, I)``

    x_t = (1 - t) x_0 + t x_1        the straight path
    L = |v(x_t, t, hidden) - (x_1 - x_0)|^2        whose best answer is v = E[x_1 - x_0 | x_t]
    dx / dt = v(x, t, hidden)        has the tokens' own distribution at t = 1

Papers and schedulers that count from data to noise (SD3, MeanFlow, ``sigma`` of diffusers) mean ``1 - t``, and ``-v``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from jielong.config.registry import Config
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import StateCallback, ignore_state
from jielong.heads.continuous import Evaluations, IterativeHead, IterativeSettings, Predict, mean
from jielong.networks.denoiser import AnyDenoiser

Velocity = Callable[[Tensor, float], Tensor]
"""``(x, t) -> dx / dt``."""
SLOW = 0.01
"""A factor of times for heads that compare or differentiate their network at near times: as fast as networks make sinusoids turn for
others (see :mod:`jielong.networks.denoiser`), such differences would be large and wild (arXiv 2410.11081 is about taming them)."""
Sampler = Literal["euler", "midpoint", "heun", "sde"]


class Times(Config):
    """At which times a head learns.

    Attributes:
        kind: ``uniform`` on [0, 1], or ``logit_normal``: ``t = sigmoid(mean + std n)`` with ``n ~ N(0, 1)`` (SD3, arXiv 2403.03206).
        mean: Above 0 more is learned near the data. Counted from the data, as in SD3 and MeanFlow, it has the other sign.
        std: Spread of the logits.
        shift: Draws are moved towards the noise by :func:`shifted`; for logit-normal times it is the same as ``mean - ln(shift)``.
    """

    kind: Literal["uniform", "logit_normal"] = "logit_normal"
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)
    shift: float = Field(default=1.0, gt=0)

    def draw(self, count: int, device: torch.device) -> Tensor:
        """Times ``(count,)`` in [0, 1], float32, from torch's global generator of the device."""
        if self.kind == "uniform":
            times = torch.rand(count, device=device)
        else:
            times = torch.sigmoid(self.mean + self.std * torch.randn(count, device=device))
        return shifted(times, self.shift)


def between(noise: Tensor, data: Tensor, times: Tensor) -> Tensor:
    """``(1 - t) x_0 + t x_1``: noise and data ``(M, C)``, times ``(M,)``."""
    return torch.lerp(noise, data, times[:, None])


def shifted(times: Tensor, shift: float) -> Tensor:
    """``t / (s - (s - 1) t)``: keeps 0 and 1, and for ``s > 1`` stays longer near the noise, as many values at once ask for (SD3).

    Counted from the data, ``sigma = 1 - t``, it is SD3's ``s sigma / (1 + (s - 1) sigma)``. Shifts compose: ``s`` after ``r`` is ``s r``.
    """
    return times / (shift - (shift - 1) * times)


def grid(intervals: int, shift: float = 1.0) -> list[float]:
    """Times from 0 to 1, both included, with so many intervals between them, shifted."""
    return shifted(torch.linspace(0, 1, intervals + 1, dtype=torch.float64), shift).tolist()


def euler(velocity: Velocity, x: Tensor, times: Sequence[float], on_state: StateCallback = ignore_state) -> Tensor:
    """``x <- x + h v(x, t)``: one evaluation an interval, at its start; ``see`` is told of ``x`` at every interval's end."""
    for start, end in pairwise(times):
        x = x + (end - start) * velocity(x, start)
        on_state(x)
    return x


def midpoint(velocity: Velocity, x: Tensor, times: Sequence[float], on_state: StateCallback = ignore_state) -> Tensor:
    """``x <- x + h v(x + h/2 v(x, t), t + h/2)``: two evaluations an interval, none at its end; ``see`` as for :func:`euler`."""
    for start, end in pairwise(times):
        half = (end - start) / 2
        x = x + 2 * half * velocity(x + half * velocity(x, start), start + half)
        on_state(x)
    return x


def heun(velocity: Velocity, x: Tensor, times: Sequence[float], on_state: StateCallback = ignore_state) -> Tensor:
    """``x <- x + h/2 (v(x, t) + v(x + h v(x, t), t + h))``: two evaluations an interval, one at its end; ``see`` as for :func:`euler`."""
    for start, end in pairwise(times):
        step, slope = end - start, velocity(x, start)
        x = x + step / 2 * (slope + velocity(x + step * slope, end))
        on_state(x)
    return x


def stochastic(
    velocity: Velocity, x: Tensor, times: Sequence[float], normal: Callable[[], Tensor], on_state: StateCallback = ignore_state
) -> Tensor:
    """Euler-Maruyama on an equation of the same marginals: ``dx = [v + (1 - t) score] dt + sqrt(2 (1 - t)) dW`` (NextStep-1's sampler).

    On the straight path ``score = (t v - x) / (1 - t)``, so the drift is ``(1 + t) v - x``. The last step follows ``v`` alone, without
    noise.

    Args:
        velocity: The field.
        x: Noise.
        times: From 0 to 1.
        normal: Draws normal numbers of ``x``'s shape.
        see: As for :func:`euler`.
    """
    *inner, last = pairwise(times)
    for start, end in inner:
        step = end - start
        x = x + step * ((1 + start) * velocity(x, start) - x) + (2 * (1 - start) * step) ** 0.5 * normal()
        on_state(x)
    return euler(velocity, x, last, on_state)


class FlowMatching(IterativeSettings, family="head", name="flow_matching"):
    """Settings of the flow-matching head.

    Attributes:
        times: Distribution of training times.
        sampler: ``euler``, ``midpoint``, ``heun``, or ``sde``, which adds noise between steps.
        shift: Moves the grid of sampling towards the noise (:func:`shifted`), for tokens of many values (SD3: 3 at 1024 pixels).
    """

    steps: int = Field(default=20, ge=1)
    times: Times = Times()
    sampler: Sampler = "euler"
    shift: float = Field(default=1.0, gt=0)

    def build(self, width: int, layout: Layout) -> FlowMatchingHead:
        """See :meth:`HeadSettings.build`."""
        return FlowMatchingHead(self.denoiser(width, layout), layout, self)


class FlowMatchingHead(IterativeHead):
    """Learns the velocity of straight paths, and follows it from noise to a token.

    *Guidance* combines velocities, ``v_null + guidance (v - v_null)``. *Temperature* multiplies every normal number of a draw, the noise it
    starts from above all: 1 is the model's own distribution, 0 starts amid the noise and gives one and the same token always.

    Args:
        network: Reads one time, gives ``C`` numbers.
        layout: The tokens to predict.
        settings: See :class:`FlowMatching`.
    """

    def __init__(self, network: AnyDenoiser, layout: Layout, settings: FlowMatching = FlowMatching()) -> None:
        super().__init__(network, layout, settings)
        self.times, self.sampler, self.shift = settings.times, settings.sampler, settings.shift

    def loss_of_copies(self, targets: Tensor, predict: Predict, real: Tensor | None = None) -> Tensor:
        """Square error of the velocity, mean over the values; never 0 (for unit Gaussians and uniform times it ends at pi / 2)."""
        times = self.times.draw(len(targets), targets.device)
        return self.errors(targets, torch.randn_like(targets), times, predict, real)

    @staticmethod
    def errors(targets: Tensor, noise: Tensor, times: Tensor, predict: Predict, real: Tensor | None = None) -> Tensor:
        """``|v(x_t, t) - (x_1 - x_0)|^2 / C``: tokens and noise ``(M, C)``, times ``(M,)`` to ``(M,)``, of ``real`` values alone."""
        return mean((predict(between(noise, targets, times), times[:, None]) - (targets - noise)).square(), real)

    def draw(self, evaluate: Evaluations, rng: PerSampleRNG, steps: int, temperature: float) -> Tensor:
        """At most ``steps`` evaluations: midpoint and Heun take two an interval, and one alone is Euler's step."""

        def normal() -> Tensor:
            return temperature * self.initial(evaluate, rng)

        x, on_state = normal(), evaluate.on_state
        twice = self.sampler in ("midpoint", "heun") and steps > 1
        times = grid(steps // 2 if twice else steps, self.shift)
        if self.sampler == "sde":
            return stochastic(evaluate, x, times, normal, on_state)
        if not twice:
            return euler(evaluate, x, times, on_state)
        if self.sampler == "midpoint":
            return midpoint(evaluate, x, times, on_state)
        # Heun's last slope would be asked at t = 1, which no training reaches; the midpoint is of the same order and cost.
        return midpoint(evaluate, heun(evaluate, x, times[:-1], on_state), times[-2:], on_state)
