"""Video experiments: data and measures by closed forms, each verdict both ways on synthetic figures, and runs at a tiny budget."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from jielong.apps.lab import Bench, Verdict, chains, conclude, continuing, run
from jielong.apps.lab.chains import Generated, TrainingPlan
from jielong.apps.lab.continuing import GIVEN, Continued, closer, continue_clips, repeated, squared_errors
from jielong.apps.lab.experiments import frames_as_chain, one_frame_or_all
from jielong.apps.lab.experiments.tokens_span_time import BITS, FRAMES, OVER_TIME, VARIANTS, Run, judge
from jielong.apps.lab.moving import moving_digits, write_clips, write_pictures
from jielong.config import recipe
from jielong.data.opening import open_data
from jielong.orders.frames import FramesOrder
from jielong.training import run as training_run
from lab_clock import Clock


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- data -----------------------------------------------------------------------------------------------------------------------------


def test_digits_are_those_of_the_set_and_move() -> None:
    clips = moving_digits(3, "heldout", 32, 5)
    assert clips.shape == (3, 1, 5, 32, 32)
    large = moving_digits(3, "heldout", 64, 5)
    torch.testing.assert_close(clips, torch.nn.functional.avg_pool2d(large[:, 0], 2)[:, None])
    assert torch.equal(moving_digits(2, "heldout", 32, 5), clips[:2]), "a clip does not depend on how many there are"
    assert float(large.min()) == -1.0
    assert float(large.max()) > 0.9
    assert float((clips[:, :, 1:] - clips[:, :, :-1]).abs().mean()) > 0.01


def test_written_sets_are_read_as_they_were(tmp_path: Path) -> None:
    clips = moving_digits(4, "train", 16, 4)
    videos = open_data(str(write_clips(tmp_path / "clips.parquet", clips)))
    assert videos.medium.shape == (1, 4, 16, 16)
    torch.testing.assert_close(videos.media(range(4)), clips, atol=1 / 127, rtol=0)
    pictures = open_data(str(write_pictures(tmp_path / "frames.parquet", clips)))
    assert (len(pictures), pictures.medium.shape) == (16, (1, 16, 16))
    torch.testing.assert_close(pictures.media(range(16)), clips[:, 0].flatten(0, 1)[:, None], atol=1 / 127, rtol=0)


# --- measures -------------------------------------------------------------------------------------------------------------------------


def test_errors_are_of_frames_that_are_not_given() -> None:
    real = noise(3, 1, 5, 4, 4).float()
    assert float(squared_errors(real, real).abs().max()) == 0
    wrong = real.clone()
    wrong[:, :, :GIVEN] += 1.0
    assert float(squared_errors(wrong, real).abs().max()) == 0, "given frames do not count"
    wrong[1, :, GIVEN + 1] += 0.5
    errors = squared_errors(wrong, real)
    assert errors.shape == (3, 5 - GIVEN)
    assert errors[1, 1].item() == pytest.approx(0.25, rel=1e-5)
    assert int((errors > 0).sum()) == 1
    held = repeated(real)
    assert torch.equal(held[:, :, :GIVEN], real[:, :, :GIVEN])
    assert all(torch.equal(held[:, :, index], real[:, :, GIVEN - 1]) for index in range(GIVEN, 5))


def continued(error: float, distance: float, spread: float = 0.1, seed: int = 0) -> Continued:
    errors = error + spread * noise(32, 6, seed=seed)
    each = distance + spread * noise(32, seed=seed + 1)
    return Continued(torch.empty(0), errors, Generated(torch.empty(0), each, float(each.mean()), torch.ones(3)))


def test_continuations_claim_can_hold_and_fail() -> None:
    names, good, bad = ("one", "two"), continued(0.4, 1.0), continued(0.9, 2.0, seed=2)
    assert conclude(closer(names, good, bad, 0)) is Verdict.HOLDS
    assert conclude(closer(names, bad, good, 0)) is Verdict.FAILS
    blurred = continued(0.3, 3.0, seed=4)
    assert conclude(closer(names, blurred, bad, 0)) is Verdict.FAILS, "a low error is not enough"
    assert conclude(closer(names, continued(0.5, 1.0, 5.0, seed=6), continued(0.5, 1.0, 5.0, seed=8), 0)) is Verdict.UNKNOWN


def runs(psnr: float, usage: float = 0.95, spread: float = 0.05, seed: int = 0) -> list[Run]:
    return [Run(psnr + spread * each, usage, torch.empty(0)) for each in noise(4, seed=seed).tolist()]


def test_tokens_claim_can_hold_and_fail() -> None:
    coarse, few = (name for name in VARIANTS if name != OVER_TIME)
    good = {OVER_TIME: runs(24.0), coarse: runs(21.0, seed=1), few: runs(20.0, seed=2)}
    assert conclude(judge(good)) is Verdict.HOLDS
    assert conclude(judge(good | {few: runs(26.0)})) is Verdict.FAILS, "better than one of both is not enough"
    assert conclude(judge(good | {OVER_TIME: runs(24.0, usage=0.3)})) is Verdict.FAILS
    apart = [Run(psnr, 0.95, torch.empty(0)) for psnr in (15.0, 30.0, 18.0, 27.0)]
    assert conclude(judge(good | {coarse: apart})) is Verdict.UNKNOWN


# --- plans ----------------------------------------------------------------------------------------------------------------------------


def test_both_ways_of_masking_differ_in_nothing_else() -> None:
    one, every = (recipe.parse(plan.generator, plan.name) for plan in (one_frame_or_all.ONE, one_frame_or_all.ALL))
    assert one.order is not None
    assert every.order is not None
    assert one.order.model_copy(update={"drawn": "all"}) == every.order
    assert one.model_copy(update={"order": None}) == every.model_copy(update={"order": None})


# --- runs -----------------------------------------------------------------------------------------------------------------------------


SMALLER = {
    "layers: 3, width: 96, heads: 3": "layers: 1, width: 24, heads: 2",
    "layers: 6, width: 96, heads: 3": "layers: 2, width: 24, heads: 2",
}
SMALLER |= {"layers: 4, width: 96, heads: 3": "layers: 1, width: 24, heads: 2", "layers: 2, width: 128": "layers: 1, width: 24"}
SMALLER |= {"none: {width: 96}": "none: {width: 24}", "steps: 16": "steps: 2", "steps: 4": "steps: 2", "batch: 16": "batch: 4"}


@pytest.fixture
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(perf_counter=Clock(0.1).perf_counter)
    for module in (training_run, chains, continuing):
        monkeypatch.setattr(module, "time", clock)


def small(plan: TrainingPlan) -> TrainingPlan:
    text = plan.generator
    for large, less in SMALLER.items():
        text = text.replace(large, less)
    return replace(plan, generator=text)


@pytest.mark.parametrize(
    ("name", "module", "plans"),
    [("frames-as-chain", frames_as_chain, ("CHAIN", "WHOLE")), ("one-frame-or-all", one_frame_or_all, ("ONE", "ALL"))],
)
@pytest.mark.usefixtures("_clock")
def test_continuations_run(name: str, module: object, plans: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for plan in plans:
        monkeypatch.setattr(module, plan, small(getattr(module, plan)))
    result = run(name, tmp_path, budget=0.01)
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["verdict"] == str(result.verdict)
    assert len(record["checks"]) == 2
    assert (tmp_path / "plot.png").exists()
    figures = record["figures"]
    names = [getattr(module, plan).name for plan in plans]
    assert all(figures[f"clips seen, {each}"]["value"] > 0 for each in names)
    assert all(figures[f"error, {each}"]["n"] == 4 for each in names)
    assert 0.3 < figures["error, empty frames"]["value"] < 3


@pytest.mark.usefixtures("_clock")
def test_given_frames_are_kept_and_later_clips_do_not_matter(tmp_path: Path) -> None:
    plan = small(one_frame_or_all.ALL)
    clips = moving_digits(6, "train", continuing.SIZE, continuing.FRAMES)
    path = write_clips(tmp_path / "digits.parquet", clips)
    trained = chains.train_plan(Bench(tmp_path), plan, 1.0, [f"data.set={path}"])
    assert trained.system.generator is not None
    assert isinstance(trained.system.generator.order, FramesOrder)
    made = continue_clips(trained.system, clips, seed=3)
    torch.testing.assert_close(made[:, :, :GIVEN], clips[:, :, :GIVEN], atol=1e-5, rtol=0)
    torch.testing.assert_close(continue_clips(trained.system, clips[:2], seed=3), made[:2], atol=1e-4, rtol=0)
    hidden = clips.clone()
    hidden[:, :, GIVEN:] = 0.0
    assert torch.equal(continue_clips(trained.system, hidden, seed=3), made), "what is to be drawn is not read"


@pytest.mark.usefixtures("_clock")
def test_tokens_run(tmp_path: Path) -> None:
    result = run("tokens-span-time", tmp_path, budget=0.01)
    assert result.verdict is Verdict.UNKNOWN  # one run has no interval
    record = json.loads((tmp_path / "result.json").read_text())
    assert {record["figures"][f"bits per clip, {name}"]["value"] for name in VARIANTS} == {BITS}
    assert all(0 < record["figures"][f"codes in use, {name}"]["value"] <= 1 for name in VARIANTS)
    assert all(record["figures"][f"frames seen, {name}, seed 0"]["value"] >= FRAMES for name in VARIANTS)
