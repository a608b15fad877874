"""Intervals against their published forms and their coverage."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from jielong.apps.lab.statistics import bootstrap, exact, level, ranking, share, student


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_student_is_scipys() -> None:
    runs = draws(5)
    estimate = student(runs.tolist(), 0.98, "dB")
    low, high = stats.t.interval(0.98, 4, loc=runs.mean(), scale=runs.std() / math.sqrt(5))
    assert (estimate.low, estimate.high) == (pytest.approx(low), pytest.approx(high))
    assert estimate.value == pytest.approx(runs.mean().item())
    assert (estimate.n, estimate.unit) == (5, "dB")


def test_one_run_has_no_interval() -> None:
    estimate = student([3.0])
    assert (estimate.value, estimate.low, estimate.high) == (3.0, -math.inf, math.inf)
    assert estimate.to_json()["low"] is None
    assert bootstrap(torch.tensor([1.0]), 0).high == math.inf


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (10, 10), (57, 96)])
def test_share_is_wilsons(hits: int, n: int) -> None:
    estimate = share(torch.arange(n) < hits, 0.9)
    wanted = stats.binomtest(hits, n).proportion_ci(0.9, method="wilson")
    assert (estimate.value, estimate.low, estimate.high) == (
        hits / n,
        pytest.approx(wanted.low, abs=1e-9),
        pytest.approx(wanted.high, abs=1e-9),
    )


def test_ranking_is_the_area_under_the_roc_curve_and_ties_count_half() -> None:
    first, second = draws(40).mul(2).round(), draws(40, seed=1).mul(2).round()  # rounding makes ties
    wanted = roc_auc_score([1] * 40 + [0] * 40, torch.cat([first, second]))
    pairs = torch.stack([first, second], 1)
    assert ranking(torch.stack([pairs, pairs.flip(-1)])).tolist() == [pytest.approx(wanted), pytest.approx(1 - wanted)]


def test_a_bootstrap_interval_holds_the_truth_as_often_as_it_says() -> None:
    """300 samples of 50: at a coverage of 92 % (the percentile bootstrap's, of a mean at this size, being 94 %), fewer than 87 % happen
    once in 2,000."""
    held = sum(estimate.low <= 0 <= estimate.high for estimate in (bootstrap(draws(50, seed=seed), seed) for seed in range(300)))
    assert 0.87 <= held / 300 <= 0.99


def test_a_bootstrap_keeps_what_belongs_together() -> None:
    base = 10 * draws(100)
    paired = bootstrap(torch.stack([base + 0.1, base], 1), 0, statistic=lambda rows: (rows[..., 0] - rows[..., 1]).mean(1))
    assert paired.low == pytest.approx(0.1)
    assert paired.high == pytest.approx(0.1)
    assert bootstrap(base, 3) == bootstrap(base, 3)
    assert bootstrap(base, 3) != bootstrap(base, 4)


def test_several_checks_need_wider_intervals() -> None:
    assert level(1) == pytest.approx(0.95)
    assert level(5) == pytest.approx(0.99)
    values = draws(50)
    wide, narrow = bootstrap(values, 0, level(5)), bootstrap(values, 0, level(1))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_exact_numbers() -> None:
    estimate = exact(7, "s")
    assert estimate.low == estimate.value == estimate.high == 7
    assert str(estimate) == "7 [7, 7] s"


def test_impossible_values_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        bootstrap(torch.tensor([1.0, math.nan]), 0)
    with pytest.raises(ValueError, match="one run"):
        student([])
    with pytest.raises(ValueError, match="one item"):
        share(torch.tensor([], dtype=torch.bool))
