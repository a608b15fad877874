"""MeanFlow: the mean velocity of a whole jump, so that one evaluation makes a token (arXiv 2505.13447; improved, arXiv 2512.02012).

Between a time ``t`` and a later ``r``, ``u(x_t, t, r)`` is the mean of the velocity along the flow, and ``x_r = x_t + (r - t) u`` lands
where following it would. Differentiating ``(r - t) u`` by ``t`` along the flow gives what it is learned by (equation 6):

    u = v + (r - t) du/dt        du/dt = v d_x u + d_t u        a Jacobian-vector product, tangent (v, 1, 0) for (x, t, r)

Time runs from noise, 0, to data, 1, as everywhere here. The paper counts from the data: its ``t`` is our ``1 - t``, its ``u`` our ``-u``,
and its times of mean -0.4 are ours of mean 0.4.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field, SerializeAsAny
from torch import Tensor

from jielong.config.registry import OfFamily, Part
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.continuous import Evaluations, IterativeHead, Predict, total
from jielong.heads.flow_matching import SLOW, Times, between, grid
from jielong.networks.denoiser import MLP, AnyDenoiser, NetworkSettings

ADAPTIVE = 0.01
"""Keeps the adaptive weight finite where the error vanishes; the paper's value, for errors summed over the values."""


class MeanFlowHead(IterativeHead):
    """Learns mean velocities, and jumps from noise to a token in one step or few.

    *Guidance* combines mean velocities when sampling, ``u_null + guidance (u - u_null)``. (The paper can train one scale of it in
    instead, which asks for the hidden vector without condition in training.) *Temperature* multiplies the noise a draw starts from: 1 is
    the model's own distribution, 0 gives one and the same token always.

    Args:
        network: Reads two times, ``t`` and ``r - t``, slowed down; gives ``C`` numbers, or ``2 C`` where ``improved``.
        layout: The tokens to predict.
        steps: Jumps a draw.
        diffusion_batch_mul: Noisy copies of each token in a loss.
        times: Where it learns: ``t`` and ``r`` are two draws in order.
        same: Share of copies with ``r = t``, for which this is flow matching.
        power: Of the adaptive weight: errors are divided by ``(error + 0.01)^power``; 0 is the plain square error.
        improved: Learn the velocity beside ``u``, and let the product's tangent be the learned one. The paper's is ``x_1 - x_0`` of the
            one pair, whose chance is then in the target twice.
    """

    def __init__(
        self,
        network: AnyDenoiser,
        layout: Layout,
        *,
        steps: int = 1,
        diffusion_batch_mul: int = 4,
        times: Times = Times(mean=0.4),
        same: float = 0.75,
        power: float = 1.0,
        improved: bool = False,
    ) -> None:
        super().__init__(network, layout, steps=steps, diffusion_batch_mul=diffusion_batch_mul)
        self.times, self.same, self.power, self.improved = times, same, power, improved

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


class MeanFlow(Part, family="head", name="mean_flow"):
    """Settings of the MeanFlow head, for continuous tokens of unit standard deviation.

    Attributes:
        network: The network that predicts mean velocities.
        steps: Evaluations of it a draw.
        diffusion_batch_mul: Noisy copies of each token in a loss.
        times: At which times it learns; both ends of a jump are drawn from them.
        same: Share of copies that learn the plain velocity (``r = t``). Without them it fails; the improved form asks for 0.5.
        power: Of the adaptive weight; 0 is the plain square error.
        improved: The improved form, which predicts the velocity too.
    """

    network: Annotated[SerializeAsAny[NetworkSettings], OfFamily("network")] = MLP()
    steps: int = Field(default=1, ge=1)
    diffusion_batch_mul: int = Field(default=4, ge=1)
    times: Times = Times(mean=0.4)
    same: float = Field(default=0.75, ge=0, le=1)
    power: float = Field(default=1.0, ge=0)
    improved: bool = False

    def build(self, width: int, layout: Layout) -> MeanFlowHead:
        """The head for tokens of this layout."""
        return MeanFlowHead(
            self.network.build(
                inputs=layout.channels, outputs=(1 + self.improved) * layout.channels, hidden=width, times=2, axes=len(layout.extents)
            ),
            layout,
            steps=self.steps,
            diffusion_batch_mul=self.diffusion_batch_mul,
            times=self.times,
            same=self.same,
            power=self.power,
            improved=self.improved,
        )
