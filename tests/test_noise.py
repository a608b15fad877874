"""Random numbers belong to a sample. Statistical tests: a right implementation fails each with probability below 1e-6 a choice of seeds."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats

from jielong.core.rng import PerSampleRNG

ALARM = 1e-6
KINDS = ["uniform", "normal", "gumbel"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(), (4,), (17,), (3, 5)])
def test_a_sample_draws_the_same_numbers_whatever_stands_beside_it(kind: str, shape: tuple[int, ...]) -> None:
    alone, together, reordered = PerSampleRNG(5, [3]), PerSampleRNG(5, range(5)), PerSampleRNG(5, [4, 3, 900])
    for _ in range(3):  # and goes on doing so, draw after draw
        mine = getattr(alone, kind)(*shape)
        assert mine.shape == (1, *shape)
        assert torch.equal(mine[0], getattr(together, kind)(*shape)[3])
        assert torch.equal(mine[0], getattr(reordered, kind)(*shape)[1])


def test_the_same_seed_repeats_and_another_does_not() -> None:
    assert torch.equal(PerSampleRNG(1, range(3)).uniform(8), PerSampleRNG(1, range(3)).uniform(8))
    for seed in [-7, 0, 2**31, 2**40, 2**63 + 11]:
        assert not torch.equal(PerSampleRNG(seed, range(3)).uniform(8), PerSampleRNG(seed + 1, range(3)).uniform(8))


def test_no_two_streams_of_neighbouring_seeds_and_indices_are_the_same() -> None:
    first = {}
    for seed, index in itertools.product(range(-20, 20), [*range(100), *range(10**6, 10**6 + 20)]):
        state = tuple(PerSampleRNG(seed, [index]).uniform(2)[0].tolist())
        assert state not in first, f"{(seed, index)} draws what {first[state]} draws"
        first[state] = (seed, index)


@pytest.mark.parametrize("step", [(0, 1), (1, 0), (1, 1), (1, -1)])
def test_neighbouring_streams_are_uncorrelated(step: tuple[int, int]) -> None:
    """Under independence the sample correlation times sqrt(n) is standard normal, for n = 64 x 512 pairs."""
    seed, index = step
    here, there = PerSampleRNG(11, range(64)).uniform(512), PerSampleRNG(11 + seed, range(index, 64 + index)).uniform(512)
    product = ((here - 0.5) * (there - 0.5) * 12).mean() * math.sqrt(here.numel())
    assert abs(float(product)) < stats.norm.isf(ALARM / 2)
    # The first number of each stream too: a poorly mixed seed shows there.
    first = PerSampleRNG(11, range(4096)).uniform()
    other = PerSampleRNG(11 + seed, range(index, 4096 + index)).uniform()
    product = ((first - 0.5) * (other - 0.5) * 12).mean() * math.sqrt(4096)
    assert abs(float(product)) < stats.norm.isf(ALARM / 2)


@pytest.mark.parametrize(("kind", "law"), [("uniform", stats.uniform), ("normal", stats.norm), ("gumbel", stats.gumbel_r)])
def test_numbers_follow_their_law_within_and_across_streams(kind: str, law: stats.rv_continuous) -> None:
    within = getattr(PerSampleRNG(3, range(4)), kind)(4096).flatten()
    across = getattr(PerSampleRNG(3, range(8192)), kind)()
    for numbers in (within, across):
        assert torch.isfinite(numbers).all()
        assert stats.kstest(numbers.double().numpy(), law.cdf).pvalue > ALARM
