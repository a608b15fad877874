"""The test of distributions itself: what it calls equal, what it notices, and that its bound is one."""

from __future__ import annotations

import math

import pytest
import torch
from distribution import assert_same_distribution, gap
from torch import Tensor


def normal(n: int, channels: int = 2, seed: int = 0, mean: float = 0.0, scale: float = 1.0) -> Tensor:
    return mean + scale * torch.randn(n, channels, generator=torch.Generator().manual_seed(seed))


def test_the_distance_of_two_points_is_known() -> None:
    """E of points at 0 and d is 2 d; of normals N(0, 1) and N(d, 1) in one dimension, twice (mean |N(d, 2)| - mean |N(0, 2)|)."""
    assert gap(torch.zeros(4, 1), torch.full((5, 1), 3.0)).distance == pytest.approx(6)
    shift = 1.5
    exact = 2 / math.sqrt(math.pi) * math.exp(-(shift**2) / 4) + shift * math.erf(shift / 2)
    expected = 2 * (exact - 2 / math.sqrt(math.pi))
    assert gap(normal(1500, 1), normal(1500, 1, seed=1, mean=shift)).distance == pytest.approx(expected, rel=0.1)


def test_equal_distributions_stay_within_the_bound_that_they_should_cross_now_and_then() -> None:
    """A bound of one in five is crossed in less than half of 40 trials (but for a chance below 1e-4), that of one in a million never."""
    crossed = 0
    for seed in range(40):
        a, b = normal(120, 3, 2 * seed), normal(80, 3, 2 * seed + 1)
        assert gap(a, b).by_chance
        crossed += not gap(a, b, alarm=0.2).by_chance
    assert crossed < 20
    assert_same_distribution(normal(400), normal(400, seed=9))


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (normal(800, seed=1, mean=0.4), "a shift of 0.4"),
        (normal(800, seed=1, scale=0.7), "a spread of 0.7"),
        (normal(800, seed=1).sign() * 0.8, "two points, with nearly the mean and spread of a normal"),
        (normal(800, 1, seed=1).expand(-1, 2), "values that go together"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_differs_is_noticed(other: Tensor, what: str) -> None:
    with pytest.raises(AssertionError, match="energy distance"):
        assert_same_distribution(normal(800), other)
