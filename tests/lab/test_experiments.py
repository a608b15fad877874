"""Each experiment's verdict both ways on synthetic figures, its measures by oracle, and a run at a tiny budget."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from jielong.apps.cli import app
from jielong.apps.lab import Bench, Check, Outcome, Trial, Verdict, conclude, run, trials
from jielong.apps.lab.experiments import collapse, keep_only_a_few, what_is_alike
from jielong.apps.lab.statistics import Estimate, exact
from jielong.media.kinds.image import image_medium


def noise(n: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed))


# --- the registry -------------------------------------------------------------------------------------------------------------------


def test_every_experiment_states_a_claim_in_one_sentence() -> None:
    known = trials()
    assert {"what-is-alike", "collapse", "keep-only-a-few"} <= set(known)
    for name, trial in known.items():
        assert trial.name == name
        assert trial.claim.endswith(".")
        assert ". " not in trial.claim


@pytest.fixture
def toss(monkeypatch: pytest.MonkeyPatch) -> type[Trial]:
    """An experiment of no cost."""
    from jielong.apps.lab import trial as module

    monkeypatch.setattr(module, "_trials", dict(module._trials))

    class Toss(Trial, name="toss"):
        claim = "The number is above one half."

        def run(self, bench: Bench) -> Outcome:
            bench.log("tossing")
            value = torch.rand(1, generator=torch.Generator().manual_seed(bench.seed)).item()
            return Outcome([Check("it is", exact(value), "above", 0.5)], {"number": exact(value)}, lambda figure: figure.subplots())

    return Toss


def test_a_result_file(toss: type[Trial], tmp_path: Path) -> None:
    messages: list[str] = []
    verdicts = set()
    for seed in range(6):
        result = run("toss", tmp_path / str(seed), seed, log=messages.append)
        record = json.loads((tmp_path / str(seed) / "result.json").read_text())
        assert record["verdict"] == str(result.verdict) == ("holds" if record["figures"]["number"]["value"] > 0.5 else "does not hold")
        assert record["seed"] == seed
        assert record["checks"][0]["bound"] == 0.5
        assert {"torch", "jielong"} <= record["versions"].keys()
        assert record["command"] == f"jielong lab run toss --seed {seed}"
        with Image.open(tmp_path / str(seed) / "plot.png") as plot:
            assert plot.format == "PNG"
        verdicts.add(result.verdict)
    assert verdicts == {Verdict.HOLDS, Verdict.FAILS}
    assert messages == ["tossing"] * 6


def test_invalid_arguments(toss: type[Trial], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'collapse'"):
        run("colapse", tmp_path)
    with pytest.raises(ValueError, match="above 0"):
        run("toss", tmp_path, budget=0)
    assert not list(tmp_path.iterdir())


def test_the_command_line(toss: type[Trial], tmp_path: Path) -> None:
    runner = CliRunner()
    listed = runner.invoke(app, ["lab", "list"], env={"COLUMNS": "200"})
    assert "keep-only-a-few" in listed.stdout
    done = runner.invoke(app, ["lab", "run", "toss", "--out", str(tmp_path), "--seed", "1"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.stderr
    assert "verdict:" in done.stdout
    assert (tmp_path / "toss" / "result.json").exists()
    assert runner.invoke(app, ["lab", "run"]).exit_code == 2
    assert runner.invoke(app, ["lab", "run", "toss", "--all"]).exit_code == 2


def test_a_budget_scales_numbers() -> None:
    bench = Bench(Path(), budget=0.25)
    assert (bench.scaled(100), bench.scaled(2), bench.scaled(2, 5)) == (25, 1, 5)


# --- what is alike --------------------------------------------------------------------------------------------------------------------


def alike(regression_prefers: str, blur_detected: bool = True) -> Verdict:
    small, large = noise() * 0.1, noise(seed=1) + 1
    regression = {"shifted": large, "blurred": small} if regression_prefers == "blurred" else {"shifted": small, "blurred": large}
    real = noise(seed=2)
    logits = {"real": real, "shifted": real + 1e-3 * noise(seed=3), "blurred": real - 2 if blur_detected else real - 1e-3}
    same = {"shifted": small, "blurred": large}
    return conclude(
        what_is_alike.judge(regression, same, logits, {"delayed": large, "muffled": small}, {"delayed": small, "muffled": large}, seed=0)
    )


def test_alike_claim_can_hold_and_fail() -> None:
    assert alike("blurred") is Verdict.HOLDS
    assert alike("shifted") is Verdict.FAILS
    assert alike("blurred", blur_detected=False) is Verdict.FAILS


def test_copies() -> None:
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    assert torch.equal(what_is_alike.shifted(ramp)[..., 1:], ramp[..., :-1])
    blurred = what_is_alike.blurred(ramp)
    torch.testing.assert_close(blurred[..., 5:-5], ramp[..., 5:-5])  # a straight line is its own local mean
    one = torch.zeros(1, 1, 31, 31)
    one[..., 15, 15] = 1
    spread = what_is_alike.blurred(one)[0, 0]
    assert spread.sum().item() == pytest.approx(1, abs=1e-5)
    place = torch.arange(31.0) - 15
    assert (spread.sum(0) * place.square()).sum().sqrt().item() == pytest.approx(what_is_alike.BLUR, rel=0.05)


def test_a_discriminator_detects_blur() -> None:
    class Squares:
        medium = image_medium(3, (32, 32))

        def __len__(self) -> int:
            return 32

        def media(self, rows: list[int]) -> torch.Tensor:
            return (noise(32 * 3 * 8 * 8).reshape(32, 3, 8, 8).round() * 2 - 1).repeat_interleave(4, 2).repeat_interleave(4, 3)[rows]

    images = Squares()
    discriminator = what_is_alike.train_discriminator(images, 30, seed=0)  # type: ignore[arg-type]
    real = images.media(list(range(32)))
    assert (what_is_alike.realness(discriminator, real) > what_is_alike.realness(discriminator, what_is_alike.blurred(real))).all()


def test_what_is_alike_runs(tmp_path: Path) -> None:
    result = run("what-is-alike", tmp_path, budget=0.02)
    assert {check.estimate.n for check in result.outcome.checks} <= {2, 3}
    assert 0 <= result.outcome.figures["discriminator AUC, shifted image"].value <= 1


# --- collapse -------------------------------------------------------------------------------------------------------------------------


def test_collapse_claim_can_hold_and_fail() -> None:
    alone, cured = [0.10, 0.11, 0.12, 0.10], [0.60, 0.62, 0.61, 0.63]
    good = {collapse.ALONE: alone, collapse.ALL: [0.99, 0.98, 0.99, 0.98], **dict.fromkeys(collapse.MEASURES, cured)}
    assert conclude(collapse.judge(good)) is Verdict.HOLDS
    assert conclude(collapse.judge(good | {"restarts": [0.05, 0.05, 0.06, 0.05]})) is Verdict.FAILS
    assert conclude(collapse.judge(good | {"restarts": [0.05, 0.5, 0.06, 0.2]})) is Verdict.UNKNOWN
    assert conclude(collapse.judge(good | {collapse.ALONE: [0.95, 0.94, 0.95, 0.96]})) is Verdict.FAILS


def test_collapse_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collapse, "MEASURES", {"restarts": collapse.MEASURES["restarts"]})
    result = run("collapse", tmp_path, budget=0.01)
    assert result.verdict is Verdict.UNKNOWN  # one run has no interval
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["provenance"]["samples"] == 64
    assert record["checks"][0]["low"] is None
    assert 0 < record["figures"]["codebook usage, baseline"]["value"] <= 1


# --- keep only a few ------------------------------------------------------------------------------------------------------------------


def test_keep_only_a_few_claim_can_hold_and_fail() -> None:
    steps = keep_only_a_few.STEPS
    falling = {count: noise(seed=count) * 0.01 - place for place, count in enumerate(steps)}
    assert conclude(keep_only_a_few.judge(falling, 0)) is Verdict.HOLDS
    assert conclude(keep_only_a_few.judge({count: -each for count, each in falling.items()}, 0)) is Verdict.FAILS
    assert conclude(keep_only_a_few.judge({count: noise(seed=count) for count in steps}, 0)) is Verdict.UNKNOWN


def test_the_slope_is_a_least_squares_line() -> None:
    distance = {count: torch.full((8,), 3.0 - 0.25 * place) for place, count in enumerate(keep_only_a_few.STEPS)}
    slope = keep_only_a_few.judge(distance, 0)[1].estimate
    assert (slope.value, slope.low, slope.high) == (pytest.approx(-0.25),) * 3


def test_caption_log_probability_is_the_softmax_over_candidates() -> None:
    scores = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    values = keep_only_a_few.caption_log_probability(scores, [0, 1], candidates=3, seed=0)
    wanted = scores.double().log_softmax(1).diagonal()
    torch.testing.assert_close(values, wanted)


def test_retrieval_by_number_of_steps() -> None:
    captions = ["a", "b", "c"]

    def scorer(pictures: torch.Tensor, texts: list[str]) -> torch.Tensor:
        return pictures.flatten(1)[:, : len(texts)]

    table = torch.eye(3)[:, None, None, :].expand(3, 1, 2, 3)  # the first three numbers of picture i: 1 at place i
    fit, best = keep_only_a_few.retrieve(scorer, {1: table, 2: -table}, captions, captions, seed=0, candidates=3)
    assert best[1].all()
    assert not best[2].any()
    assert (fit[1] > fit[2]).all()


def test_a_check_is_an_estimate_over_items() -> None:
    estimate = keep_only_a_few.judge({count: noise() for count in keep_only_a_few.STEPS}, 0)[0].estimate
    assert isinstance(estimate, Estimate)
    assert estimate.n == 64
