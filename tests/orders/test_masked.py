"""The masked order against MaskGIT's numbers. Statistical tests: a right implementation fails each with probability below 1e-6."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from pydantic import ValidationError
from scipy import stats

from jielong.config.sampling import Schedule
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.orders.base import Step
from jielong.orders.masked import Masked, MaskedOrder
from jielong.orders.ratio import masked_share

ALARM = 1e-6
SCHEDULES: list[Schedule] = ["cosine", "arccos", "linear"]


def hidden_after(order: MaskedOrder, unknown: int, steps: int | None) -> list[int]:
    return [step.hidden_after for step in order.steps(unknown, steps)]


def test_masks_left_are_those_of_the_paper() -> None:
    order = Masked(schedule="cosine", steps=8).build()
    assert hidden_after(order, 256, None) == [251, 236, 212, 181, 142, 97, 49, 0]
    assert hidden_after(order, 256, 1) == [0]


def test_shares_meet_their_ends_and_known_values() -> None:
    for schedule in SCHEDULES:
        assert masked_share(0.0, schedule) == pytest.approx(1, abs=1e-12)
        assert masked_share(1.0, schedule) == pytest.approx(0, abs=1e-12)
        falling = [masked_share(r / 50, schedule) for r in range(51)]
        assert all(a > b for a, b in itertools.pairwise(falling))
    assert masked_share(2 / 3, "cosine") == pytest.approx(1 / 2)
    assert masked_share(1 / 2, "arccos") == pytest.approx(2 / 3)
    assert masked_share(1 / 4, "linear") == pytest.approx(3 / 4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_shares_that_are_whole_numbers_are_met_exactly(schedule: Schedule) -> None:
    """Rounding errors of the schedule must not reveal a token early: 100 in 10 linear steps is 10 a step."""
    order = Masked(schedule=schedule).build()
    for count, unknown in [(10, 100), (6, 12), (3, 6), (7, 70), (16, 256)]:
        for step in order.steps(unknown, count):
            exact = unknown * masked_share(step.progress, schedule)
            if abs(exact - round(exact)) < 1e-9:
                assert step.hidden_after == round(exact)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_masks_strictly_decrease_to_none_for_any_length_and_number_of_steps(schedule: Schedule) -> None:
    order = Masked(schedule=schedule).build()
    for unknown, count in itertools.product([1, 2, 3, 7, 16, 64, 255], [1, 2, 3, 8, 15, 16, 64, 255, 1000]):
        steps = list(order.steps(unknown, count))
        assert len(steps) == min(count, unknown)
        chain = [unknown, *(step.hidden_after for step in steps)]
        assert [step.hidden_before for step in steps] == chain[:-1]
        assert all(a > b for a, b in itertools.pairwise(chain))
        assert chain[-1] == 0
        assert steps[-1].progress == 1.0


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("choose", ["confidence", "random"])
def test_every_token_is_revealed_exactly_once(schedule: Schedule, choose: str) -> None:
    order = Masked(schedule=schedule, choose=choose).build()
    for length, count in [(1, 1), (5, 3), (16, 8), (16, 16), (9, 40)]:
        rng = PerSampleRNG(1, range(4))
        unknown = torch.ones(4, length, dtype=torch.bool)
        unknown[:, 1:3] = False  # some are known from the start
        times = (~unknown).int()
        for step in order.steps(int(unknown[0].sum()), count):
            confidence = torch.randn(4, length).clamp_max(0)  # with ties
            new = order.reveal(step, unknown, confidence, rng)
            assert not (new & ~unknown).any(), "a known token was drawn again"
            unknown = unknown & ~new
            times += new
            assert (unknown.sum(1) == step.hidden_after).all()
        assert (times == 1).all()


def test_without_noise_the_most_confident_are_kept() -> None:
    order = Masked(choice_temperature=0).build()
    confidence = -torch.rand(3, 20, generator=torch.Generator().manual_seed(0))
    unknown = torch.ones(3, 20, dtype=torch.bool)
    unknown[:, ::4] = False
    for step in order.steps(15, 4):
        new = order.reveal(step, unknown, confidence, PerSampleRNG(0, range(3)))
        left = unknown & ~new
        for row in range(3):
            if left[row].any():
                assert confidence[row][new[row]].min() >= confidence[row][left[row]].max()
        unknown = left


@pytest.mark.parametrize(
    "order", [Masked(choose="random").build(), Masked(choice_temperature=1e9).build()], ids=["random", "endless noise"]
)
def test_random_choice_is_uniform(order: MaskedOrder) -> None:
    """Over 3,000 pictures the first two of nine positions fall on all pairs alike, however confident the head is."""
    samples, n = 3000, 9
    step = Step(index=0, count=100, hidden_before=n, hidden_after=n - 2)
    confidence = -torch.arange(n).float().expand(samples, n)
    new = order.reveal(step, torch.ones(samples, n, dtype=torch.bool), confidence, PerSampleRNG(2, range(samples)))
    pairs = [tuple(row.nonzero().flatten().tolist()) for row in new]
    counts = [pairs.count(pair) for pair in itertools.combinations(range(n), 2)]
    assert sum(counts) == samples
    assert stats.chisquare(counts).pvalue > ALARM


def test_choice_noise_is_annealed_to_nothing_and_enters_as_gumbel_on_the_log_probability() -> None:
    """With noise ``t`` the chance that position ``i`` is kept first is the softmax of ``log p / t`` (the Gumbel-max trick)."""
    samples = 4000
    order = Masked(choice_temperature=2.0).build()
    steps = list(order.steps(8, 8))
    confidence = torch.tensor([-0.1, -1.0, -2.0, -4.0, -0.5, -3.0, -6.0, -0.2])
    unknown = torch.ones(samples, 8, dtype=torch.bool)
    first = order.reveal(steps[0], unknown, confidence.expand(samples, 8), PerSampleRNG(3, range(samples)))
    expected = (confidence / (2.0 * (1 - 1 / 8))).double().softmax(0) * samples
    assert stats.chisquare(first.sum(0).numpy(), expected.numpy()).pvalue > ALARM
    late = Step(index=7, count=8, hidden_before=8, hidden_after=7)
    assert (order.reveal(late, unknown, confidence.expand(samples, 8), PerSampleRNG(3, range(samples))).int().argmax(1) == 0).all()


def exceeds(x: float, schedule: Schedule) -> float:
    """``P(share > x)`` for ``r`` uniform: the inverse of the schedule."""
    return {"cosine": 2 / math.pi * math.acos(x), "arccos": math.cos(math.pi / 2 * x), "linear": 1 - x}[schedule]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_training_masks_follow_the_closed_form(schedule: Schedule) -> None:
    """Kolmogorov-Smirnov against ``P(ratio > x)``, for cosine ``2 arccos(x) / pi``; ceil(share N) > k exactly if share > k / N.

    The distribution is discrete, which makes the test's p-value an upper bound at most: the false-alarm bound stands.
    """
    n, samples = 64, 4000
    order = Masked(schedule=schedule).build()
    view = order.view(Layout((8, 8), vocabulary=2), PerSampleRNG(4, range(samples)))
    assert torch.equal(view.known, ~view.loss_mask)
    counts = view.loss_mask.sum(1)
    assert counts.min() >= 1
    assert counts.max() == n  # nearly everything hidden occurs
    above = torch.tensor([exceeds(k / n, schedule) for k in range(n + 1)])
    observed = torch.stack([(counts > k).float().mean() for k in range(n + 1)])
    distance = float((above - observed).abs().max())
    assert stats.kstwo.sf(distance, samples) > ALARM
    # Where masks fall is uniform. Items have differing counts, so compare position sums to their mean with the variance of each item.
    share = counts.double() / n
    expected, variance = share.sum(), (share * (1 - share)).sum()
    score = (view.loss_mask.double().sum(0) - expected) / variance.sqrt()
    assert stats.chi2.sf(float((score**2).sum()) * (n - 1) / n, n - 1) > ALARM


def test_mean_training_mask_ratio_of_cosine_is_two_over_pi() -> None:
    n, samples = 256, 3000
    view = Masked().build().view(Layout((n,), vocabulary=2), PerSampleRNG(5, range(samples)))
    ratio = view.loss_mask.double().mean(1)
    error = math.sqrt(1 / 2 - 4 / math.pi**2) / math.sqrt(samples)  # variance of cos(pi r / 2) is 1/2 - 4 / pi^2
    assert abs(float(ratio.mean()) - 2 / math.pi) < stats.norm.isf(ALARM / 2) * error + 0.5 / n  # ceil adds half a position


def test_masks_of_an_item_do_not_depend_on_the_batch() -> None:
    order, layout = Masked().build(), Layout((4, 4), vocabulary=2)
    assert torch.equal(order.view(layout, PerSampleRNG(6, [3])).loss_mask[0], order.view(layout, PerSampleRNG(6, range(5))).loss_mask[3])


def test_inputs_show_known_tokens_and_the_placeholder_elsewhere() -> None:
    order = Masked().build()
    values = torch.arange(10, 16).view(1, 6, 1)
    known = torch.tensor([[True, False, True, False, False, True]])
    inputs = order.inputs(lambda v: v.float(), values, known, torch.tensor([-1.0]), 1, 6)
    assert inputs.flatten().tolist() == [-1, 12, -1, -1, 15]
    assert not order.shifted


def test_settings_out_of_range_are_refused() -> None:
    for wrong in [{"steps": 0}, {"choice_temperature": -1}, {"schedule": "sqrt"}, {"choose": "best"}]:
        with pytest.raises(ValidationError):
            Masked(**wrong)
