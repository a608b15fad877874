from __future__ import annotations

import pytest
import torch

from jielong.networks.conditioning import Conditioning


def make(batch: int, length: int) -> Conditioning:
    return Conditioning(torch.randn(batch, length, 4), torch.rand(batch, length) < 0.5, torch.randn(batch, 4))


def test_join_and_take_apart() -> None:
    a, b = make(2, 3), make(1, 5)
    both = Conditioning.cat(a, b)
    assert len(both) == 3
    assert torch.equal(both.states[:2, :3], a.states)
    assert torch.equal(both.mask[:2, :3], a.mask)
    assert not both.mask[:2, 3:].any()
    last = both.rows(slice(2, 3))
    assert all(torch.equal(getattr(last, name), getattr(b, name)) for name in ("states", "mask", "pooled"))


@pytest.mark.parametrize(
    ("states", "mask", "pooled", "words"),
    [
        ((2, 3), torch.ones(2, 3).bool(), (2, 4), "batch, length, width"),
        ((2, 3, 4), torch.ones(2, 3), (2, 4), "must be bool"),
        ((2, 3, 4), torch.ones(2, 4).bool(), (2, 4), "must be bool"),
        ((2, 3, 4), torch.ones(2, 3).bool(), (2, 5), "pooled"),
    ],
)
def test_wrong_shapes_are_refused(states: tuple[int, ...], mask: torch.Tensor, pooled: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Conditioning(torch.zeros(states), mask, torch.zeros(pooled))
