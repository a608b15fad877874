"""Consistency training: maps any noise level to the end of the flow (arXiv 2303.01469; improved form, arXiv 2310.14189).

The noise level ``t`` is a standard deviation, from ``t_min = 0.002`` (data) to ``t_max = 80`` (noise), and ``x_t = x + t e``:

    f(x_t, t) = c_skip x_t + c_out F(c_in x_t, ln(t) / 4)           c_skip = s^2 / ((t - t_min)^2 + s^2)
    c_out = (t - t_min) s / sqrt(t^2 + s^2)                         c_in = 1 / sqrt(t^2 + s^2)

with the tokens' standard deviation ``s``, so that ``f(x, t_min) = x``. The loss compares neighbours on a grid of levels with the same ``x``
and ``e``: ``L = huber(f(x_t', t'), stopgrad f(x_t, t)) / (t' - t)`` with ``t' > t``. The grid is refined during training: coarse grids
learn fast and are biased, fine grids the opposite.

As in the improved form, the target uses the current weights instead of an EMA, the distance is pseudo-Huber, and training levels are
log-normal. The paper's images have ``s = 0.5`` and a mean log-level of -1.1; tokens of unit deviation are twice as wide: -0.4.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field, model_validator
from torch import Tensor

from jielong.config.registry import Config
from jielong.config.schedule import End
from jielong.core.rng import Draws, PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.continuous import GuidedDenoiser, IterativeHead, IterativeSettings, Predict, total
from jielong.heads.flow_matching import SLOW
from jielong.networks.denoiser import AnyDenoiser

RHO = 7.0


class Levels(Config):
    """The grid of noise levels; its number of intervals doubles during training: ``first, 2 first, ...``.

    Attributes:
        first: Intervals at the start.
        last: Maximum number of intervals.
        samples: Training samples of the whole schedule, or a share of the budget (``K`` of the paper): with ``k`` doublings each grid
            lasts ``samples / (k + 1)``.
        low: The least level, treated as no noise.
        high: The greatest level, from which sampling starts.
        mean: Mean logarithm of the training levels.
        std: Standard deviation of their logarithm.
    """

    first: int = Field(default=10, ge=1)
    last: int = Field(default=1280, ge=1)
    samples: End = Field(default=1_000_000, ge=1)
    low: float = Field(default=0.002, gt=0)
    high: float = Field(default=80.0, gt=0)
    mean: float = -0.4
    std: float = Field(default=2.0, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Levels:
        if self.first > self.last:
            raise ValueError(f"the grid is refined in training: first, {self.first}, must not be above last, {self.last}")
        if self.low >= self.high:
            raise ValueError(f"the least noise level, {self.low}, must be below the greatest, {self.high}")
        return self

    def intervals(self, samples_seen: int) -> int:
        """``min(first 2^floor(k / K'), last)``, ``K' = floor(samples / (floor(log2(last / first)) + 1))``."""
        stages = int(math.log2(self.last / self.first)) + 1
        stage = samples_seen // max(self.samples // stages, 1)
        return min(self.first * 2 ** min(stage, stages), self.last)

    def grid(self, intervals: int, share: float = 1.0) -> Tensor:
        """Levels in ascending order, ``(intervals + 1,)`` float64, equally spaced in their seventh root (EDM, arXiv 2206.00364).

        ``share``: of the way from the least to the greatest level, on which they are.
        """
        low, high = self.low ** (1 / RHO), self.high ** (1 / RHO)
        high = high if share == 1 else low + share * (high - low)
        grid = torch.linspace(low, high, intervals + 1, dtype=torch.float64) ** RHO
        grid[0], grid[-1] = self.low, self.high if share == 1 else high**RHO
        return grid

    def chances(self, grid: Tensor) -> Tensor:
        """Probability of each interval, ``(intervals,)``: the mass of ``ln t ~ N(mean, std)`` in it, normalised over the grid."""
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

    meaning = ("deviation",)
    steps: int = Field(default=2, ge=1)
    levels: Levels = Levels()
    deviation: float = Field(default=1.0, gt=0)
    huber: float = Field(default=0.00054, ge=0)

    def build(self, width: int, layout: Layout, condition_width: int | None = None) -> ConsistencyHead:
        """See :meth:`HeadSettings.build`."""
        return ConsistencyHead(self.denoiser(width, layout, condition_width), layout, self)


class ConsistencyHead(IterativeHead):
    """Samples a token in one or a few steps by predicting the end of the flow from each noise level.

    After the first step, noise of a lower level is added to the prediction, and the network is evaluated again. *Guidance* combines network
    outputs, ``F_null + guidance (F - F_null)``, which equals combining predictions. *Temperature* multiplies all noise: 1 is the model's
    distribution, 0 is deterministic.

    Args:
        network: Reads one time, ``SLOW ln(t) / 4``; gives ``C`` numbers.
    """

    edits = True
    loss_ranks_weights = False

    def __init__(self, network: AnyDenoiser, layout: Layout, settings: Consistency = Consistency()) -> None:
        super().__init__(network, layout, settings)
        self.levels, self.deviation = settings.levels, settings.deviation
        self.huber = settings.huber * math.sqrt(layout.channels)
        self.samples_seen = 0

    def on_train_step(self, samples_seen: int) -> None:
        """Sets the progress of training, which determines the grid."""
        self.samples_seen = samples_seen

    def denoised(self, x: Tensor, levels: Tensor, prediction: Tensor) -> Tensor:
        """``c_skip x + c_out F``: tokens ``(..., C)``, levels that broadcast with them."""
        variance, offset = self.deviation**2, levels - self.levels.low
        return variance / (offset**2 + variance) * x + offset * self.deviation * (levels**2 + variance).rsqrt() * prediction

    def inputs(self, x: Tensor, levels: Tensor) -> Tensor:
        """``c_in x``, of unit deviation."""
        return x * (levels**2 + self.deviation**2).rsqrt()

    def loss_of_copies(self, targets: Tensor, draws: Draws, predict: Predict, mask: Tensor | None = None) -> Tensor:
        """Pseudo-Huber distance of predictions at neighbouring levels over their difference; in evaluation on the finest grid."""
        grid = self.levels.grid(self.levels.intervals(self.samples_seen) if self.training else self.levels.last)
        below = self.levels.chances(grid).cumsum(0)[:-1].float().to(targets.device)
        index = torch.searchsorted(below, draws.uniform(), right=True)
        grid = grid.to(targets)
        return self.errors(targets, draws.normal(targets.shape[1]).to(targets.dtype), grid[index], grid[index + 1], predict, mask)

    def errors(self, targets: Tensor, noise: Tensor, low: Tensor, high: Tensor, predict: Predict, mask: Tensor | None = None) -> Tensor:
        """The loss, ``(M,)``, for tokens and noise ``(M, C)`` and two levels ``(M,)`` each."""

        def at(levels: Tensor) -> Tensor:
            levels = levels[:, None]
            x = targets + levels * noise
            return self.denoised(x, levels, predict(self.inputs(x, levels), SLOW * levels.log() / 4))

        with torch.no_grad():
            target = at(low)
        values = targets.shape[-1] if mask is None else mask.sum(-1)
        huber = self.huber * (values / self.channels) ** 0.5
        return ((total((at(high) - target).square(), mask) + huber**2).sqrt() - huber) / (high - low)

    def draw(self, evaluate: GuidedDenoiser, rng: PerSampleRNG, steps: int, temperature: float, sampler: str = "") -> Tensor:
        """``x <- f(x + sqrt(t^2 - t_min^2) e, t)`` for decreasing levels, on a grid of ``steps`` intervals; the states are ``f``."""
        x, source = torch.zeros((), device=rng.device), evaluate.source
        if source is not None:
            drawn = torch.zeros_like(source.values) if source.strength == 1 else source.values
            x = torch.where(source.kept[..., None], source.values, drawn).float()
        for step, level in enumerate(self.levels.grid(evaluate.steps(steps), evaluate.strength).flip(0)[:-1].tolist()):
            spread = math.sqrt(level**2 - self.levels.low**2) if step else level
            x = x + temperature * spread * self.initial(evaluate, rng)
            at = x.new_tensor(level)
            share = self.deviation / (self.deviation + level)
            x = self.denoised(x, at, evaluate(self.inputs(x, at), SLOW * math.log(level) / 4, share=share))
            x = evaluate.keeping(x, lambda values: values.float())
            evaluate.on_state(x)
        return x
