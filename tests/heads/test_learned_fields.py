"""What heads learn against what is known exactly: the velocity and score of a Gaussian, and draws of a mixture over a whole block."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from distribution import assert_same_distribution, gap
from flow_maps import gaussian_velocity
from torch import Tensor

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import NO_CONTEXT, HeadContext
from jielong.heads.continuous import GuidedDenoiser, IterativeHead
from jielong.heads.diffusion import Diffusion, DiffusionHead
from jielong.heads.flow_matching import FlowMatching, Times
from jielong.heads.mean_flow import MeanFlow
from jielong.networks.denoiser import MLP
from jielong.networks.dit import DiT

MEAN, DEVIATION = torch.tensor([0.5, -0.3]), 0.7


def trained(
    head: IterativeHead, targets: Callable[[int], Tensor], steps: int, batch: int, lr: float, context: HeadContext = NO_CONTEXT
) -> Any:
    """The head after training on ``targets`` without a condition."""
    optimizer = torch.optim.Adam(head.parameters(), lr=lr, betas=(0.9, 0.99))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
        values = targets(batch)
        loss = head.loss(values.new_zeros(*values.shape[:-1], 4), values, context).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.eval()


def gaussian(count: int) -> Tensor:
    return MEAN + DEVIATION * torch.randn(count, 2)


def error(found: Tensor, known: Tensor) -> float:
    """Root mean square over that of what is known."""
    return float(((found - known).square().mean() / known.square().mean()).sqrt())


@torch.no_grad()
def test_a_learned_velocity_is_that_of_the_gaussian() -> None:
    """A narrow one: the noise of the target, ``pi / 2`` times the deviation, is what training has to average out."""

    def narrow(count: int) -> Tensor:
        return MEAN + 0.25 * torch.randn(count, 2)

    with torch.enable_grad():
        torch.manual_seed(0)
        settings = FlowMatching(network=MLP(layers=1, width=32), times=Times(kind="uniform"), diffusion_batch_mul=1)
        head = trained(settings.build(4, Layout((1,), 2)), narrow, 700, 2048, 1e-2)
    time = torch.rand(20_000, 1)
    x = torch.lerp(torch.randn(20_000, 2), narrow(20_000), time)
    found = head.network(x, time, torch.zeros(20_000, 4))
    assert error(found, gaussian_velocity(x, time, MEAN, 0.25)) < 0.02


@pytest.mark.parametrize("prediction", ["v", "edm"])
@torch.no_grad()
def test_a_learned_score_is_that_of_the_gaussian(prediction: Any) -> None:
    """Of ``x = a x_0 + s e``: ``-E[e | x] / s = -(x - a m) / (a^2 d^2 + s^2)``."""
    with torch.enable_grad():
        torch.manual_seed(0)
        settings = Diffusion(network=MLP(layers=1, width=32), prediction=prediction, variance="fixed", diffusion_batch_mul=1)
        head: DiffusionHead = trained(settings.build(4, Layout((1,), 2)), gaussian, 500, 2048, 1e-2)
    found, known = [], []
    for level in head.levels.plan(20, karras=True).levels()[2:-5]:  # where both parts of the estimate matter
        x = level.signal * gaussian(2000) + level.spread * torch.randn(2000, 2)
        estimate = head._denoise(GuidedDenoiser(head.network, torch.zeros(1, 2000, 4)), x[None], level)
        found.append(-estimate.noise[0])
        known.append(-level.spread * (x - level.signal * MEAN) / (level.signal**2 * DEVIATION**2 + level.spread**2))
    assert error(torch.cat(found), torch.cat(known)) < 0.02


BLOCK = Layout((2,), channels=2)
NETWORK = DiT(layers=1, width=32, heads=2)


def pairs(count: int) -> Tensor:
    """Two tokens that lie at opposite points: a mixture over the block, ``(count, 2, 2)``, of which each token alone says nothing."""
    middles = torch.tensor([[1.2, 0.4], [-0.5, 1.0], [-0.8, -1.1]])[torch.randint(3, (count,))]
    return torch.stack([middles, -middles], 1) + 0.25 * torch.randn(count, 2, 2)


@pytest.mark.parametrize(
    ("settings", "steps", "evaluations"),
    [
        (Diffusion(network=NETWORK, variance="fixed", sampler="heun", schedule="linear", diffusion_batch_mul=1), 400, 39),
        (Diffusion(network=NETWORK, variance="fixed", prediction="edm", sampler="dpmpp_2m", diffusion_batch_mul=1), 400, 25),
        (MeanFlow(network=NETWORK, power=0.0, diffusion_batch_mul=1), 400, 4),
    ],
    ids=["diffusion", "edm", "mean_flow"],
)
def test_a_joint_head_draws_a_mixture_over_a_block(settings: Any, steps: int, evaluations: int) -> None:
    """The bound is what chance exceeds once in a million (tests/heads/distribution.py); tokens of different draws exceed it."""
    torch.manual_seed(0)
    context = HeadContext(coords=BLOCK.coordinates())
    head = trained(settings.build(4, BLOCK), pairs, steps, 128, 5e-3, context)
    with torch.no_grad():
        sampling = SamplingConfig(num_inference_steps=evaluations)
        found = head.sample(torch.zeros(500, 2, 4), PerSampleRNG(0, range(500)), sampling, context).values
    torch.manual_seed(1)
    exact = pairs(500).flatten(1)
    assert_same_distribution(found.flatten(1), exact)
    assert not gap(torch.cat([found[:, 0], found.roll(1, 0)[:, 1]], 1), exact).by_chance
