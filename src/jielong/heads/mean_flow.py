"""MeanFlow: the mean velocity of a whole jump, so that one evaluation makes a token (arXiv 2505.13447; improved, arXiv 2512.02012).

Between a time ``t`` and a later ``r``, ``u(x_t, t, r)`` is the mean of the velocity along the flow, and ``x_r = x_t + (r - t) u`` lands
where following it would. Differentiating ``(r - t) u`` by ``t`` along the flow gives what it is learned by (equation 6):

    u = v + (r - t) du/dt        du/dt = v d_x u + d_t u        a Jacobian-vector product, tangent (v, 1, 0) for (x, t, r)

Time runs from noise, 0, to data, 1, as everywhere here. The paper counts from the data: its ``t`` is our ``1 - t``, its ``u`` our ``-u``,
and its times of mean -0.4 are ours of mean 0.4.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor

from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.continuous import Evaluations, IterativeHead, IterativeSettings, Predict, total
from jielong.heads.flow_matching import SLOW, Times, between, grid
from jielong.networks.denoiser import AnyDenoiser

ADAPTIVE = 0.01
"""Keeps the adaptive weight finite where the error vanishes; the paper's value, for errors summed over the values."""


class MeanFlow(IterativeSettings, family="head", name="mean_flow"):
    """Settings of the MeanFlow head.

    Attributes:
        times: Distribution of training times; ``t`` and ``r`` are two draws in order.
        same: Fraction of copies with ``r = t``, for which this is flow matching. Training fails without them; the improved form takes 0.5.
        power: Of the adaptive weight: errors are divided by ``(error + 0.01)^power``; 0 is the plain squared error.
        improved: Predict the velocity beside ``u``, and use it as the tangent of the Jacobian-vector product (arXiv 2512.02012) instead of
            the pair's ``x_1 - x_0``, whose noise would enter the target twice.
    """

    steps: int = Field(default=1, ge=1)
    times: Times = Times(mean=0.4)
    same: float = Field(default=0.75, ge=0, le=1)
    power: float = Field(default=1.0, ge=0)
    improved: bool = False

    def build(self, width: int, layout: Layout) -> MeanFlowHead:
        """See :meth:`HeadSettings.build`."""
        return MeanFlowHead(self.denoiser(width, layout, outputs=1 + self.improved, times=2), layout, self)


class MeanFlowHead(IterativeHead):
    """Learns mean velocities, and jumps from noise to a token in one step or few.

    *Guidance* combines mean velocities when sampling, ``u_null + guidance (u - u_null)``. (The paper can train one scale of it in
    instead, which asks for the hidden vector without condition in training.) *Temperature* multiplies the noise a draw starts from: 1 is
    the model's own distribution, 0 gives one and the same token always.

    Args:
        network: Reads two times, ``t`` and ``r - t``, slowed down; gives ``C`` numbers, or ``2 C`` where ``improved``.
        layout: The tokens to predict.
        settings: See :class:`MeanFlow`.
    """

    def __init__(self, network: AnyDenoiser, layout: Layout, settings: MeanFlow = MeanFlow()) -> None:
        super().__init__(network, layout, settings)
        self.times, self.same, self.power, self.improved = settings.times, settings.same, settings.power, settings.improved

    def loss_of_copies(self, targets: Tensor, predict: Predict, real: Tensor | None = None) -> Tensor:
        """Square error summed over the values, weighted: near 1 a term whatever the error, as long as ``power`` is 1.

        Outside training, where losses are compared, it is flow matching's: all copies have ``r = t``, and errors are means over the values.
        """
        count, device = len(targets), targets.device
        one, other = self.times.draw(count, device), self.times.draw(count, device)
        start, end = torch.minimum(one, other), torch.maximum(one, other)
        if not self.training:
            values = targets.shape[-1] if real is None else real.sum(-1)
            return self.errors(targets, torch.randn_like(targets), one, one, predict, real)[0] / values
        end = torch.where(torch.rand(count, device=device) < self.same, start, end)
        errors = self.errors(targets, torch.randn_like(targets), start, end, predict, real)
        return torch.stack([self._weighted(error) for error in errors]).sum(0)

    def errors(
        self, targets: Tensor, noise: Tensor, start: Tensor, end: Tensor, predict: Predict, real: Tensor | None = None
    ) -> list[Tensor]:
        """``|u - stopgrad(v + (r - t) du/dt)|^2`` summed over the values, ``(M,)``; where ``improved``, that of the velocity as well.

        Args:
            targets: Tokens ``x_1``, ``(M, C)``.
            noise: ``x_0``, ``(M, C)``.
            start: ``t``, ``(M,)``.
            end: ``r``, ``(M,)``, not before ``t``.
            predict: The network at these rows.
            real: Which values count, ``(M, C)`` bool; all by default.
        """
        x, velocity = between(noise, targets, start), targets - noise
        mean, *own = predict(x, self._when(start, end)).split(targets.shape[-1], dim=-1)
        along = own[0].detach() if own else velocity
        correction = torch.zeros_like(mean)
        rows = (end > start).nonzero()[:, 0]
        if len(rows):  # where r = t the product would be multiplied by 0
            slope = self.slope(x[rows], start[rows], end[rows], along[rows], predict, rows)
            correction = correction.index_copy(0, rows, (end - start)[rows, None] * slope)
        pairs = zip([mean, *own], [velocity + correction, velocity], strict=False)
        return [total((found - wanted).square(), real) for found, wanted in pairs]

    @torch.no_grad()
    def slope(self, x: Tensor, start: Tensor, end: Tensor, along: Tensor, predict: Predict, rows: Tensor | None = None) -> Tensor:
        """``du/dt`` along the flow, ``(m, C)``: the Jacobian-vector product of ``(x, t, r) -> u`` with tangent ``(along, 1, 0)``."""

        def mean(x: Tensor, start: Tensor, end: Tensor) -> Tensor:
            return predict(x, self._when(start, end), rows)[:, : x.shape[-1]]

        with torch.autocast(x.device.type, enabled=False):
            tangents = (along, torch.ones_like(start), torch.zeros_like(end))
            product: Tensor = torch.func.jvp(mean, (x, start, end), tangents)[1]
        return product

    def _when(self, start: Tensor, end: Tensor) -> Tensor:
        return SLOW * torch.stack([start, end - start], dim=-1)

    def _weighted(self, error: Tensor) -> Tensor:
        return error / (error.detach() + ADAPTIVE) ** self.power

    def draw(self, evaluate: Evaluations, rng: PerSampleRNG, steps: int, temperature: float) -> Tensor:
        """``x_r = x_t + (r - t) u(x_t, t, r)`` on an even grid."""
        x = temperature * self.initial(evaluate, rng)
        for start, end in pairwise(grid(steps)):
            x = x + (end - start) * evaluate(x, SLOW * start, SLOW * (end - start))[..., : self.channels]
            evaluate.on_state(x)
        return x
