"""Settings in samples scale with the budget, of samples or of time, and keep the shape of every schedule."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, get_origin

import pytest
import torch
from toy_run import SETTINGS, ToyObjective, run

from jielong.config.recipe import Recipe, built_in, load, parse
from jielong.config.registry import RecipeError, parts_of
from jielong.config.schedule import ScheduledSetting, rescaled, scheduled
from jielong.data.sets import Batch
from jielong.heads.consistency import Consistency
from jielong.quantizers.gumbel import Gumbel
from jielong.quantizers.lookup_free import LookupFree
from jielong.training import run as run_module
from jielong.training.budget import Budget
from jielong.training.objective import Losses, StepRNG
from jielong.training.settings import TrainSettings
from jielong.training.state import Counters

RATIOS = (Fraction(1, 100), Fraction(1, 2), Fraction(3))
FRACTIONS = (0.0, 0.05, 0.25, 0.5, 0.9, 1.0)


def by_name(recipe: Recipe) -> dict[str, int]:
    return {each.name: each.samples for each in scheduled(recipe)}


@pytest.mark.parametrize("ratio", RATIOS)
def test_warm_up_and_cosine_keep_their_shape(ratio: Fraction) -> None:
    whole = TrainSettings(samples=100_000, batch=10, lr=1.0, warmup=20_000, min_lr_ratio=0.1)
    other = rescaled(whole, ratio).model_copy(update={"samples": int(100_000 * ratio)})
    for at in FRACTIONS:
        closed = min(1.0, at / 0.2) * (0.1 + 0.9 * (1 + math.cos(math.pi * at)) / 2)
        assert whole.rate(round(at * whole.samples), at) == pytest.approx(closed)
        assert other.rate(round(at * other.samples), at) == pytest.approx(closed)


@pytest.mark.parametrize("ratio", RATIOS)
def test_annealing_keeps_its_shape(ratio: Fraction) -> None:
    budget = int(100_000 * ratio)
    vectors = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    gumbel = rescaled(Gumbel(codebook_size=8, temperature=(1.0, 0.25), temperature_samples=50_000, kl_samples=10_000), ratio).build(4)
    binary = rescaled(LookupFree(bits=4, entropy_start=3.0, entropy_samples=50_000), ratio).build(4)
    final = binary(vectors, samples_seen=budget).losses["entropy"]
    levels = rescaled(Consistency.model_validate({"levels": {"first": 10, "last": 80, "samples": 100_000}}), ratio).levels
    for at in FRACTIONS:
        with torch.no_grad():
            found = gumbel(vectors, samples_seen=round(at * budget))
        share = min(1.0, at / 0.5)
        assert float(found.statistics["temperature"]) == pytest.approx(0.25 + 0.75 * (1 + math.cos(math.pi * share)) / 2, rel=1e-5)
        assert float(found.losses["kl"] / found.statistics["kl"]) == pytest.approx(
            5e-4 * (1 - math.cos(math.pi * min(1.0, at / 0.1))) / 2, rel=1e-4, abs=1e-9
        )
        assert float(binary(vectors, samples_seen=round(at * budget)).losses["entropy"] / final) == pytest.approx(
            1 + 2 * (1 - share), rel=1e-5
        )
        assert levels.intervals(round(at * budget)) == min(10 * 2 ** int(4 * at), 80)


def test_every_recipe_keeps_its_shares() -> None:
    ratio = Fraction(1, 100)
    for name in built_in():
        whole = load(name)
        other = by_name(load(name, [f"train.samples={math.ceil(whole.train.samples * ratio)}"]))
        for each in scheduled(whole):
            assert other[each.name] == pytest.approx(each.samples * ratio, abs=1), (name, each.name)


def test_every_setting_in_samples_is_marked() -> None:
    for family in ("tokenizer", "quantizer", "loss", "head", "order", "backbone", "condition"):
        for name, part in parts_of(family).items():
            marked = {key for key, field in part.model_fields.items() if any(type(item).__name__ == "Scheduled" for item in field.metadata)}
            counted = {
                key
                for key, field in part.model_fields.items()
                if key.endswith(("_samples", "_at")) and get_origin(field.annotation) is not Literal  # not rotary_at, which names a place
            }
            assert counted == marked, (family, name)


def test_shares_are_resolved_by_the_budget() -> None:
    shares = [
        *(f"losses.{name}.start_samples=0.97" for name in ("perceptual", "adversarial")),
        "train.warmup=0.016",
        "train.sample_every=0.25",
    ]
    assert load("vqgan", shares[:3]) == load("vqgan")
    other = by_name(load("vqgan", ["train.samples=1_000", *shares]))
    assert other["losses.perceptual.start_samples"] == other["losses.adversarial.start_samples"] == 970
    assert (other["train.warmup"], other["train.sample_every"]) == (16, 250)
    assert by_name(parse(load("vqgan", ["train.samples=1_000", *shares]).to_yaml())) == other
    assert load("titok", ["tokenizer.titok.finetune_at=0.6"]) == load("titok")
    smaller = by_name(parse("extends: vqgan\ntrain: {samples: 10_000, warmup: 0.1}"))
    assert (smaller["losses.perceptual.start_samples"], smaller["train.warmup"]) == (9_700, 1_000)
    for wrong in ("1.0", "1.5", "-0.1"):
        with pytest.raises(RecipeError, match=r"losses\.perceptual\.start_samples"):
            load("vqgan", [f"losses.perceptual.start_samples={wrong}"])
    with pytest.raises(ValueError, match=r"train\.samples"):
        Gumbel.model_validate({"kl_samples": 0.5})


def test_what_is_given_beside_the_budget_does_not_scale() -> None:
    given = ["losses.adversarial.start_samples=1_234", "train.samples=20_000", "train.warmup=19_000"]
    for overrides in (given, given[::-1]):
        found = by_name(load("vqgan", overrides))
        assert found["losses.adversarial.start_samples"] == 1_234
        assert found["losses.perceptual.start_samples"] == 19_400
        assert found["train.warmup"] == 19_000
    assert (
        by_name(load("vqgan", ["losses.adversarial={start_samples: 8}", "train={samples: 1_000}"]))["losses.adversarial.start_samples"] == 8
    )
    quantizer = ["tokenizer.vq.quantizer={gumbel: {kl_samples: 5}}", "train.samples=20_000"]
    found = by_name(load("vqgan", quantizer))
    assert found["tokenizer.vq.quantizer.gumbel.kl_samples"] == 5
    assert found["tokenizer.vq.quantizer.gumbel.temperature_samples"] == 100_000  # the default of a million at a tenth of the budget


class Positions(ToyObjective):
    """Notes where each step stands in the schedules, and whether the discriminator learned in it."""

    def __init__(self, late: int) -> None:
        super().__init__(late=late)
        self.positions: list[int] = []
        self.started: list[bool] = []

    def forward(self, batch: Batch, phase: str, samples_seen: int, draws: StepRNG) -> Losses:
        if phase == "model":
            self.positions.append(samples_seen)
            self.started.append(self.active("discriminator", samples_seen))
        return super().forward(batch, phase, samples_seen, draws)


def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth of a second a look at the clock."""
    ticks = iter(range(10**9))
    monkeypatch.setattr(run_module, "time", SimpleNamespace(perf_counter=lambda: 0.01 * next(ticks)))


SLOW = SETTINGS.model_copy(update={"samples": 1_000_000, "warmup": 200_000, "log_every": None, "save_every": None, "sample_every": None})
LATE = [ScheduledSetting(("toy", "late"), 900_000, "start"), ScheduledSetting(("train", "warmup"), 200_000, "end")]


def test_a_budget_of_time_scales_starts_and_warm_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticking(monkeypatch)
    objective = Positions(late=900_000)
    summary = run(tmp_path, SLOW, objective, budget=10.0, schedule=LATE)
    assert summary.stopped == "budget"
    assert summary.samples < 0.01 * SLOW.samples
    assert summary.unreached == []
    steps = len(objective.positions)
    assert objective.started.index(True) == pytest.approx(0.9 * steps, abs=0.02 * steps)
    assert all(later > earlier for earlier, later in pairwise(objective.positions))
    assert objective.positions[-1] == pytest.approx(SLOW.samples, rel=0.02)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = {line["samples"]: line["lr"] for line in lines}
    highest = max(rates, key=lambda samples: rates[samples])
    assert highest == pytest.approx(0.2 * summary.samples, abs=0.03 * summary.samples)


def test_a_run_with_a_budget_of_time_resumes_in_its_schedules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticking(monkeypatch)
    before, after = Positions(late=900_000), Positions(late=900_000)
    run(tmp_path, SLOW, before, budget=10.0, stop_after=800, schedule=LATE)
    run(tmp_path, SLOW, after, budget=10.0, schedule=LATE)
    positions = [*before.positions, *after.positions]
    assert all(0 < later - earlier < 0.05 * SLOW.samples for earlier, later in pairwise(positions))
    assert before.positions[-1] > 100_000 > 800


def test_what_was_reached_stays_reached_under_a_larger_budget(tmp_path: Path) -> None:
    small, large = (SETTINGS.model_copy(update={"samples": samples}) for samples in (80, 160))
    late = {samples: [ScheduledSetting(("toy", "late"), samples // 2, "start")] for samples in (80, 160)}
    run(tmp_path, small, ToyObjective(late=40), stop_after=48, schedule=late[80])
    again = Positions(late=80)
    assert run(tmp_path, large, again, schedule=late[160]).samples == 160
    assert all(again.started)
    other = Positions(late=40)
    run(tmp_path / "other", small, ToyObjective(late=40), stop_after=24, schedule=late[80])
    run(tmp_path / "other", large, other, schedule=late[80])  # a start that was given in samples does not move
    assert other.positions[:2] == [24, 32]


def test_a_larger_budget_moves_the_schedule_and_nothing_else(tmp_path: Path) -> None:
    from jielong.training.state import check_same_recipe

    old = load("vqgan", ["train.samples=20_000"])
    new = load("vqgan", ["train.samples=50_000"])
    check_same_recipe(old.to_yaml(), new.to_yaml(), tmp_path, schedule=scheduled(new))
    moved = load("vqgan", ["train.samples=50_000", "losses.adversarial.start_samples=1_000"])
    with pytest.raises(RecipeError, match=r"losses\.adversarial\.start_samples was 19400 and is now 1000"):
        check_same_recipe(old.to_yaml(), moved.to_yaml(), tmp_path, schedule=scheduled(moved))


def test_a_start_behind_the_last_step_of_a_timed_run_is_compared_with_that_step() -> None:
    counters = Counters(samples=320, seconds=40.0, position=1_939)
    schedule = [ScheduledSetting(("losses", "adversarial", "start_samples"), 1_940, "start")]
    settings = TrainSettings(samples=2_000, batch=32, lr=1e-3).resolved()
    said = "losses.adversarial never started: start_samples is 97% of the budget, and the last step began at 96%"
    assert Budget(settings, 40.0, counters, schedule).unreached() == [said]


def test_what_was_never_reached_is_in_the_summary(tmp_path: Path) -> None:
    schedule = [
        ScheduledSetting(("losses", "adversarial", "start_samples"), 400, "start"),
        ScheduledSetting(("losses", "perceptual", "start_samples"), 312, "start"),
        ScheduledSetting(("train", "warmup"), 320, "end"),
        ScheduledSetting(("quantizer", "gumbel", "kl_samples"), 480, "end"),
        ScheduledSetting(("train", "save_every"), 500, "interval"),
    ]
    expected = [
        "losses.adversarial never started: start_samples is 125% of the budget (400 of 320 samples), and the run ended at 100%",
        "quantizer.gumbel.kl_samples did not end: it is 150% of the budget (480 of 320 samples), and the run ended at 100%",
    ]
    assert run(tmp_path, schedule=schedule).unreached == expected
    assert json.loads((tmp_path / "summary.json").read_text())["unreached"] == expected
