"""Flow matching: integrates a learned velocity from noise to the token (arXiv 2210.02747, 2209.03003).

Time runs from noise, ``t = 0``, to data, ``t = 1``, as in all flow heads here. With data ``x_1`` and noise ``x_0 ~ N(0, I)``

    x_t = (1 - t) x_0 + t x_1        the straight path
    L = |v(x_t, t, hidden) - (x_1 - x_0)|^2        minimised by v = E[x_1 - x_0 | x_t]
    dx / dt = v(x, t, hidden)        has the tokens' distribution at t = 1

Where time runs from data to noise (SD3, MeanFlow, ``sigma`` of diffusers), it is ``1 - t`` and the velocity ``-v``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from pydantic import Field, model_validator
from torch import Tensor

from jielong.config.registry import Config
from jielong.core.rng import Draws, PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads import diffusion_samplers as samplers
from jielong.heads.base import StateCallback, ignore_state
from jielong.heads.continuous import GuidedDenoiser, IterativeHead, IterativeSettings, Predict, mean
from jielong.heads.diffusion_samplers import Denoised
from jielong.heads.diffusion_schedule import Level, Schedule
from jielong.networks.denoiser import AnyDenoiser

NEAREST = 0.05
"""Least ``1 - t`` that a predicted ``x`` is divided by, as the authors of JiT do."""
Velocity = Callable[[Tensor, float], Tensor]
"""``(x, t) -> dx / dt``."""
SLOW = 0.01
"""Scale of times for heads that compare or differentiate the network at nearby times: with the frequencies of
:mod:`jielong.networks.denoiser`, such differences would be large and unstable (arXiv 2410.11081)."""
Sampler = Literal["euler", "midpoint", "heun", "sde", "dpmpp_2m", "unipc"]
Spacing = Literal["linear", "linear_quadratic", "flow_match_euler"]
LEVELS = 1000
"""Noise levels of training in ``diffusers``' ``FlowMatchEulerDiscreteScheduler``."""


class Times(Config):
    """Distribution of training times.

    Attributes:
        kind: ``uniform`` on [0, 1], or ``logit_normal``: ``t = sigmoid(mean + std n)`` with ``n ~ N(0, 1)`` (SD3, arXiv 2403.03206).
        mean: Mean of the logits; above 0 favours times near the data. SD3 and MeanFlow count from the data: opposite sign.
        std: Standard deviation of the logits.
        shift: Moves times towards the noise (:func:`shifted`); for logit-normal times the same as ``mean - ln(shift)``.
    """

    kind: Literal["uniform", "logit_normal"] = "logit_normal"
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)
    shift: float = Field(default=1.0, gt=0)

    def draw(self, draws: Draws, shift: float = 1.0) -> Tensor:
        """A time of each row in [0, 1], ``(M,)`` float32; ``shift`` comes on top."""
        uniform = self.kind == "uniform"
        times = draws.uniform() if uniform else torch.sigmoid(self.mean + self.std * draws.normal())
        return shifted(times, self.shift * shift)


class TokenShift(Config):
    """A shift towards the noise for blocks of many tokens, whose noise averages out (SD3, arXiv 2403.03206, section 5.3.2).

    Attributes:
        kind: ``sqrt`` of the number of tokens over ``base_tokens``, as SD3's equation 23, or ``exponential``, as FLUX: ``exp(mu)``, with
            ``mu`` linear in the number, ``base_shift`` at ``base_tokens`` and ``max_shift`` at ``max_tokens`` (and beyond, on that line).
        base_tokens: Tokens without a shift (``sqrt``), or with ``base_shift``.
        max_tokens: Tokens with ``max_shift``.
        base_shift: ``mu`` at ``base_tokens``; ``sqrt`` has none.
        max_shift: ``mu`` at ``max_tokens``; ``sqrt`` has none.
    """

    kind: Literal["sqrt", "exponential"] = "sqrt"
    base_tokens: int = Field(default=256, ge=1)
    max_tokens: int = Field(default=4096, ge=1)
    base_shift: float = 0.5
    max_shift: float = 1.15

    @model_validator(mode="after")
    def _ordered(self) -> TokenShift:
        if self.base_tokens >= self.max_tokens:
            raise ValueError(f"base_tokens must be below max_tokens, but they are {self.base_tokens} and {self.max_tokens}")
        return self

    def at(self, tokens: int) -> float:
        """The shift of a block of so many tokens; padding counts."""
        if self.kind == "sqrt":
            return math.sqrt(tokens / self.base_tokens)
        share = (tokens - self.base_tokens) / (self.max_tokens - self.base_tokens)
        return math.exp(self.base_shift + share * (self.max_shift - self.base_shift))


def between(noise: Tensor, data: Tensor, times: Tensor) -> Tensor:
    """``(1 - t) x_0 + t x_1``: noise and data ``(M, C)``, times ``(M,)``."""
    return torch.lerp(noise, data, times[:, None])


def shifted(times: Tensor, shift: float) -> Tensor:
    """``t / (s - (s - 1) t)``: for ``s > 1`` more times near the noise, for tokens of many values; 0 and 1 stay.

    With ``sigma = 1 - t`` it is SD3's ``s sigma / (1 + (s - 1) sigma)``. Shifts compose: ``s`` after ``r`` is ``s r``.
    """
    return times / (shift - (shift - 1) * times)


def grid(intervals: int, shift: float = 1.0, start: float = 0.0, spacing: Spacing = "linear") -> list[float]:
    """``intervals + 1`` times from ``start`` to 1, spaced and then shifted."""
    even = torch.linspace(start, 1, intervals + 1, dtype=torch.float64)
    if spacing == "flow_match_euler":
        least = 1 - shifted(torch.tensor(1 - 1 / LEVELS, dtype=torch.float64), shift)
        even = torch.cat([torch.linspace(start, 1 - float(least), intervals, dtype=torch.float64), even.new_ones(1)])
    return shifted(linear_quadratic(even) if spacing == "linear_quadratic" else even, shift).tolist()


def linear_quadratic(even: Tensor, bend: float = 0.025) -> Tensor:
    """Even times in [0, 1] to Movie Gen's (arXiv 2410.13720): ``2 b u`` up to 1/2, and from there a parabola of the same slope up to 1.

    Of 50 steps the first 25 are those of 1,000 even steps: there, near the noise, a large model decides what is drawn and how it moves.
    """
    left = 1 - even
    late = 1 - left * (4 - 6 * bend - (4 - 8 * bend) * left)
    return torch.where(even < 0.5, 2 * bend * even, late)


def begin(evaluate: GuidedDenoiser, noise: Tensor, time: float) -> Tensor:
    """The state at a time: the noise, or ``(1 - t) x_0 + t x_1`` with the tokens that are edited (SDEdit, arXiv 2108.01073)."""
    source = evaluate.source
    return noise if source is None else torch.lerp(noise, source.values.to(noise), time)


def keeping(evaluate: GuidedDenoiser, velocity: Tensor, x: Tensor, time: float) -> Tensor:
    """A velocity, or mean velocity to any later time; at tokens that are kept ``(x_1 - x_t) / (1 - t)``, which leads to them."""
    return evaluate.keeping(velocity, lambda values: (values.to(x) - x) / (1 - time))


def euler(velocity: Velocity, x: Tensor, times: Sequence[float], on_state: StateCallback = ignore_state) -> Tensor:
    """``x <- x + h v(x, t)``: one evaluation per interval; ``on_state`` receives ``x`` after each."""
    for start, end in pairwise(times):
        x = x + (end - start) * velocity(x, start)
        on_state(x)
    return x


def midpoint(velocity: Velocity, x: Tensor, times: Sequence[float], on_state: StateCallback = ignore_state) -> Tensor:
    """``x <- x + h v(x + h/2 v(x, t), t + h/2)``: two evaluations per interval, none at its end; see :func:`euler`."""
    for start, end in pairwise(times):
        half = (end - start) / 2
        x = x + 2 * half * velocity(x + half * velocity(x, start), start + half)
        on_state(x)
    return x


def heun(velocity: Velocity, x: Tensor, times: Sequence[float], on_state: StateCallback = ignore_state) -> Tensor:
    """``x <- x + h/2 (v(x, t) + v(x + h v(x, t), t + h))``: two evaluations per interval, one at its end; see :func:`euler`."""
    for start, end in pairwise(times):
        step, slope = end - start, velocity(x, start)
        x = x + step / 2 * (slope + velocity(x + step * slope, end))
        on_state(x)
    return x


def stochastic(
    velocity: Velocity, x: Tensor, times: Sequence[float], normal: Callable[[], Tensor], on_state: StateCallback = ignore_state
) -> Tensor:
    """Euler-Maruyama on the SDE of the same marginals: ``dx = [v + (1 - t) score] dt + sqrt(2 (1 - t)) dW`` (NextStep-1's sampler).

    On the straight path ``score = (t v - x) / (1 - t)``, so the drift is ``(1 + t) v - x``. The last step is
    Euler's, without noise. ``normal`` draws standard normal numbers of ``x``'s shape.
    """
    *inner, last = pairwise(times)
    for start, end in inner:
        step = end - start
        x = x + step * ((1 + start) * velocity(x, start) - x) + (2 * (1 - start) * step) ** 0.5 * normal()
        on_state(x)
    return euler(velocity, x, last, on_state)


def multistep(velocity: Velocity, x: Tensor, times: Sequence[float], sampler: str, on_state: StateCallback = ignore_state) -> Tensor:
    """``dpmpp_2m`` or ``unipc`` of :mod:`jielong.heads.diffusion_samplers`: ``x_1 = x + (1 - t) v``; one evaluation per interval.

    Their ``a`` and ``s`` are ``t`` and ``1 - t`` over their norm, which is that of ``x`` too.
    """

    def denoise(x: Tensor, level: Level) -> Denoised:
        time, x = level.time, math.hypot(level.time, 1 - level.time) * x
        slope = velocity(x, time)
        return Denoised(x + (1 - time) * slope, x - time * slope)

    starts = torch.tensor(times[-2::-1], dtype=torch.float64)
    plan = Schedule(starts.square() / (starts.square() + (1 - starts).square()), starts)
    return (samplers.dpmpp_2m if sampler == "dpmpp_2m" else samplers.unipc)(denoise, x, plan, on_state)


class FlowMatching(IterativeSettings, family="head", name="flow_matching"):
    """Settings of the flow-matching head.

    Attributes:
        times: Distribution of training times.
        sampler: ``euler``, ``midpoint``, ``heun``, ``dpmpp_2m``, ``unipc``, or ``sde``, which adds noise between steps.
        shift: Moves the grid of sampling towards the noise (:func:`shifted`), for tokens of many values (SD3: 3 at 1024 pixels).
        token_shift: A further shift, by the number of tokens that a joint network draws together, in training and sampling.
        spacing: Of the grid of sampling before shifts: ``linear``; ``linear_quadratic``, with half the steps below a time of 0.025
            (:func:`linear_quadratic`), for many steps; or ``flow_match_euler``, SD3's in its released code and in ``diffusers``, evenly to
            the least noise of 1000 shifted levels, with a last short step to none.
        prediction: What the network predicts: the velocity ``v``, or the data ``x``, of which ``v = (x_1 - x_t) / (1 - t)`` (JiT,
            arXiv 2511.13720), for tokens of many values, such as patches of pixels; the loss is that of ``v`` in either case.
    """

    meaning = ("prediction",)
    steps: int = Field(default=20, ge=1)
    prediction: Literal["v", "x"] = "v"
    times: Times = Times()
    sampler: Sampler = "euler"
    shift: float = Field(default=1.0, gt=0)
    token_shift: TokenShift | None = None
    spacing: Spacing = "linear"

    def build(self, width: int, layout: Layout, condition_width: int | None = None) -> FlowMatchingHead:
        """See :meth:`HeadSettings.build`."""
        return FlowMatchingHead(self.denoiser(width, layout, condition_width), layout, self)


class FlowMatchingHead(IterativeHead):
    """Samples a token by integrating the learned velocity of straight paths. ``network``: reads one time, gives ``C`` numbers.

    *Guidance* combines velocities, ``v_null + guidance (v - v_null)``. *Temperature* multiplies all noise, the initial noise included: 1 is
    the model's distribution, 0 is deterministic.
    """

    edits = True
    samplers = get_args(Sampler)

    def __init__(self, network: AnyDenoiser, layout: Layout, settings: FlowMatching = FlowMatching()) -> None:
        super().__init__(network, layout, settings)
        self.times, self.sampler, self.shift, self.token_shift = settings.times, settings.sampler, settings.shift, settings.token_shift
        self.prediction, self.spacing = settings.prediction, settings.spacing
        if self.token_shift is not None and not self.joint:
            raise ValueError("token_shift is by the number of tokens drawn together, and this network draws each alone: take shift, or dit")

    def _shift(self, tokens: int) -> float:
        return 1.0 if self.token_shift is None else self.token_shift.at(tokens)

    def loss_of_copies(self, targets: Tensor, draws: Draws, predict: Predict, mask: Tensor | None = None) -> Tensor:
        """Squared error of the velocity, mean over the values; its minimum for unit Gaussians and uniform times is pi / 2."""
        times = self.times.draw(draws, self._shift(targets.shape[1] // self.channels))
        noise = draws.normal(targets.shape[1]).to(targets.dtype)
        if self.prediction == "v":
            return self.errors(targets, noise, times, predict, mask)
        error = predict(between(noise, targets, times), times[:, None]) - targets
        return mean((error / (1 - times[:, None]).clamp(min=NEAREST)).square(), mask)

    @staticmethod
    def errors(targets: Tensor, noise: Tensor, times: Tensor, predict: Predict, mask: Tensor | None = None) -> Tensor:
        """``|v(x_t, t) - (x_1 - x_0)|^2 / C``: tokens and noise ``(M, C)``, times ``(M,)`` to ``(M,)``."""
        return mean((predict(between(noise, targets, times), times[:, None]) - (targets - noise)).square(), mask)

    def draw(self, evaluate: GuidedDenoiser, rng: PerSampleRNG, steps: int, temperature: float, sampler: str = "") -> Tensor:
        """At most ``steps`` evaluations: midpoint and Heun take two per interval; a single one is an Euler step."""

        def normal() -> Tensor:
            return temperature * self.initial(evaluate, rng)

        def velocity(x: Tensor, time: float) -> Tensor:
            predicted = evaluate(x, time, share=time)
            if self.prediction == "x":
                predicted = (predicted - x) / max(1 - time, NEAREST)
            return keeping(evaluate, predicted, x, time)

        on_state, sampler, steps = evaluate.on_state, sampler or self.sampler, evaluate.steps(steps)
        twice = sampler in ("midpoint", "heun") and steps > 1
        times = grid(steps // 2 if twice else steps, self.shift * self._shift(evaluate.shape[1]), 1 - evaluate.strength, self.spacing)
        x = begin(evaluate, normal(), times[0])
        if sampler == "sde":
            return stochastic(velocity, x, times, normal, on_state)
        if sampler in ("dpmpp_2m", "unipc"):
            return multistep(velocity, x / math.hypot(times[0], 1 - times[0]), times, sampler, on_state)
        if not twice:
            return euler(velocity, x, times, on_state)
        if sampler == "midpoint":
            return midpoint(velocity, x, times, on_state)
        # Heun's last slope would be evaluated at t = 1, outside the training times; the midpoint has the same order and cost.
        return midpoint(velocity, heun(velocity, x, times[:-1], on_state), times[-2:], on_state)
