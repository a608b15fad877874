"""Figures of nearest neighbours: closed forms, naive loops, copies, and samples of the real distribution."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from jielong.evaluation.neighbours import copies, copies_figures, expected_coverage, most_similar, nearest, overlap, overlap_figures, radii


def normal(count: int, width: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + shift


def naive(generated: Tensor, real: Tensor, k: int, naeem_k: int) -> dict[str, float]:
    """The definitions of both papers, item by item."""

    def ball(rows: Tensor, index: int, k: int) -> float:
        return sorted(float(torch.dist(rows[index], rows[other])) for other in range(len(rows)) if other != index)[k - 1]

    inside = {k: [ball(real, i, k) for i in range(len(real))] for k in (k, naeem_k)}
    ours = [ball(generated, j, k) for j in range(len(generated))]
    apart = [[float(torch.dist(x, y)) for y in real] for x in generated]
    precise = [any(apart[j][i] <= inside[k][i] for i in range(len(real))) for j in range(len(generated))]
    recalled = [any(apart[j][i] <= ours[j] for j in range(len(generated))) for i in range(len(real))]
    counted = [sum(apart[j][i] <= inside[naeem_k][i] for i in range(len(real))) for j in range(len(generated))]
    covered = [any(apart[j][i] <= inside[naeem_k][i] for j in range(len(generated))) for i in range(len(real))]
    return {
        "precision": sum(precise) / len(generated),
        "recall": sum(recalled) / len(real),
        "density": sum(counted) / (naeem_k * len(generated)),
        "coverage": sum(covered) / len(real),
    }


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_figures_are_those_of_the_definitions(shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    generated, real = normal(17, 3, 0, shift).double(), normal(23, 3, 1).double()
    expected = naive(generated, real, 3, 5)
    for elements in (1, 100, 10**6):  # in parts of any size
        monkeypatch.setattr("jielong.evaluation.neighbours._ELEMENTS", elements)
        figures = overlap_figures(generated, real, {})
        assert {name: figure.value for name, figure in figures.items()} == pytest.approx(expected)


def test_neighbours_on_a_line() -> None:
    points = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert radii(points, 1).tolist() == [1, 1, 2, 4]
    assert radii(points, 2).tolist() == [3, 2, 3, 6]
    distances, rows = nearest(torch.tensor([[2.5]]), points, 2)
    assert (distances.tolist(), rows.tolist()) == ([[0.5, 1.5]], [[2, 1]])
    with pytest.raises(ValueError, match="4 nearest neighbours need more items"):
        radii(points, 4)


def test_one_distribution_overlaps_and_another_does_not() -> None:
    """Coverage has the closed form of lemma 2; its deviation is at most that of independent items, times three for those that share."""
    count = 400
    same, far = overlap(normal(count, 4, 0), normal(count, 4, 1)), overlap(normal(count, 4, 0, 30), normal(count, 4, 1))
    expected = expected_coverage(count, count)
    assert expected == pytest.approx(1 - 2**-5, abs=2e-3)
    bound = 3 * 3 * math.sqrt(expected * (1 - expected) / count)
    assert same.covered.double().mean().item() == pytest.approx(expected, abs=bound)
    assert same.density.mean().item() == pytest.approx(1, abs=0.2)
    assert min(same.precise.double().mean(), same.recalled.double().mean()) > 0.85
    assert not torch.stack([far.precise.any(), far.recalled.any(), far.covered.any(), far.density.any()]).any()


def test_a_collapsed_model_is_precise_and_recalls_nothing() -> None:
    real = normal(200, 4, 1)
    found = overlap(real[:1] + 1e-3 * normal(200, 4, 0), real)
    assert found.precise.all()
    assert found.recalled.double().mean() < 0.02
    assert found.covered.double().mean() < 0.1


def test_coverage_in_the_mean_is_that_of_drawn_ranks() -> None:
    """With one real ball of ``k`` of ``N - 1`` others, and ``M`` generated ones exchangeable with these, at ``N = 3, M = 2, k = 1``."""
    assert expected_coverage(3, 2, 1) == 1 - 2 / 4


def test_copies_are_memorised_and_held_out_items_are_not() -> None:
    known, heldout = normal(300, 8, 0), normal(199, 8, 1)
    copied = copies(known[:50] + 1e-6, heldout, known)
    assert copied.memorised.all()
    assert not copied.authentic.any()
    assert copied.rows.tolist() == list(range(50))
    assert copied.chance == 2 / 200  # the second smallest of 199
    again = copies(heldout, heldout, known)
    assert int(again.memorised.sum()) == 2
    assert torch.equal(again.authentic, again.authentic_heldout)
    # Samples of the held-out distribution are below the limit at the rate of chance: at most 3 deviations of a binomial above it.
    fresh = torch.cat([copies(normal(199, 8, 100 + seed), normal(199, 8, 200 + seed), known).memorised for seed in range(20)]).double()
    assert abs(fresh.mean().item() - 0.01) < 3 * math.sqrt(2 * 0.01 * 0.99 / 199 / 20) + 3 * math.sqrt(0.01 * 0.99 / len(fresh))


def test_copies_of_a_set_that_holds_items_twice() -> None:
    """The limit is zero where held-out items are training items too; equal items still count."""
    known = normal(40, 8, 0)
    found = copies(torch.cat([known[20:25], normal(5, 8, 2)]), torch.cat([known[:5], normal(5, 8, 3)]), known)
    assert found.memorised.tolist() == [True] * 5 + [False] * 5


def test_pairs_are_listed_nearest_first() -> None:
    known = torch.arange(10.0)[:, None] * 10
    found = copies(torch.tensor([[13.0], [21.0], [30.0]]), torch.tensor([[5.0], [14.0]]), known)
    assert most_similar(found) == [2, 1, 0]
    figures = copies_figures(found, {}, [f"item {n}" for n in range(10)], 30, ["a", "a", "b"])
    listed = figures["memorised"].details["pairs"]
    assert listed == [
        {"sample": 2, "nearest": "item 3", "distance": 0.0},
        {"sample": 1, "nearest": "item 2", "distance": 1.0},
        {"sample": 0, "nearest": "item 1", "distance": 3.0},
    ]
    assert figures["memorised"].details["by_class"] == {"a": {"value": 1.0, "n": 2}, "b": {"value": 1.0, "n": 1}}
    assert "10 of 30 training items" in str(figures["memorised"].details["warning"])
