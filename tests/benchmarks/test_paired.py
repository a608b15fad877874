"""Paired ratios of Fréchet distances (benchmarks/paired.py)."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from running_scripts import ROOT, module_of

pytest.importorskip("scipy")


@pytest.fixture
def paired() -> ModuleType:
    return module_of(ROOT / "benchmarks" / "paired.py")


def test_the_interval_of_a_ratio_holds_the_true_one_nine_times_of_ten(paired: ModuleType) -> None:
    """Normals of unit covariance whose means are 2 and 1 from the reference's: the true ratio is 4."""
    held, width, unpaired = 0, 0.0, 0.0
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        reference, shared, separate = torch.randn(3, 64, 2, generator=generator)
        x, y = shared + torch.tensor([2.0, 0.0]), shared + torch.tensor([1.0, 0.0])
        ratio = paired.frechet_ratio(x, y, reference)
        assert ratio.low < ratio.value < ratio.high
        held += ratio.low <= 4 <= ratio.high
        width += ratio.high - ratio.low
        alone = paired.frechet_ratio(x, separate + torch.tensor([1.0, 0.0]), reference)
        unpaired += alone.high - alone.low
    assert 46 <= held <= 60  # of 60 at 90 %: fewer than 46 happen once in 1000
    assert width < unpaired


def test_a_ratio_of_equals_is_one_and_needs_pairs(paired: ModuleType) -> None:
    x, reference = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(0))
    ratio = paired.frechet_ratio(x, x, reference)
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="as many rows in each set"):
        paired.frechet_ratio(x, x[:-1], reference)
    with pytest.raises(ValueError, match="two a group"):
        paired.frechet_ratio(x, x, reference, groups=21)
