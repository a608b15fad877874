"""Steps and reveals: every position once, structure first, and the queue as random as it says."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats
from torch import Tensor

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.orders.masked import Masked
from jielong.orders.pace import plan_steps, reveal_queue
from jielong.orders.raster import Raster

ALARM = 1e-6
WHERE = Layout((4, 5)).coordinates()
N = len(WHERE)


def unknown(batch: int = 3, known: tuple[int, ...] = ()) -> Tensor:
    hidden = torch.ones(batch, N, dtype=torch.bool)
    hidden[:, list(known)] = False
    return hidden


@pytest.mark.parametrize("detail_steps", [None, 1, 3, 40])
@pytest.mark.parametrize("steps", [1, 2, 3, 8, N, 64])
@pytest.mark.parametrize("known", [(), (0, 7, 19), tuple(range(0, N, 2)), tuple(range(N - 1)), tuple(range(N))])
def test_reveals_add_up_and_each_reveals_something(detail_steps: int | None, steps: int, known: tuple[int, ...]) -> None:
    order, hidden = Masked(choose="random").build(), unknown(known=known)
    config = SamplingConfig(steps=steps, detail_steps=detail_steps)
    plan = plan_steps(order, config, WHERE, hidden)
    left = N - len(known)
    assert len(plan) <= min(steps, left)
    if detail_steps is None:
        assert len(plan) == min(steps, left)
    chain = [left, *(step.hidden_after for step in plan)]
    assert [step.hidden_before for step in plan] == chain[:-1]
    assert all(a > b for a, b in itertools.pairwise(chain)), "each step reveals at least one"
    assert chain[-1] == 0
    assert [(step.index, step.count) for step in plan] == [(index, len(plan)) for index in range(len(plan))]
    if not left:
        return
    queue = reveal_queue(order, config, WHERE, hidden, PerSampleRNG(0, range(3)))
    assert queue is not None
    for row in range(3):
        assert sorted(queue[row].tolist()) == hidden[row].nonzero().flatten().tolist()


def test_one_step_gives_everything_at_once_and_the_card_of_mar_the_rest() -> None:
    order = Masked(choose="random").build()
    assert [step.hidden_after for step in plan_steps(order, SamplingConfig(steps=1), WHERE, unknown())] == [0]
    square = Layout((16, 16)).coordinates()
    hidden = torch.ones(1, 256, dtype=torch.bool)
    whole = plan_steps(order, SamplingConfig(steps=256), square, hidden)
    assert [step.hidden_before - step.hidden_after for step in whole] == [1] * 256, "floor(cos) alone would reveal none in early steps"
    fast = [step.hidden_after for step in plan_steps(order, SamplingConfig(steps=64), square, hidden)]
    assert fast[:3] == [255, 254, 253]
    assert plan_steps(order, SamplingConfig(steps=8, schedule="linear"), square, hidden)[0].hidden_after == 224


def test_structure_comes_first_and_neighbours_of_details_are_known() -> None:
    order, config = Masked(choose="random").build(), SamplingConfig(steps=6, detail_steps=2)
    plan = plan_steps(order, config, WHERE, unknown())
    queue = reveal_queue(order, config, WHERE, unknown(), PerSampleRNG(1, range(3)))
    assert queue is not None
    assert len(plan) == 6
    assert plan[3].hidden_after == N // 2, "four of six steps are for the checkerboard"
    even = WHERE.sum(1) % 2 == 0
    assert even[queue[:, : N // 2]].all()
    assert not even[queue[:, N // 2 :]].any()
    apart = (WHERE[:, None] - WHERE[None]).abs().sum(-1)
    assert all(even[apart[position] == 1].all() for position in (~even).nonzero().flatten())


def test_the_queue_is_a_uniform_permutation_that_does_not_depend_on_the_batch() -> None:
    order, samples, n = Masked(choose="random").build(), 4000, 4
    queue = order.queue(torch.ones(samples, n, dtype=torch.bool), PerSampleRNG(2, range(samples)))
    assert queue is not None
    each = [tuple(row) for row in queue.tolist()]
    counts = [each.count(permutation) for permutation in itertools.permutations(range(n))]
    assert sum(counts) == samples
    assert stats.chisquare(counts).pvalue > ALARM
    alone = order.queue(torch.ones(1, n, dtype=torch.bool), PerSampleRNG(2, [5]))
    assert alone is not None
    assert torch.equal(alone[0], queue[5])


def test_orders_that_choose_after_drawing_have_no_queue_and_no_two_stages() -> None:
    for order in (Masked().build(), Raster().build()):
        assert reveal_queue(order, SamplingConfig(), WHERE, unknown(), PerSampleRNG(0, range(3))) is None
        with pytest.raises(ValueError, match="chooses positions before it draws"):
            reveal_queue(order, SamplingConfig(detail_steps=1), WHERE, unknown(), PerSampleRNG(0, range(3)))
