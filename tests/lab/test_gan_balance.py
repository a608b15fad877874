"""The criterion and verdict of gan-balance both ways, the training of players against two manual steps, and a run at a tiny budget."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jielong.apps.lab import Verdict, conclude, run
from jielong.apps.lab.experiments import gan_balance
from jielong.apps.lab.experiments.gan_balance import FLOW, MODERN, OLD, RING, Run, judge, measured
from jielong.apps.lab.players import Adam, sample_block, train_players
from jielong.apps.lab.toy_tasks import train_head
from jielong.core.phases import MAIN
from jielong.core.tokens import Layout
from jielong.heads.base import HeadContext
from jielong.heads.gan import DISCRIMINATOR, GAN


def data(count: int = 800, seed: int = 0) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RING.sample(count)[0]


def state(points: Tensor, finite: bool = True) -> tuple[str, int]:
    run = measured(points, data(len(points), 1), RING, finite, {})
    return run.state, run.covered


# --- the criterion --------------------------------------------------------------------------------------------------------------------


def test_samples_of_the_data_are_stable() -> None:
    right = measured(data(), data(800, 1), RING, True, {})
    assert (right.state, right.covered) == ("stable", 8)
    assert right.near > 0.95
    assert abs(right.distance) < 0.02


def test_what_is_not_stable() -> None:
    points, mode = data(), RING.mode_of(data())
    one = points[mode == 0][:50].repeat(4, 1)
    assert state(one) == ("collapsed", 1)
    assert state(points[mode != 0]) == ("stable", 7)
    assert state(points[(mode != 0) & (mode != 1)]) == ("collapsed", 6)
    assert state(torch.cat([points, torch.zeros(1000, 2)]))[0] == "scattered"
    assert state(points, finite=False)[0] == "diverged"
    assert state(torch.full((100, 2), torch.nan)) == ("diverged", 0)


def test_a_mode_is_covered_by_a_quarter_of_its_share() -> None:
    # 800 samples, an even share of 100: 25 cover a mode and 24 do not.
    for few, covered in ((25, 8), (24, 7)):
        points = torch.cat([RING.means[:1].repeat(few, 1), RING.means[1:].repeat(100, 1), RING.means[1:2].repeat(100 - few, 1)])
        assert len(points) == 800
        assert state(points)[1] == covered


# --- the verdict ----------------------------------------------------------------------------------------------------------------------


def some(*covered: int, finite: bool = True) -> list[Run]:
    return [Run(torch.zeros(1, 2), modes, 0.9, 0.01, finite, {}) for modes in covered]


def test_claim_can_hold_and_fail() -> None:
    good = {FLOW: some(8, 8, 8, 8, 8), MODERN: some(8, 8, 8, 8, 8), OLD: some(2, 1, 4, 3, 2)}
    assert conclude(judge(good)) is Verdict.HOLDS
    assert conclude(judge(good | {OLD: some(8, 8, 8, 8, 8)})) is Verdict.FAILS
    assert conclude(judge(good | {MODERN: some(3, 4, 3, 2, 4)})) is Verdict.FAILS
    assert conclude(judge(good | {FLOW: some(8, 8, 8, 8, 8, finite=False)})) is Verdict.FAILS
    assert conclude(judge(good | {MODERN: some(8, 8, 1, 8, 8)})) is Verdict.UNKNOWN


# --- training -------------------------------------------------------------------------------------------------------------------------


def test_a_step_is_a_step_of_the_generator_and_one_of_the_discriminator() -> None:
    part, adam = gan_balance._gan("relativistic", 0.1), Adam(1e-2, (0.0, 0.99))
    found = train_players(part, RING, 1, 3, adam, batch=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layout = Layout((1,), 2)
        head = part.build(1, layout)
        points = RING.sample(16).flatten(0, 1)[:, None]
        for phase, weights in ((MAIN, head.generator.parameters()), (DISCRIMINATOR, head.discriminator.parameters())):
            optimizer = torch.optim.Adam(weights, lr=1e-2, betas=(0.0, 0.99))
            head.zero_grad()
            context = HeadContext(coords=layout.coordinates(), phase=phase)
            head.loss(torch.ones(16, 1, 1), points, context).mean().backward()
            optimizer.step()
    for ours, theirs in zip(found.head.parameters(), head.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    assert {name: len(losses) for name, losses in found.losses.items()} == {MAIN: 1, DISCRIMINATOR: 1}


def test_a_head_without_further_phases_is_trained_as_by_the_other_loop() -> None:
    part = gan_balance.METHODS[FLOW][0]
    ours = train_players(part, RING, 3, 0, Adam(2e-3), batch=32)
    theirs = train_head(part, RING, 3, 0, batch=32, lr=2e-3)
    for one, two in zip(ours.head.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    assert ours.finite
    assert list(ours.losses) == [MAIN]
    assert len(ours.losses[MAIN]) == 3


def test_training_ends_where_a_loss_is_not_finite() -> None:
    part = copy.deepcopy(gan_balance.METHODS[OLD][0])
    found = train_players(part, RING, 20, 0, Adam(1e30), batch=8)
    assert not found.finite
    assert len(found.losses[MAIN]) < 20
    assert isinstance(part, GAN)


def test_samples_depend_on_the_seed_only() -> None:
    head = train_players(gan_balance.METHODS[OLD][0], RING, 1, 0, batch=8).head
    first, again, other = (sample_block(head, RING, 5, seed) for seed in (0, 0, 1))
    assert first.shape == (1, 5, 2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gan_balance, "SEEDS", 2)
    run("gan-balance", tmp_path, budget=0.001)
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["provenance"]["steps"] == 2
    assert record["provenance"]["seeds"] == [0, 1]
    assert all(len(states) == 2 for states in record["provenance"]["states"].values())
    for name in gan_balance.METHODS:
        states = [record["figures"][f"{state} runs, {name}"]["value"] for state in gan_balance.STATES]
        assert sum(states) == 2
        players = record["provenance"]["losses"][name][0]
        assert set(players) == ({MAIN} if name == FLOW else {MAIN, DISCRIMINATOR})
