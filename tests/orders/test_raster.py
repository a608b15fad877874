from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.orders.raster import Raster

LAYOUT = Layout((2, 3), vocabulary=50)


def embed(values: Tensor) -> Tensor:
    return values.float()  # a token's vector is its number, so that one can read who stands where


def test_every_position_is_a_block() -> None:
    order = Raster().build()
    assert order.blocks(LAYOUT).tolist() == [0, 1, 2, 3, 4, 5]
    assert order.spans(LAYOUT) == [(i, i + 1) for i in range(6)]
    assert order.shifted


@pytest.mark.parametrize(("start", "stop"), [(0, 6), (0, 1), (1, 2), (2, 5), (5, 6)])
def test_position_i_reads_token_i_minus_1_and_nothing_else(start: int, stop: int) -> None:
    values = torch.arange(10, 22).view(2, 6, 1)
    chain = torch.cat([torch.full((2, 1, 1), -1.0), values[:, :-1].float()], dim=1)  # the placeholder, then all tokens but the last
    unknown = torch.zeros(2, 6, dtype=torch.bool)
    inputs = Raster().build().inputs(embed, values, unknown, torch.tensor([-1.0]), start, stop)
    assert torch.equal(inputs, chain[:, start:stop])


def test_training_asks_for_everything() -> None:
    view = Raster().build().view(LAYOUT, PerSampleRNG(0, range(3)))
    assert view.loss_mask.shape == (3, 6)
    assert view.loss_mask.all()


def test_a_block_takes_one_step_that_reveals_it() -> None:
    order = Raster().build()
    (step,) = order.steps(1, None)
    assert (step.hidden_before, step.hidden_after, step.progress) == (1, 0, 1.0)
    unknown = torch.ones(2, 1, dtype=torch.bool)
    assert torch.equal(order.reveal(step, unknown, torch.zeros(2, 1), PerSampleRNG(0, range(2))), unknown)
