"""Every head of continuous tokens, taught two distributions by two hidden vectors, against an exact sampler; and what only some can do.

What is bounded is the energy distance: chance alone exceeds the bound once in a million (tests/heads/distribution.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from distribution import assert_same_distribution, gap
from torch import Tensor

from jielong.apps.lab.toy_tasks import continuous_heads, sample_head, train_head
from jielong.core.tokens import Layout
from jielong.heads.base import Head
from jielong.heads.flow_matching import FlowMatching
from jielong.networks.denoiser import MLP

STEPS, DRAWS = 500, 250
NETWORK = {"mlp": {"layers": 2, "width": 64}}
HEADS = continuous_heads(
    4,
    2,
    STEPS * 128,
    NETWORK,
    {
        "gaussian_mixture": {"components": 4},
        "energy": {"layers": 2, "width": 64},
        "semantic_acoustic": {"acoustic": {"flow_matching": {"network": NETWORK}}},
        "consistency": {"levels": {"last": 160}},
        "mean_flow": {"power": 0},  # its adaptive weight moves the minimum away from the mean, by which the truth would be met
    },
)
EXACT = {name: part for name, part in HEADS.items() if name != "regression"}
EVALUATIONS = {"diffusion": 50, "flow_matching": 40, "mean_flow": 4, "shortcut": 16, "consistency": 2}


@dataclass(frozen=True)
class TwoLessons:
    """The first hidden vector means a stretched Gaussian off the middle, the second two Gaussians of unequal weight."""

    hidden: Tensor = torch.tensor([[1.0, -1.0, 0.5, 0.0], [-1.0, 0.5, 1.0, 1.0]])  # noqa: RUF009 (nothing writes to it)
    channels: int = 2

    def sample(self, count: int) -> Tensor:
        normal = torch.randn(2, count, 2)
        one = torch.tensor([0.5, -0.5]) + normal[0] @ torch.tensor([[1.0, 0.0], [0.6, 0.5]]).T
        middles = torch.where(torch.rand(count, 1) < 0.7, torch.tensor([-1.0, 0.5]), torch.tensor([1.2, -0.4]))
        return torch.stack([one, middles + 0.3 * normal[1]])


def drawn(part: Any, steps: int) -> Tensor:
    """``(2, DRAWS, 2)``."""
    head = train_head(part, TwoLessons(), steps, seed=0)
    name = next(name for name, each in HEADS.items() if each is part)
    return sample_head(head, TwoLessons(), 1, DRAWS, 1, EVALUATIONS.get(name))[0]


def fresh() -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return TwoLessons().sample(1000)


@pytest.mark.parametrize("name", EXACT)
def test_a_fitted_head_draws_a_gaussian_and_two(name: str) -> None:
    for found, exact in zip(drawn(EXACT[name], STEPS), fresh(), strict=True):
        assert_same_distribution(found, exact)


def test_the_bound_rejects_other_distributions() -> None:
    """The bound is not so wide that anything passes: a head of a few steps, and regression, whose answers are means."""
    young, averaged = drawn(EXACT["diffusion"], 5), drawn(HEADS["regression"], STEPS)
    for found in (young, averaged):
        assert not any(gap(each, exact).by_chance for each, exact in zip(found, fresh(), strict=True))


@pytest.mark.parametrize("name", [name for name in HEADS if name != "gaussian_mixture"])
def test_a_head_without_a_density_says_so(name: str) -> None:
    head: Head = HEADS[name].build(4, Layout((1,), 2))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"has no likelihood; for continuous tokens take the head gaussian_mixture"):
        head.log_prob(torch.randn(3, 4), torch.randn(3, 2))


def test_an_untrained_flow_errs_by_the_whole_velocity() -> None:
    """It says 0 of ``x_1 - x_0``: for tokens of unit deviation the mean loss is 2, of fixed ones ``|x_1|^2 / C + 1``."""
    head = FlowMatching(network=MLP(layers=1, width=8), diffusion_batch_mul=1).build(4, Layout((1,), 2))
    torch.manual_seed(0)
    hidden = torch.randn(40_000, 4)
    # Squares of normals of variance 2 have a deviation of sqrt(8); two numbers a token.
    assert head.loss(hidden, torch.randn(40_000, 2)).mean().item() == pytest.approx(2.0, abs=5 * (8 / 80_000) ** 0.5)
    fixed = torch.tensor([3.0, -1.0]).expand(40_000, -1)
    # (a - e)^2 has variance 2 + 4 a^2.
    assert head.loss(hidden, fixed).mean().item() == pytest.approx(6.0, abs=5 * ((2 + 4 * 9 + 2 + 4) / 4 / 40_000) ** 0.5)
