"""States stretched over positions: exact lengths, and durations found by dynamic programming."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from jielong.core.tokens import Layout
from jielong.networks.conditioning import AlignedStates, Conditioning
from jielong.networks.length_regulator import LengthRegulator, even, scaled, spread
from jielong.networks.monotonic_alignment import MonotonicAlignment, diagonal, search


def mask_of(*counts: int) -> Tensor:
    return torch.arange(max(counts)) < torch.tensor(counts)[:, None]


def test_states_stand_where_their_durations_say() -> None:
    index, over = spread(torch.tensor([[2.0, 0.0, 1.0, 3.0]]), torch.arange(8))
    assert index.tolist() == [[0, 0, 2, 3, 3, 3, 3, 3]]  # behind the end the last
    torch.testing.assert_close(over[0, :6], torch.tensor([0.25, 0.75, 0.5, 1 / 6, 0.5, 5 / 6]).double())
    padded, _ = spread(torch.tensor([[1.0, 2.0, 0.0, 0.0]]), torch.arange(5))
    assert padded.tolist() == [[0, 1, 1, 1, 1]]


@pytest.mark.parametrize("length", [1, 3, 7, 12, 100])
def test_even_durations_fill_the_given_length_exactly(length: int) -> None:
    mask = mask_of(4, 1, 3)
    durations = even(mask, torch.full((3,), length))
    torch.testing.assert_close(durations.sum(1), torch.full((3,), float(length)))
    assert bool((durations[~mask] == 0).all())
    index, _ = spread(durations, torch.arange(length))
    for row, count in zip(index, (4, 1, 3), strict=True):
        assert bool((row.diff() >= 0).all())
        assert int(row.max()) < count
        counts = torch.bincount(row, minlength=count)
        assert int(counts.max() - counts.min()) <= 1
    torch.testing.assert_close(scaled(torch.tensor([[1.0, 3.0]]), torch.tensor([8])), torch.tensor([[2.0, 6.0]]))


def test_padding_of_states_and_what_it_holds_change_nothing() -> None:
    torch.manual_seed(0)
    for layer in (LengthRegulator(5, 6), MonotonicAlignment(5, 6, Layout((9,), 2))):
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter)
        states = torch.randn(1, 3, 5)
        alone, lengths = AlignedStates(states, mask_of(3)), torch.tensor([9])
        behind = torch.full((1, 2, 5), torch.nan)
        padded = AlignedStates(torch.cat([states, behind], 1), torch.tensor([[True, True, True, False, False]]))
        outputs = [layer(each, layer.durations(each, lengths), torch.arange(9)) for each in (alone, padded)]
        torch.testing.assert_close(outputs[1], outputs[0])
        torch.testing.assert_close(layer.predict_lengths(padded), layer.predict_lengths(alone))


def total(scores: Tensor, runs: list[int]) -> float:
    """The sum of the scores along a path."""
    edges = [0, *itertools.accumulate(runs)]
    return sum(float(scores[j, a:b].sum()) for j, (a, b) in enumerate(itertools.pairwise(edges)))


def brute_force(scores: Tensor, count: int, length: int) -> list[int]:
    """The best of all ways to cut ``length`` positions into ``count`` runs of one or more."""
    cuts = ([0, *inner, length] for inner in itertools.combinations(range(1, length), count - 1))
    ways = ([b - a for a, b in itertools.pairwise(edges)] for edges in cuts)
    return max(ways, key=lambda way: total(scores, way))


def test_the_search_finds_the_best_of_all_paths() -> None:
    scores = torch.randn(6, 4, 9, generator=torch.Generator().manual_seed(0))
    counts, lengths = [4, 3, 1, 4, 2, 4], [9, 7, 9, 4, 6, 8]
    found = search(scores, mask_of(*counts), torch.tensor(lengths))
    for item, (count, length) in enumerate(zip(counts, lengths, strict=True)):
        assert found[item, :count].tolist() == brute_force(scores[item], count, length)
        assert float(found[item, count:].sum()) == 0
    scores[:, :, 7:] = 99.0  # nothing behind an item's end is felt
    assert search(scores, mask_of(*counts), torch.tensor(lengths))[1].tolist() == found[1].tolist()


def test_the_first_positions_of_an_item_are_those_of_its_most_likely_first_symbols() -> None:
    scores = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    counts = [4, 3, 1, 2, 4]
    found = search(scores, mask_of(*counts), torch.full((5,), 3), whole=False)
    for item, count in enumerate(counts):
        ways = [brute_force(scores[item], some, 3) for some in range(1, min(count, 3) + 1)]
        best = max(ways, key=lambda way: total(scores[item], way))
        assert found[item].tolist() == best + [0] * (4 - len(best))


def test_fewer_positions_than_symbols_are_shared_evenly() -> None:
    found = search(torch.zeros(1, 4, 5), mask_of(4), torch.tensor([2]))
    torch.testing.assert_close(found, torch.full((1, 4), 0.5))


def test_without_a_guess_the_path_is_even() -> None:
    mask, lengths = mask_of(3, 2), torch.tensor([9, 8])
    assert search(diagonal(mask, lengths, 9), mask, lengths).tolist() == [[3, 3, 3], [4, 4, 0]]


@pytest.mark.parametrize("layout", [Layout((20,), 3), Layout((20,), 1, vocabulary=3)], ids=["numbers", "codes"])
def test_durations_are_learned_from_tokens_that_symbols_explain(layout: Layout) -> None:
    """Three kinds of symbols that last 1, 3 and 5 tokens, in random order, and tokens that tell which: the search finds them all."""
    torch.manual_seed(0)
    lasts, codes = torch.tensor([1, 3, 5]), torch.eye(3)
    layer = MonotonicAlignment(3, 8, layout)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.03)
    table = torch.nn.Embedding.from_pretrained(codes)

    def items(count: int) -> tuple[AlignedStates, Tensor, Tensor, Tensor]:
        kinds = torch.stack([torch.randperm(3) for _ in range(count)])
        durations, lengths = lasts[kinds], torch.full((count,), 9)
        values = torch.zeros(count, 20, layout.channels)
        for row in range(count):
            repeated = kinds[row].repeat_interleave(durations[row])
            values[row, :9] = 3 * codes[repeated] + 0.1 * torch.randn(9, 3) if layout.vocabulary is None else repeated[:, None].float()
        return (
            AlignedStates(table(kinds), mask_of(*[3] * count)),
            values if layout.vocabulary is None else values.long(),
            lengths,
            durations,
        )

    for _ in range(120):
        along, values, lengths, _ = items(16)
        _, loss = layer.learn(along, values, lengths)
        optimizer.zero_grad()
        assert loss is not None
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    along, values, lengths, durations = items(32)
    found, _ = layer.learn(along, values, lengths)
    assert torch.equal(found.long(), durations)
    assert torch.equal(layer.predict_lengths(along).round().long(), lengths)
    torch.testing.assert_close(layer.durations(along, lengths * 2), 2.0 * durations, rtol=0.1, atol=0.1)


def test_predicted_durations_are_right_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the geometric mean: a symbol that lasts one token or nine lasts five, not three."""
    torch.manual_seed(0)
    stretch, items = MonotonicAlignment(4, 8, Layout((18,), 1)), 64
    along = AlignedStates(torch.ones(items, 2, 4), mask_of(*[2] * items))
    found = torch.ones(items, 2).masked_fill(torch.arange(items)[:, None] % 2 == 1, 9.0)
    monkeypatch.setattr("jielong.networks.monotonic_alignment.search", lambda *_, **__: found)
    optimizer = torch.optim.Adam(stretch.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss = stretch.learn(along, torch.zeros(items, 18, 1), torch.full((items,), 18))[1]
        assert loss is not None
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(stretch.predict_lengths(along), torch.full((items,), 10.0), rtol=0.02, atol=0)


def test_the_pace_is_a_line_that_rises() -> None:
    layer = LengthRegulator(2, 2)
    layer.fit(torch.tensor([10, 20, 30]), torch.tensor([25, 45, 65]))
    torch.testing.assert_close(layer.rate, torch.tensor([2.0, 5.0]))
    torch.testing.assert_close(layer.predict_lengths(AlignedStates(torch.zeros(2, 4, 2), mask_of(4, 1))), torch.tensor([13.0, 7.0]))
    for states, lengths, slope in (([10, 20], [5, 40], 3.5), ([10], [40], 4.0), ([10, 20], [30, 10], 1.0)):
        layer.fit(torch.tensor(states), torch.tensor(lengths))
        assert float(layer.rate[0]) == pytest.approx(slope)


def test_conditions_are_joined_with_what_goes_along() -> None:
    def told(batch: int, length: int) -> Conditioning:
        states, mask = torch.randn(batch, length, 4), torch.ones(batch, length, dtype=torch.bool)
        return Conditioning(states, mask, states.mean(1), AlignedStates(states, mask))

    both = Conditioning.cat(told(2, 3), told(1, 5))
    assert both.aligned_states is not None
    assert both.aligned_states.mask.sum(1).tolist() == [3, 3, 5]
    part = both.rows(slice(2, 3)).padded(9)
    assert part.aligned_states is not None
    assert part.aligned_states.states.shape == (1, 5, 4)
