"""Sample grids, held-out figures and saves between steps take at most a tenth of a run's time; the weights do not depend on them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from torch import nn
from toy_run import SETTINGS, ToyObjective, ToyStream, run

from jielong.data.sets import Batch
from jielong.media.pictures import Pictures
from jielong.training import run as run_module
from jielong.training.pauses import MOST, NEGLIGIBLE, Pause

STEP, GRID, FIGURES = 1.0, 1.5, 1.25
STEPS = 200
LONG = SETTINGS.model_copy(update={"samples": 8 * STEPS, "log_every": 40, "sample_every": 40, "save_every": 40})


class Clock:
    """Advances only by what takes time in :class:`Slow`."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Slow(ToyObjective):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def forward(self, *args: Any) -> Any:
        self.clock.now += STEP
        return super().forward(*args)

    def active(self, phase: str, samples_seen: int) -> bool:
        return phase == "model"

    def samples(self, model: nn.Module) -> Pictures:
        self.clock.now += GRID / 2  # of the raw and of the EMA weights
        return super().samples(model)

    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        self.clock.now += FIGURES
        return super().evaluate(model)


class Few(ToyStream):
    """The same batch in every step, which is fast."""

    def batch(self, first: int, count: int) -> Batch:
        return super().batch(0, count)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(run_module, "time", found)
    return found


def test_a_kind_of_pause_fits_into_its_share() -> None:
    assert Pause().fits(0.04, 0.0)  # the first of each kind
    assert Pause(seconds=NEGLIGIBLE / 2, count=10).fits(0.04, 1.0)
    pause = Pause(seconds=4.0, count=1)
    assert not pause.fits(0.04, 199.0)
    assert pause.fits(0.04, 200.0)
    assert sum(MOST.values()) <= 0.09 + 1e-9  # and a hundredth for the loss curve


def test_pauses_take_a_tenth_of_the_time_and_are_spread_over_the_run(tmp_path: Path, clock: Clock) -> None:
    screen = io.StringIO()
    summary = run(tmp_path, LONG, Slow(clock), Few(), progress=True, console=Console(file=screen, width=300))
    pauses = summary.pause_seconds
    assert STEPS * STEP < summary.seconds <= STEPS * STEP / 0.9
    assert pauses["sample"]["seconds"] <= max(GRID, MOST["sample"] * summary.seconds)
    assert pauses["evaluation"]["seconds"] <= max(FIGURES, MOST["evaluation"] * summary.seconds)
    due = STEPS // 5 - 1
    for what, cost in (("sample", GRID), ("evaluation", FIGURES)):
        assert pauses[what]["count"] > 1
        assert pauses[what]["seconds"] == pauses[what]["count"] * cost
        assert pauses[what]["count"] + pauses[what]["left_out"] == due
    assert pauses["sample"]["after"] == GRID  # the last one counts apart
    assert pauses["save"]["count"] == due  # cheap ones are all made
    grids = sorted(int(path.stem.rpartition("-")[2]) for path in (tmp_path / "samples").iterdir())
    assert (grids[0], grids[-1]) == (40, LONG.samples)
    assert len(grids) == pauses["sample"]["count"] + 1
    assert screen.getvalue().count("sample grids take 1.5 s each: left out at 80 samples") == 1
    words = ", ".join(
        f"{pauses[what]['left_out']} of {due} {noun}" for what, noun in (("evaluation", "held-out figures"), ("sample", "sample grids"))
    )
    assert f"left out to save time: {words}\n" in screen.getvalue()
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["sample_seconds"] == pauses["sample"]["seconds"]


def test_weights_do_not_depend_on_pauses_and_a_resumed_run_remembers_them(tmp_path: Path, clock: Clock) -> None:
    short = LONG.model_copy(update={"samples": 8 * 60})
    run(tmp_path / "slow", short, Slow(clock), stop_after=240)
    resumed = run(tmp_path / "slow", short, Slow(clock))
    assert resumed.pause_seconds["sample"]["count"] == 1
    free = Slow(Clock())  # another clock: its pauses take no time of the run
    assert run(tmp_path / "fast", short, free).pause_seconds["sample"]["left_out"] == 0
    assert (tmp_path / "slow" / "model.safetensors").read_bytes() == (tmp_path / "fast" / "model.safetensors").read_bytes()


def test_no_pause_is_begun_that_a_budget_of_time_does_not_hold(tmp_path: Path, clock: Clock) -> None:
    summary = run(tmp_path, LONG, Slow(clock), Few(), budget=60.0)
    assert summary.stopped == "budget"
    assert 50 < summary.seconds <= 60
    assert summary.pause_seconds["sample"]["count"] == summary.pause_seconds["evaluation"]["count"] == 1
