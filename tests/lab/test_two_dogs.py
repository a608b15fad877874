"""The rule of the two dogs both ways with made-up answers, its measures by oracle, and all of it at a tiny budget."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jielong.apps.lab import Verdict, conclude, run
from jielong.apps.lab.experiments import two_dogs
from jielong.apps.lab.experiments.two_dogs import BLUR, REGRESSION, LinearTokens, Question, Said, heads, judge, judged, rarer, train
from jielong.core.rng import PerSampleRNG
from jielong.heads.base import Head

QUESTION = Question("points", torch.tensor([[[-1.0, -1.0], [1.0, 1.0]], [[-1.0, 1.0], [1.0, -1.0]]]), torch.randn(2, two_dogs.WIDTH))
N = 200


def noise(seed: int) -> Tensor:
    return BLUR * torch.randn(2, N, 2, generator=torch.Generator().manual_seed(seed))


def both(seed: int = 0, share: float = 0.5) -> Tensor:
    which = torch.rand(2, N, 1, generator=torch.Generator().manual_seed(seed)) < share
    return torch.where(which, QUESTION.answers[:, :1], QUESTION.answers[:, 1:]) + noise(seed)


def verdict(average: Tensor, draws: Tensor) -> Verdict:
    return conclude(judge({"points": {REGRESSION: judged(QUESTION, average, 0), "a head": judged(QUESTION, draws, 0)}}, 0))


def test_it_is_judged_both_ways() -> None:
    average = torch.zeros(2, N, 2)
    assert verdict(average, both()) is Verdict.HOLDS
    assert verdict(average, average) is Verdict.FAILS  # it averages as well
    assert verdict(average, both(share=1.0)) is Verdict.FAILS  # one dog only
    assert verdict(average, 2 * noise(1)) is Verdict.FAILS  # a blur amid the two
    assert verdict(QUESTION.answers[:, :1].expand(-1, N, -1), both()) is Verdict.FAILS  # regression chooses
    assert verdict(both(), both(seed=1)) is Verdict.FAILS  # regression draws
    assert verdict(average, torch.cat([both()[:, :150], average[:, 150:]], dim=1)) is Verdict.UNKNOWN  # three quarters are right


def test_the_energy_distance_is_that_of_its_definition() -> None:
    draws = both(seed=5, share=0.8)
    said = judged(QUESTION, draws, seed=2)
    torch.manual_seed(2)
    right = QUESTION.right(N)
    for kind in range(2):
        x, y = draws[kind], right[kind]
        expected = 2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean()
        assert said.distance.view(2, N)[kind].mean().item() == pytest.approx(expected.item(), abs=1e-5)


def test_hits_and_the_rarer_answer() -> None:
    draws = torch.zeros(2, 4, 2)
    draws[0, 0], draws[0, 1], draws[0, 2] = torch.tensor([-1.1, -1.0]), torch.tensor([0.9, 0.9]), torch.tensor([0.6, 0.6])
    draws[1, :3] = torch.tensor([1.0, -1.0])
    said = judged(QUESTION, draws, 0)
    assert said.hits[0].tolist() == [[True, False], [False, True], [False, True], [False, False]]
    assert said.hits[1].sum(0).tolist() == [0, 3]
    assert int(rarer(said).sum()) == 0
    assert isinstance(said, Said)


def test_a_picture_is_one_token_and_comes_back_whole() -> None:
    pictures = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    tokenizer = LinearTokens(pictures)
    tokens = tokenizer.encode(pictures)
    assert tokens.shape == (6, 5)
    torch.testing.assert_close(tokenizer.decode(tokens), pictures, rtol=0, atol=1e-4)
    torch.testing.assert_close(tokens.square().mean(0), torch.ones(5), rtol=1e-3, atol=0)  # in standard deviations
    torch.testing.assert_close(tokenizer.decode(tokens[:2].mean(0, keepdim=True)), pictures[:2].mean(0, keepdim=True), rtol=0, atol=1e-4)


def test_every_head_of_continuous_tokens_is_asked_and_regression_first() -> None:
    found = list(heads(2, 1000))
    assert found[0] == REGRESSION
    assert {"gaussian_mixture", "energy", "diffusion", "flow_matching"} <= set(found)
    assert not {"softmax", "logistic_mixture"} & set(found)


def test_teaching_leaves_the_global_generator_alone_and_depends_on_the_seed_only() -> None:
    part = heads(2, 256)["gaussian_mixture"]

    def taught(seed: int) -> Head:
        return train(part, QUESTION, 4, seed)

    torch.manual_seed(7)
    first = taught(0)
    after = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(1), after)
    second, other = taught(0), taught(1)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_regression_says_the_average() -> None:
    head = train(heads(2, 100 * two_dogs.BATCH)[REGRESSION], QUESTION, 100, 0)
    said = head.sample(QUESTION.hidden[:, None], PerSampleRNG(0, range(2)), two_dogs.SamplingConfig()).values
    assert float(said.abs().max()) < 0.25


def test_two_dogs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = heads

    def few(channels: int, samples: int) -> dict[str, object]:
        return {name: part for name, part in every(channels, samples).items() if name in (REGRESSION, "gaussian_mixture", "energy")}

    monkeypatch.setattr(two_dogs, "heads", few)
    run("two-dogs", tmp_path, budget=0.002)
    told = json.loads((tmp_path / "result.json").read_text())
    assert told["provenance"]["steps"] == 2
    assert len(told["checks"]) == 2 * (1 + 2 * 3)
    assert set(told["provenance"]["heads"]) == {REGRESSION, "gaussian_mixture", "energy"}
    assert told["figures"]["energy distance, dogs, regression"]["value"] > 1
    assert (tmp_path / "plot.png").stat().st_size > 10_000
