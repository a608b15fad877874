"""Random numbers belong to a sample. Statistical tests: a right implementation fails each with probability below 1e-6 a choice of seeds."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats

from jielong.core.rng import Draws, PerSampleRNG
from jielong.networks.dropout import Dropout, dropout, item_streams, number_sites

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
    reference, neighbour = PerSampleRNG(11, range(64)).uniform(512), PerSampleRNG(11 + seed, range(index, 64 + index)).uniform(512)
    product = ((reference - 0.5) * (neighbour - 0.5) * 12).mean() * math.sqrt(reference.numel())
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


def splitmix64(word: int) -> int:
    """Steele et al. (OOPSLA 2014), in whole numbers."""
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
    return word ^ (word >> 31)


def test_bits_are_the_published_hash() -> None:
    """The first number of splitmix64 from state 0 is 0xE220A8397B1DCDAF."""
    assert Draws(torch.zeros(1, dtype=torch.long)).bits(torch.arange(1), 0).item() % 2**64 == 0xE220A8397B1DCDAF
    keys = torch.tensor([-5, 2**62, 17])
    for draw, element in [(0, 0), (3, 9), (77, 12345)]:
        counter = (element + 1 + draw * 2**40) * 0x9E3779B97F4A7C15
        expected = [splitmix64((key + counter) % 2**64) for key in keys.tolist()]
        assert [word % 2**64 for word in Draws(keys).bits(torch.tensor([element]), draw)[:, 0].tolist()] == expected


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_draws_of_rows_do_not_depend_on_the_other_rows(kind: str) -> None:
    whole, part = PerSampleRNG(5, range(6)).draws("here").each(7), PerSampleRNG(5, [4, 1]).draws("here").each(7)
    assert torch.equal(whole.keys[[4, 1]], part.keys)
    rows = torch.tensor([3, 0])
    both = [Draws(keys) for keys in (part.keys[0], part.keys[0][rows])]
    for shape in ((3, 5), (), (2,)):
        every, some = (getattr(each, kind)(*shape) for each in both)
        assert every.shape == (7, *shape)
        assert torch.equal(every[rows], some)


def test_draws_follow_their_distributions_and_are_independent() -> None:
    draws = PerSampleRNG(1, range(300)).draws("here").copies(2)
    uniform, normal = draws.uniform(64), draws.normal(65)
    assert float(uniform.min()) > 0
    assert float(uniform.max()) < 1
    assert stats.kstest(uniform.flatten().double().numpy(), "uniform").pvalue > ALARM
    assert stats.kstest(normal.flatten().double().numpy(), "norm").pvalue > ALARM
    columns = torch.cat([uniform, normal], dim=1).T.corrcoef().fill_diagonal_(0)  # 600 rows: 6.5 deviations
    assert float(columns.abs().max()) < 6.5 / 600**0.5
    assert len(torch.cat([PerSampleRNG(1, range(300)).draws(name).keys for name in ("here", "elsewhere")]).unique()) == 600


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_dropout_belongs_to_items_rows_and_sites(probability: float) -> None:
    streams = PerSampleRNG(3, range(4)).draws("dropout")
    ones = torch.ones(4 * 50, 30)
    kept = dropout(ones, probability, 8, streams, rows=50)
    share = float((kept > 0).float().mean())
    assert abs(share - (1 - probability)) < 5 * (probability * (1 - probability) / kept.numel()) ** 0.5
    torch.testing.assert_close(kept[kept > 0].unique(), torch.tensor([1 / (1 - probability)]), rtol=1e-4, atol=0)
    assert not torch.equal(kept, dropout(ones, probability, 9, streams, rows=50))
    assert torch.equal(dropout(ones[:50], probability, 8, streams[torch.tensor([2])], rows=50), kept.view(4, 50, 30)[2])
    # Three rows of a prefix in another batch: both parts keep their masks.
    longer = dropout(torch.ones(4 * 53, 30), probability, 8, streams, rows=53, prefix=3).view(4, 53, 30)
    assert torch.equal(longer[:, 3:], kept.view(4, 50, 30))
    assert torch.equal(longer[:, 0], dropout(ones, probability, 8, streams, rows=50, prefix=1).view(4, 50, 30)[:, 0])


def test_dropout_of_nearly_all_elements_is_finite() -> None:
    assert dropout(torch.ones(4, 30), 1 - 1e-9, 0, PerSampleRNG(0, range(4)).draws("dropout")).isfinite().all()


def test_modules_draw_from_the_streams_of_the_step() -> None:
    layers = torch.nn.Sequential(Dropout(0.5), Dropout(0.5))
    number_sites(layers)
    x = torch.ones(6, 40)
    with item_streams(PerSampleRNG(0, range(3)), x.device):  # two copies of three samples
        first, again, other = layers[0](x), layers[0](x), layers[1](x)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[:3], first[3:])
    with item_streams(PerSampleRNG(0, [1]), x.device):
        assert torch.equal(layers[0](x[:2]), first[[1, 4]])
    assert not torch.equal(layers[0](x), layers[0](x))
