"""The verdict of two-dogs both ways on synthetic samples, its measures by oracle, and a run at a tiny budget."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jielong.apps.lab import Verdict, conclude, run
from jielong.apps.lab.experiments import two_dogs
from jielong.apps.lab.experiments.two_dogs import BLUR, REGRESSION, BimodalTask, HeadSamples, LinearTokens, heads, judge, measure, rarer
from jielong.apps.lab.toy_tasks import train_head
from jielong.core.rng import PerSampleRNG
from jielong.heads.base import Head

TASK = BimodalTask("points", torch.tensor([[[-1.0, -1.0], [1.0, 1.0]], [[-1.0, 1.0], [1.0, -1.0]]]), torch.randn(2, two_dogs.WIDTH))
N = 200


def noise(seed: int) -> Tensor:
    return BLUR * torch.randn(2, N, 2, generator=torch.Generator().manual_seed(seed))


def both(seed: int = 0, share: float = 0.5) -> Tensor:
    which = torch.rand(2, N, 1, generator=torch.Generator().manual_seed(seed)) < share
    return torch.where(which, TASK.modes[:, :1], TASK.modes[:, 1:]) + noise(seed)


def verdict(average: Tensor, draws: Tensor) -> Verdict:
    return conclude(judge({"points": {REGRESSION: measure(TASK, average, 0), "a head": measure(TASK, draws, 0)}}, 0))


def test_verdicts_both_ways() -> None:
    average = torch.zeros(2, N, 2)
    assert verdict(average, both()) is Verdict.HOLDS
    assert verdict(average, average) is Verdict.FAILS  # it averages as well
    assert verdict(average, both(share=1.0)) is Verdict.FAILS  # one mode only
    assert verdict(average, 2 * noise(1)) is Verdict.FAILS  # samples around the midpoint
    assert verdict(TASK.modes[:, :1].expand(-1, N, -1), both()) is Verdict.FAILS  # regression chooses
    assert verdict(both(), both(seed=1)) is Verdict.FAILS  # regression draws
    assert verdict(average, torch.cat([both()[:, :150], average[:, 150:]], dim=1)) is Verdict.UNKNOWN  # three quarters are right


def test_the_energy_distance_is_that_of_its_definition() -> None:
    draws = both(seed=5, share=0.8)
    samples = measure(TASK, draws, seed=2)
    torch.manual_seed(2)
    right = TASK.sample(N)
    for kind in range(2):
        x, y = draws[kind], right[kind]
        expected = 2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean()
        assert samples.distance.view(2, N)[kind].mean().item() == pytest.approx(expected.item(), abs=1e-5)


def test_hits_and_the_rarer_answer() -> None:
    draws = torch.zeros(2, 4, 2)
    draws[0, 0], draws[0, 1], draws[0, 2] = torch.tensor([-1.1, -1.0]), torch.tensor([0.9, 0.9]), torch.tensor([0.6, 0.6])
    draws[1, :3] = torch.tensor([1.0, -1.0])
    samples = measure(TASK, draws, 0)
    assert samples.hits[0].tolist() == [[True, False], [False, True], [False, True], [False, False]]
    assert samples.hits[1].sum(0).tolist() == [0, 3]
    assert int(rarer(samples).sum()) == 0
    assert isinstance(samples, HeadSamples)


def test_linear_tokens_are_lossless() -> None:
    pictures = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    tokenizer = LinearTokens(pictures)
    tokens = tokenizer.encode(pictures)
    assert tokens.shape == (6, 5)
    torch.testing.assert_close(tokenizer.decode(tokens), pictures, rtol=0, atol=1e-4)
    torch.testing.assert_close(tokens.square().mean(0), torch.ones(5), rtol=1e-3, atol=0)  # in standard deviations
    torch.testing.assert_close(tokenizer.decode(tokens[:2].mean(0, keepdim=True)), pictures[:2].mean(0, keepdim=True), rtol=0, atol=1e-4)


def test_all_heads_for_continuous_tokens_with_regression_first() -> None:
    found = list(heads(2, 1000))
    assert found[0] == REGRESSION
    assert {"gaussian_mixture", "energy", "diffusion", "flow_matching"} <= set(found)
    assert not {"softmax", "logistic_mixture"} & set(found)


def test_training_depends_on_the_seed_only_and_keeps_the_global_generator() -> None:
    part = heads(2, 256)["gaussian_mixture"]

    def trained(seed: int) -> Head:
        return train_head(part, TASK, 4, seed)

    torch.manual_seed(7)
    first = trained(0)
    after = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(1), after)
    second, other = trained(0), trained(1)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_regression_predicts_the_mean() -> None:
    head = train_head(heads(2, 100 * two_dogs.BATCH)[REGRESSION], TASK, 100, 0)
    samples = head.sample(TASK.hidden[:, None], PerSampleRNG(0, range(2)), two_dogs.SamplingConfig()).values
    assert float(samples.abs().max()) < 0.25


def test_two_dogs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = heads

    def few(channels: int, samples: int) -> dict[str, object]:
        return {name: part for name, part in every(channels, samples).items() if name in (REGRESSION, "gaussian_mixture", "energy")}

    monkeypatch.setattr(two_dogs, "heads", few)
    run("two-dogs", tmp_path, budget=0.002)
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["provenance"]["steps"] == 2
    assert len(record["checks"]) == 2 * (1 + 2 * 3)
    assert set(record["provenance"]["heads"]) == {REGRESSION, "gaussian_mixture", "energy"}
    assert record["figures"]["energy distance, dogs, regression"]["value"] > 1
    assert (tmp_path / "plot.png").stat().st_size > 10_000
