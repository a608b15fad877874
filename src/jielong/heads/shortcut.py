"""Shortcut models: a velocity conditioned on the step size, trained so that one step equals two half steps (arXiv 2410.12557).

``s(x_t, t, d)`` with steps ``d = 1, 1/2, 1/4, ..., 1 / finest``, and ``t`` a multiple of ``d``; time runs from noise, 0, to data, 1:

    d = 1 / finest:   s -> x_1 - x_0                                                     flow matching
    d > 1 / finest:   s -> stopgrad (s_1 + s_2) / 2                                      two steps of half the length
                      s_1 = s(x_t, t, d / 2),   s_2 = s(x_t + d/2 s_1, t + d/2, d / 2)

The paper evaluates ``s_1`` and ``s_2`` with EMA weights; here they use the current weights, without gradient.
"""

from __future__ import annotations

import torch
from pydantic import Field, field_validator
from torch import Tensor

from jielong.core.rng import Draws, PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.continuous import GuidedDenoiser, IterativeHead, IterativeSettings, Predict, mean
from jielong.heads.flow_matching import between, euler, grid
from jielong.networks.denoiser import AnyDenoiser


class Shortcut(IterativeSettings, family="head", name="shortcut"):
    """Settings of the shortcut head; ``steps`` are rounded down to a power of two.

    Attributes:
        finest: Steps of the finest grid, a power of two.
        bootstrap: Fraction of copies that learn from two half steps.
        clip: Bound on the state and the target of half steps, in standard deviations of the tokens.
    """

    meaning = ("finest",)
    steps: int = Field(default=1, ge=1)
    finest: int = Field(default=128, ge=2)
    bootstrap: float = Field(default=0.125, ge=0, le=1)
    clip: float = Field(default=4.0, gt=0)

    @field_validator("finest")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError(f"finest must be a power of two, such as {2 ** (value.bit_length() - 1)}, not {value}")
        return value

    def build(self, width: int, layout: Layout, condition_width: int | None = None) -> ShortcutHead:
        """See :meth:`HeadSettings.build`."""
        return ShortcutHead(self.denoiser(width, layout, condition_width, times=2), layout, self)


class ShortcutHead(IterativeHead):
    """Samples a token in ``2^k`` steps of size ``1 / 2^k``: the greatest power of two up to the requested steps.

    *Guidance* combines predictions in sampling, ``s_null + guidance (s - s_null)``; the paper trains one scale at the smallest step, which
    needs unconditional hidden vectors in training. *Temperature* multiplies the initial noise: 1 is the model's distribution, 0 is
    deterministic.

    Args:
        network: Reads two times, ``t`` and ``log2(1/d) / log2(finest)``; gives ``C`` numbers.
    """

    loss_ranks_weights = False

    def __init__(self, network: AnyDenoiser, layout: Layout, settings: Shortcut = Shortcut()) -> None:
        super().__init__(network, layout, settings)
        self.levels, self.bootstrap, self.clip = settings.finest.bit_length() - 1, settings.bootstrap, settings.clip

    def loss_of_copies(self, targets: Tensor, draws: Draws, predict: Predict, mask: Tensor | None = None) -> Tensor:
        """Squared error, mean over the values, of flow-matching and of bootstrapped copies.

        In evaluation there are no bootstrapped copies, whose target moves with the network, so that losses compare.
        """
        coarse = draws.uniform() < (self.bootstrap if self.training else 0)
        levels = torch.where(coarse, (draws.uniform() * self.levels).long(), self.levels)
        steps = 2.0**levels
        times = (draws.uniform() * steps).floor() / steps
        return self.errors(targets, draws.normal(targets.shape[1]).to(targets.dtype), times, levels, predict, mask)

    def errors(self, targets: Tensor, noise: Tensor, times: Tensor, levels: Tensor, predict: Predict, mask: Tensor | None = None) -> Tensor:
        """The loss, ``(M,)``, for tokens and noise ``(M, C)``, times ``(M,)`` and levels ``k`` ``(M,)`` of steps ``d = 2^-k``."""
        x, velocity = between(noise, targets, times), targets - noise
        rows = (levels < self.levels).nonzero()[:, 0]
        if len(rows):
            velocity = velocity.index_copy(0, rows, self.two_halves(x[rows], times[rows], levels[rows], predict, rows))
        return mean((predict(x, self._when(times, levels)) - velocity).square(), mask)

    @torch.no_grad()
    def two_halves(self, x: Tensor, times: Tensor, levels: Tensor, predict: Predict, rows: Tensor | None = None) -> Tensor:
        """``(s_1 + s_2) / 2`` of two steps of half the length, ``(m, C)``."""
        half = 2.0 ** -(levels + 1.0)
        first = predict(x, self._when(times, levels + 1), rows)
        middle = (x + half[:, None] * first).clamp(-self.clip, self.clip)
        second = predict(middle, self._when(times + half, levels + 1), rows)
        return ((first + second) / 2).clamp(-self.clip, self.clip)

    def _when(self, times: Tensor, levels: Tensor) -> Tensor:
        return torch.stack([times, levels.to(times) / self.levels], dim=-1)

    def draw(self, evaluate: GuidedDenoiser, rng: PerSampleRNG, steps: int, temperature: float, sampler: str = "") -> Tensor:
        """``x <- x + d s(x, t, d)`` in ``1 / d`` steps."""
        level = min(steps.bit_length() - 1, self.levels)
        x = temperature * self.initial(evaluate, rng)
        return euler(lambda x, time: evaluate(x, time, level / self.levels, share=time), x, grid(2**level), evaluate.on_state)
