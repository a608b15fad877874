"""The kernel distance against torchmetrics' and against its own promises."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from jielong.evaluation.kernel import contributions, kernel_distance


def features(n: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def test_equals_torchmetrics() -> None:
    x, y = features(30, 0, 0.3), features(30, 1)
    assert kernel_distance(x, y) == pytest.approx(poly_mmd(x, y).item(), rel=1e-9)


def test_is_unbiased() -> None:
    """Equal distributions: the mean of 200 distances is within 4 of its standard errors of zero (once in 15,000 it is not)."""
    distances = torch.tensor([kernel_distance(features(20, 2 * seed), features(20, 2 * seed + 1)) for seed in range(200)])
    assert distances.mean().abs() < 4 * distances.std() / 200**0.5
    assert (distances < 0).any()


def test_contributions_add_up_and_differences_are_those_of_distances() -> None:
    x, z, y = features(25, 0, 0.5), features(25, 1, 0.2), features(40, 2)
    difference = (contributions(x, y) - contributions(z, y)).mean().item()
    assert difference == pytest.approx(kernel_distance(x, y) - kernel_distance(z, y), rel=1e-9)


def test_the_spread_of_contributions_is_that_of_the_distance() -> None:
    """First-order theory at n = 60, within 20 % of the spread over 300 redraws (whose own error is 4 %)."""
    y = features(60, 10_000)
    redrawn = torch.tensor([kernel_distance(features(60, seed, 0.5), y) for seed in range(300)])
    promised = torch.stack([contributions(features(60, seed, 0.5), y).std() / 60**0.5 for seed in range(50)]).mean()
    assert promised.item() == pytest.approx(redrawn.std().item(), rel=0.2)


def test_what_is_no_set_of_features_is_refused() -> None:
    with pytest.raises(ValueError, match="two sets"):
        kernel_distance(torch.zeros(1, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="finite"):
        contributions(torch.full((4, 3), torch.nan), torch.zeros(4, 3))
