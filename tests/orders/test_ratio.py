"""Mask ratios against the distributions they are named after. A right implementation fails a test with probability below 1e-6."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from scipy import stats

from jielong.config.sampling import Schedule
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.orders.masked import Masked
from jielong.orders.ratio import Ratio, masked_share, progress_at

ALARM = 1e-6
SAMPLES = 4000
SCHEDULES: list[Schedule] = ["cosine", "arccos", "linear", "square", "cubic"]


def test_mar_draws_a_truncated_normal() -> None:
    """Kolmogorov-Smirnov against scipy's, with MAR's numbers: mean 1, deviation 0.25, cut to [0.7, 1]."""
    drawn = Ratio(kind="truncated_normal", per="item").draw(PerSampleRNG(0, range(SAMPLES)), "cosine")
    assert 0.7 <= float(drawn.min()) <= float(drawn.max()) <= 1.0
    reference = stats.truncnorm((0.7 - 1.0) / 0.25, 0.0, loc=1.0, scale=0.25)
    assert stats.kstest(drawn.double().numpy(), reference.cdf).pvalue > ALARM
    other = Ratio(kind="truncated_normal", mean=0.5, std=0.1, low=0.2, high=0.6, per="item").draw(PerSampleRNG(1, range(SAMPLES)), "cosine")
    assert stats.kstest(other.double().numpy(), stats.truncnorm(-3, 1, loc=0.5, scale=0.1).cdf).pvalue > ALARM


def test_a_schedule_from_a_lowest_ratio_on_is_givts() -> None:
    """``cos(pi u / 2)`` with ``u`` uniform up to 0.7: never below 0.454."""
    low = math.cos(math.pi / 2 * 0.7)
    drawn = Ratio(low=low).draw(PerSampleRNG(2, range(SAMPLES)), "cosine").double()
    assert float(drawn.min()) >= low - 1e-6
    uniform = (2 / math.pi * drawn.clamp(max=1.0).acos() / 0.7).numpy()
    assert stats.kstest(uniform, "uniform").pvalue > ALARM


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_and_their_inverses(schedule: Schedule) -> None:
    for step in range(51):
        assert progress_at(masked_share(step / 50, schedule), schedule) == pytest.approx(step / 50, abs=1e-6)
    assert masked_share(0.5, "square") == pytest.approx(3 / 4)
    assert masked_share(0.5, "cubic") == pytest.approx(7 / 8)


def test_mar_masks_the_same_number_in_all_items_of_a_batch_and_another_in_the_next() -> None:
    order, layout = Masked(choose="random", ratio=Ratio(kind="truncated_normal")).build(), Layout((8, 8), channels=3)
    counts = [order.view(layout, PerSampleRNG(seed, range(16))).loss_mask.sum(1) for seed in range(40)]
    assert all((each == each[0]).all() for each in counts)
    drawn = {int(each[0]) for each in counts}
    assert len(drawn) > 5
    assert math.ceil(0.7 * 64) <= min(drawn) <= max(drawn) <= 64
    masks = order.view(layout, PerSampleRNG(0, range(16))).loss_mask
    assert len({tuple(row.tolist()) for row in masks}) == 16, "but places of their own"
    each = Masked(ratio=Ratio(kind="truncated_normal", per="item")).build().view(layout, PerSampleRNG(0, range(64))).loss_mask.sum(1)
    assert len(each.unique()) > 5


def test_the_default_is_as_it_was() -> None:
    """MaskGIT's: a ratio an item, by the schedule."""
    uniform = PerSampleRNG(3, range(50)).uniform()
    drawn = Ratio().draw(PerSampleRNG(3, range(50)), "cosine")
    assert torch.equal(drawn, torch.tensor([math.cos(math.pi / 2 * u) for u in uniform.tolist()]))


def test_settings_out_of_range_are_refused() -> None:
    for wrong in [{"low": 0.8, "high": 0.5}, {"std": 0}, {"kind": "normal"}, {"per": "step"}, {"kind": "truncated_normal", "high": 0.6}]:
        with pytest.raises(ValidationError):
            Ratio(**wrong)
