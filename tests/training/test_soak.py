"""Kills at calls of the file system: started again, the work ends as if nothing had stopped it, bit for bit, and nothing else is left.

``make soak`` (``SOAK=1``) tries every call of every case, and kills at random times; without it 50 calls are tried.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import soaking
import torch
import toy_run
from PIL import Image
from soaking import Case, contents, in_child, spread, unfinished

from jielong.apps.cli import app
from jielong.apps.comparison import Budget, compare
from jielong.apps.comparison import running as comparison
from jielong.apps.comparison.measuring import Measured
from jielong.config import recipe
from jielong.media.pictures import Pictures
from jielong.training import experiment

EVERYTHING = os.environ.get("SOAK") == "1"
FAST, SLOW = 34, 4
"""Kills of the fast case, and of each slow one."""
STEPS = ("train.samples=24", "train.batch=8", "train.warmup=8", "train.sample_every=16", "train.save_every=8", "train.ema=0.5")
ADVERSARIAL = "losses.adversarial={weight: 0.1, start_samples: 8, channels: 4, layers: 1}"
COLOURS = {"red": (220, 40, 30), "blue": (40, 60, 220)}
TOY = toy_run.SETTINGS.model_copy(update={"samples": 48, "warmup": 8, "log_every": 16, "sample_every": 8, "save_every": 16, "keep": "best"})

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*taken over"),
    pytest.mark.filterwarnings("ignore:removed .* unfinished file"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked"),
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 6), ("heldout", 2)):
        for name, colour in COLOURS.items():
            for place in range(count):
                image = Image.new("RGB", (16, 16), "white")
                image.paste(colour, (place, place, place + 8, place + 8))
                path = root / split / name / f"{place}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
                path.with_suffix(".txt").write_text(f"a {name} square")
    return root


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    out = tmp_path_factory.mktemp("tokenizer") / "out"
    experiment.run(recipe.load("vqgan-tiny", STEPS), out, str(pictures), device="cpu", progress=False)
    return out


def toy(out: Path) -> None:
    toy_run.run(out, TOY, toy_run.ToyObjective(late=24))


def train(name: str, pictures: Path, *overrides: str) -> Case:
    chosen = recipe.load(name, [*STEPS, *overrides])
    return Case(name, lambda out: experiment.run(chosen, out, str(pictures), device="cpu", progress=False) and None)


def quick(system: comparison.System, *_: object) -> Measured:
    """In place of metrics of deep features, whose computation writes nothing."""
    weights = [float(each.abs().mean()) for each in system.tokenizer.parameters()]
    return Measured({"psnr": weights[0]}, {}, {}, Pictures(torch.zeros(4, 3, 8, 8)))


def comparing(pictures: Path) -> Case:
    def work(out: Path) -> None:
        comparison.measure = quick
        assert compare(["vqgan-tiny", "fsq-tiny"], out, Budget(samples=16), data=str(pictures), overrides=STEPS[1:], device="cpu").complete

    return Case("compare", work)


def tokenizing(tokenizer: Path, pictures: Path) -> Case:
    words = ["tokenize", str(tokenizer), "--data", str(pictures), "--device", "cpu", "--out"]
    return Case("tokenize", lambda out: app([*words, str(out / "tokens.safetensors")], standalone_mode=False))


@pytest.fixture(params=["toy", "adversarial tokenizer", "generator", "compare", "tokenize"])
def case(request: pytest.FixtureRequest, pictures: Path) -> Case:
    torch.set_num_threads(1)
    if request.param == "toy":
        return Case("toy", toy, slow=False)
    if request.param == "adversarial tokenizer":
        return train("vqgan-tiny", pictures, ADVERSARIAL)
    if request.param == "compare":
        return comparing(pictures)
    tokenizer = request.getfixturevalue("tokenizer")
    if request.param == "tokenize":
        return tokenizing(tokenizer, pictures)
    return train("maskgit-tiny", pictures, "data.size=16", f"tokenizer.checkpoint={tokenizer}")


@pytest.fixture(autouse=True)
def _imports(case: Case, tmp_path: Path) -> None:
    """What the work imports, once for all forked processes."""
    case.work(tmp_path / "imports" / "out")


def ends_as(case: Case, place: Path, whole: dict[str, object]) -> None:
    """Starting again ends with the same files of the same contents, and no others."""
    assert in_child(case.work, place, soaking.nothing) == 0
    found = contents(place)
    assert sorted(found) == sorted(whole)
    assert [name for name in whole if found[name] != whole[name]] == []


def test_kills_at_calls_of_the_file_system(case: Case, tmp_path: Path) -> None:
    events = soaking.events_of(case, tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    for number in spread(events if EVERYTHING else SLOW if case.slow else FAST, events):
        place = tmp_path / f"killed at {number} of {events}"
        assert in_child(case.work, place, soaking.kill_at(number)) == -signal.SIGKILL, place.name
        if EVERYTHING:  # a second time, while it starts again
            in_child(case.work, place, soaking.kill_at(1 + number // 2))
        ends_as(case, place, whole)


def test_a_disk_that_is_full_from_a_call_on_leaves_nothing_unfinished(case: Case, tmp_path: Path) -> None:
    events = soaking.events_of(case, tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    for number in spread(events if EVERYTHING else 1 if case.slow else 8, events):
        place = tmp_path / f"full at {number} of {events}"
        in_child(case.work, place, soaking.full_at(number))  # 1, or 0 where only a cache is not written
        assert unfinished(place) == [], place.name
        ends_as(case, place, whole)


def test_a_termination_at_a_call_leaves_nothing_unfinished(case: Case, tmp_path: Path) -> None:
    if not EVERYTHING and case.slow:
        pytest.skip("make soak")
    events = soaking.events_of(case, tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    for number in spread(events if EVERYTHING else 6, events):
        place = tmp_path / f"terminated at {number} of {events}"
        in_child(case.work, place, soaking.send_at(number, signal.SIGTERM))
        ends_as(case, place, whole)


@pytest.mark.skipif(not EVERYTHING, reason="make soak")
def test_kills_at_random_times(case: Case, tmp_path: Path) -> None:
    seconds = soaking.duration(case, tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    for count, moment in enumerate(soaking.random_seconds(25, seconds)):
        place = tmp_path / f"{count}: killed after {moment:.4f} s"
        in_child(case.work, place, soaking.nothing, timeout=moment)
        ends_as(case, place, whole)
