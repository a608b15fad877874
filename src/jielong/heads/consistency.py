"""Consistency training: from any noise level straight to the token the flow would end at (arXiv 2303.01469; improved, arXiv 2310.14189).

Here noise has a level ``t``, its standard deviation, from ``t_min = 0.002`` (data) to ``t_max = 80`` (noise), and ``x_t = x + t e``:

    f(x_t, t) = c_skip x_t + c_out F(c_in x_t, ln(t) / 4)           c_skip = s^2 / ((t - t_min)^2 + s^2)
    c_out = (t - t_min) s / sqrt(t^2 + s^2)                         c_in = 1 / sqrt(t^2 + s^2)

with the tokens' standard deviation ``s``, so that ``f(x, t_min) = x`` whatever the network. Training asks neighbours on a grid of levels,
reached with the same ``x`` and ``e``, for the same answer, ``L = huber(f(x_t', t'), stopgrad f(x_t, t)) / (t' - t)`` with ``t' > t``. The
grid is coarse at first and grows finer: coarse grids learn fast and are biased, fine ones the other way about.

As in the improved form the target has the weights themselves and no average of them, the distance is pseudo-Huber, and levels of
middle size are drawn most. The paper's pictures have ``s = 0.5`` and its levels a mean logarithm of -1.1; tokens of unit deviation are
twice as wide, so here it is -0.4.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field, model_validator
from torch import Tensor

from jielong.config.registry import Config
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.continuous import Evaluations, IterativeHead, IterativeSettings, Predict, total
from jielong.heads.flow_matching import SLOW
from jielong.networks.denoiser import AnyDenoiser

RHO = 7.0


class Levels(Config):
    """The grid of noise levels, and how it grows finer: its intervals double, ``first, 2 first, ...``, at even distances in training.

    Attributes:
        first: Intervals at the start.
        last: The most there will be.
        samples: Samples seen when the last doubling is done and its share of training follows (``K`` of the paper, in samples):
            of ``k`` doublings, each number of intervals lasts ``samples / (k + 1)``.
        low: The least level, taken as none.
        high: The greatest, from which tokens are drawn.
        mean: Mean logarithm of the levels drawn in training.
        std: Their spread.
    """

    first: int = Field(default=10, ge=1)
    last: int = Field(default=1280, ge=1)
    samples: int = Field(default=1_000_000, ge=1)
    low: float = Field(default=0.002, gt=0)
    high: float = Field(default=80.0, gt=0)
    mean: float = -0.4
    std: float = Field(default=2.0, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Levels:
        if self.first > self.last:
            raise ValueError(f"the grid grows finer: its first number of intervals, {self.first}, must not be above the last, {self.last}")
        if self.low >= self.high:
            raise ValueError(f"the least noise level, {self.low}, must be below the greatest, {self.high}")
        return self

    def intervals(self, samples_seen: int) -> int:
        """``min(first 2^floor(k / K'), last)``, ``K' = floor(samples / (floor(log2(last / first)) + 1))``."""
        stages = int(math.log2(self.last / self.first)) + 1
        stage = samples_seen // max(self.samples // stages, 1)
        return min(self.first * 2 ** min(stage, stages), self.last)

    def grid(self, intervals: int) -> Tensor:
        """Levels from the least to the greatest, ``(intervals + 1,)`` float64, even in their seventh root (EDM, arXiv 2206.00364)."""
        low, high = self.low ** (1 / RHO), self.high ** (1 / RHO)
        grid = torch.linspace(low, high, intervals + 1, dtype=torch.float64) ** RHO
        grid[0], grid[-1] = self.low, self.high
        return grid

    def chances(self, grid: Tensor) -> Tensor:
        """How likely each interval is drawn, ``(intervals,)``: the mass of the normal of ``ln t`` in it, over the grid's."""
        standard = (grid.log() - self.mean) / (self.std * math.sqrt(2))
        mass = torch.erf(standard).diff()
        return mass / mass.sum()


class Consistency(IterativeSettings, family="head", name="consistency"):
    """Settings of the consistency head; ``steps`` of 1 or 2 are usual.

    Attributes:
        levels: The noise levels, and how training refines their grid.
        deviation: Standard deviation ``s`` of the tokens: 1, as tokenizers scale them.
        huber: ``c / sqrt(C)`` of the pseudo-Huber distance ``sqrt(|u|^2 + c^2) - c``.
    """

    steps: int = Field(default=2, ge=1)
    levels: Levels = Levels()
    deviation: float = Field(default=1.0, gt=0)
    huber: float = Field(default=0.00054, ge=0)

    def build(self, width: int, layout: Layout) -> ConsistencyHead:
        """See :meth:`HeadSettings.build`."""
        return ConsistencyHead(self.denoiser(width, layout), layout, self)


class ConsistencyHead(IterativeHead):
    """Learns where the flow ends, from every noise level, and draws a token in one step or few.

    Beyond the first step a draw goes back: noise of a lower level is added to the answer, and it is asked again. *Guidance* combines the
    network's outputs, ``F_null + guidance (F - F_null)``, which is the same as combining answers. *Temperature* multiplies all noise of a
    draw: 1 is the model's own distribution, 0 gives one and the same token always.

    Args:
        network: Reads one time, ``ln(t) / 4`` slowed down, gives ``C`` numbers.
        layout: The tokens to predict.
        settings: See :class:`Consistency`.
    """

    def __init__(self, network: AnyDenoiser, layout: Layout, settings: Consistency = Consistency()) -> None:
        super().__init__(network, layout, settings)
        self.levels, self.deviation = settings.levels, settings.deviation
        self.huber = settings.huber * math.sqrt(layout.channels)
        self.samples_seen = 0

    def on_train_step(self, samples_seen: int) -> None:
        """Choose the grid by how far training is."""
        self.samples_seen = samples_seen

    def answer(self, x: Tensor, levels: Tensor, prediction: Tensor) -> Tensor:
        """``c_skip x + c_out F``: tokens ``(..., C)``, levels that broadcast with them."""
        width, apart = self.deviation**2, levels - self.levels.low
        return width / (apart**2 + width) * x + apart * self.deviation * (levels**2 + width).rsqrt() * prediction

    def inputs(self, x: Tensor, levels: Tensor) -> Tensor:
        """``c_in x``, of unit deviation."""
        return x * (levels**2 + self.deviation**2).rsqrt()

    def loss_of_copies(self, targets: Tensor, predict: Predict, real: Tensor | None = None) -> Tensor:
        """Pseudo-Huber distance of the answers at two neighbouring levels, over the levels' distance.

        Outside training, where losses are compared, the grid is the finest.
        """
        grid = self.levels.grid(self.levels.intervals(self.samples_seen) if self.training else self.levels.last)
        index = torch.multinomial(self.levels.chances(grid).float().to(targets.device), len(targets), replacement=True)
        grid = grid.to(targets)
        return self.errors(targets, torch.randn_like(targets), grid[index], grid[index + 1], predict, real)

    def errors(self, targets: Tensor, noise: Tensor, low: Tensor, high: Tensor, predict: Predict, real: Tensor | None = None) -> Tensor:
        """Tokens and noise ``(M, C)`` and two levels ``(M,)`` of each, to ``(M,)``."""

        def at(levels: Tensor) -> Tensor:
            levels = levels[:, None]
            x = targets + levels * noise
            return self.answer(x, levels, predict(self.inputs(x, levels), SLOW * levels.log() / 4))

        with torch.no_grad():
            wanted = at(low)
        values = targets.shape[-1] if real is None else real.sum(-1)
        huber = self.huber * (values / self.channels) ** 0.5
        return ((total((at(high) - wanted).square(), real) + huber**2).sqrt() - huber) / (high - low)

    def draw(self, evaluate: Evaluations, rng: PerSampleRNG, steps: int, temperature: float) -> Tensor:
        """``x <- f(x + sqrt(t^2 - t_min^2) e, t)`` for levels that fall, on the grid of as many intervals as steps.

        The answers ``f`` are the states told of: this method's noise is gone after every step.
        """
        x = torch.zeros((), device=rng.device)
        for level in self.levels.grid(steps).flip(0)[:-1].tolist():
            first = level == self.levels.high
            spread = level if first else math.sqrt(level**2 - self.levels.low**2)
            x = x + temperature * spread * self.initial(evaluate, rng)
            here = x.new_tensor(level)
            x = self.answer(x, here, evaluate(self.inputs(x, here), SLOW * math.log(level) / 4))
            evaluate.on_state(x)
        return x
