"""MeanFlow: one-step generation by the mean velocity between two times (arXiv 2505.13447; improved form, arXiv 2512.02012).

Between a time ``t`` and a later ``r``, ``u(x_t, t, r)`` is the mean velocity along the flow, so ``x_r = x_t + (r - t) u``. Differentiating
``(r - t) u`` by ``t`` along the flow gives the training target (equation 6):

    u = v + (r - t) du/dt        du/dt = v d_x u + d_t u        a Jacobian-vector product, tangent (v, 1, 0) for (x, t, r)

Time runs from noise, 0, to data, 1. The paper's runs from data to noise: its ``t`` is ``1 - t`` here, its ``u`` is ``-u``, and its
logit-normal mean of -0.4 is 0.4.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor

from jielong.core.rng import Draws, PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.continuous import GuidedDenoiser, IterativeHead, IterativeSettings, Predict, total
from jielong.heads.flow_matching import SLOW, Times, begin, between, grid, keeping
from jielong.networks.denoiser import AnyDenoiser

ADAPTIVE = 0.01
"""Keeps the adaptive weight finite at an error of 0; the paper's value, for errors summed over the values."""


class MeanFlow(IterativeSettings, family="head", name="mean_flow"):
    """Settings of the MeanFlow head.

    Attributes:
        times: Distribution of training times; ``t`` and ``r`` are two draws in order.
        same: Fraction of copies with ``r = t``, for which this is flow matching. Training fails without them; the improved form takes 0.5.
        power: Of the adaptive weight: errors are divided by ``(error + 0.01)^power``; 0 is the plain squared error.
        improved: Predict the velocity beside ``u``, and use it as the tangent of the Jacobian-vector product (arXiv 2512.02012) instead of
            the pair's ``x_1 - x_0``, whose noise would enter the target twice.
    """

    meaning = ("improved",)
    steps: int = Field(default=1, ge=1)
    times: Times = Times(mean=0.4)
    same: float = Field(default=0.75, ge=0, le=1)
    power: float = Field(default=1.0, ge=0)
    improved: bool = False

    def build(self, width: int, layout: Layout, condition_width: int | None = None) -> MeanFlowHead:
        """See :meth:`HeadSettings.build`."""
        return MeanFlowHead(self.denoiser(width, layout, condition_width, outputs=1 + self.improved, times=2), layout, self)


class MeanFlowHead(IterativeHead):
    """Samples a token in one or a few steps of the mean velocity.

    *Guidance* combines mean velocities in sampling, ``u_null + guidance (u - u_null)``; the paper trains one scale instead, which needs
    unconditional hidden vectors in training. *Temperature* multiplies the initial noise: 1 is the model's distribution, 0 is deterministic.

    Args:
        network: Reads two times, ``SLOW t`` and ``SLOW (r - t)``; gives ``C`` numbers, or ``2 C`` where ``improved``.
    """

    edits = True
    loss_ranks_weights = False

    def __init__(self, network: AnyDenoiser, layout: Layout, settings: MeanFlow = MeanFlow()) -> None:
        super().__init__(network, layout, settings)
        self.times, self.same, self.power, self.improved = settings.times, settings.same, settings.power, settings.improved

    def loss_of_copies(self, targets: Tensor, draws: Draws, predict: Predict, mask: Tensor | None = None) -> Tensor:
        """Adaptively weighted squared error, summed over the values: about 1 per term if ``power`` is 1.

        In evaluation it is the loss of flow matching, so that losses compare: ``r = t``, and the mean over the values.
        """
        one, other = self.times.draw(draws), self.times.draw(draws)
        start, end = torch.minimum(one, other), torch.maximum(one, other)
        if not self.training:
            values = targets.shape[-1] if mask is None else mask.sum(-1)
            return self.errors(targets, draws.normal(targets.shape[1]).to(targets.dtype), one, one, predict, mask)[0] / values
        end = torch.where(draws.uniform() < self.same, start, end)
        errors = self.errors(targets, draws.normal(targets.shape[1]).to(targets.dtype), start, end, predict, mask)
        return torch.stack([self._weighted(error) for error in errors]).sum(0)

    def errors(
        self, targets: Tensor, noise: Tensor, start: Tensor, end: Tensor, predict: Predict, mask: Tensor | None = None
    ) -> list[Tensor]:
        """``|u - stopgrad(v + (r - t) du/dt)|^2`` summed over the values, ``(M,)``, and where ``improved`` the error of the velocity.

        ``targets`` are ``x_1``, ``noise`` is ``x_0``, both ``(M, C)``; ``start`` is ``t`` and ``end``, not before it, ``r``, both ``(M,)``;
        ``mask``: values that count, ``(M, C)`` bool; all by default.
        """
        x, velocity = between(noise, targets, start), targets - noise
        mean, *velocities = predict(x, self._when(start, end)).split(targets.shape[-1], dim=-1)
        tangent = velocities[0].detach() if velocities else velocity
        correction = torch.zeros_like(mean)
        rows = (end > start).nonzero()[:, 0]
        if len(rows):  # where r = t the product would be multiplied by 0
            slope = self.slope(x[rows], start[rows], end[rows], tangent[rows], predict, rows)
            correction = correction.index_copy(0, rows, (end - start)[rows, None] * slope)
        pairs = zip([mean, *velocities], [velocity + correction, velocity], strict=False)
        return [total((prediction - target).square(), mask) for prediction, target in pairs]

    @torch.no_grad()
    def slope(self, x: Tensor, start: Tensor, end: Tensor, tangent: Tensor, predict: Predict, rows: Tensor | None = None) -> Tensor:
        """``du/dt`` along the flow, ``(m, C)``: the Jacobian-vector product of ``(x, t, r) -> u`` with tangent ``(tangent, 1, 0)``."""

        def mean(x: Tensor, start: Tensor, end: Tensor) -> Tensor:
            return predict(x, self._when(start, end), rows)[:, : x.shape[-1]]

        with torch.autocast(x.device.type, enabled=False):
            tangents = (tangent, torch.ones_like(start), torch.zeros_like(end))
            product: Tensor = torch.func.jvp(mean, (x, start, end), tangents)[1]
        return product

    def _when(self, start: Tensor, end: Tensor) -> Tensor:
        return SLOW * torch.stack([start, end - start], dim=-1)

    def _weighted(self, error: Tensor) -> Tensor:
        return error / (error.detach() + ADAPTIVE) ** self.power

    def draw(self, evaluate: GuidedDenoiser, rng: PerSampleRNG, steps: int, temperature: float, sampler: str = "") -> Tensor:
        """``x_r = x_t + (r - t) u(x_t, t, r)`` on an even grid."""
        times = grid(evaluate.steps(steps), start=1 - evaluate.strength)
        x = begin(evaluate, temperature * self.initial(evaluate, rng), times[0])
        for start, end in pairwise(times):
            mean = evaluate(x, SLOW * start, SLOW * (end - start), share=start)[..., : self.channels]
            x = x + (end - start) * keeping(evaluate, mean, x, start)
            evaluate.on_state(x)
        return x
