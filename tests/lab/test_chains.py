"""Experiments that train systems at equal time, on a few small images."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from jielong.apps.cli import app
from jielong.apps.lab import Verdict, chains, conclude, missing, run
from jielong.apps.lab.chains import Generated, TrainingPlan, distance_gain, speedup
from jielong.apps.lab.experiments import discrete_or_continuous, four_corners, latent_or_pixel, pixels, sketch_first, thirty_two_tokens
from jielong.config import recipe
from jielong.heads.flow_matching import FlowMatching
from jielong.media.kinds.image import image_medium
from jielong.system import System
from jielong.tokenizers.pixels import Pixels, PixelTokenizer
from jielong.training import experiment
from jielong.training import run as training_run
from lab_clock import Clock


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares in two classes: 16 to train on, 4 held out."""
    root = tmp_path_factory.mktemp("few")
    for split, count in (("train", 8), ("heldout", 2)):
        for name, colour in {"red": (220, 40, 30), "blue": (40, 60, 220)}.items():
            for place in range(count):
                image = Image.new("RGB", (16, 16), "white")
                image.paste(colour, (place, place, place + 8, place + 8))
                path = root / split / name / f"{place}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
    return root


TICK = 0.02
"""Seconds that the clock of these tests advances per call."""


@pytest.fixture
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(perf_counter=Clock(TICK).perf_counter)
    for module in (training_run, chains):
        monkeypatch.setattr(module, "time", clock)


SMALLER = {
    "layers: 3, width: 96, heads: 3": "layers: 1, width: 32, heads: 2",
    "layers: 4, width: 128, heads: 4": "layers: 1, width: 32, heads: 2",
    "steps: 20": "steps: 4",
}
"""Sizes of networks, and evaluations, that say nothing about whether an experiment runs."""


def on(plan: TrainingPlan, few: Path, data: str = "emoji") -> TrainingPlan:
    """The same plan on a few images of half the side, with small networks and without sample grids."""

    def moved(text: str) -> str:
        for large, small in SMALLER.items():
            text = text.replace(large, small)
        half = re.sub(r"size: (\d+)", lambda side: f"size: {int(side[1]) // 2}", text)
        seldom = half.replace("save_every: 1000000}", "save_every: 1000000, sample_every: 1000000}")
        return seldom.replace(f"set: {data}", f"set: {few}").replace("codebook_size: 256", "codebook_size: 16")

    return replace(plan, generator=moved(plan.generator), tokenizer=moved(plan.tokenizer) if plan.tokenizer else None)


def drawn(distance: float, seconds: float, spread: float = 0.1) -> Generated:
    generator = torch.Generator().manual_seed(round(1000 * distance))
    contributions = distance + spread * torch.randn(64, generator=generator, dtype=torch.float64)
    return Generated(
        torch.zeros(64, 3, 4, 4), contributions, distance, seconds * (1 + 0.01 * torch.rand(5, generator=generator, dtype=torch.float64))
    )


@pytest.mark.parametrize("judge", [pixels.judge, sketch_first.judge])
def test_verdicts_both_ways(judge: object) -> None:
    good, bad = drawn(1.0, 0.01), drawn(2.0, 0.1)
    assert conclude(judge(good, bad, 0)) is Verdict.HOLDS  # type: ignore[operator]
    assert conclude(judge(bad, good, 0)) is Verdict.FAILS  # type: ignore[operator]
    assert conclude(judge(drawn(1.0, 0.01, 5.0), drawn(1.001, 0.1, 5.0), 0)) is Verdict.UNKNOWN  # type: ignore[operator]


def test_figures_of_two_chains() -> None:
    one, two = drawn(1.0, 0.01, 0.0), drawn(2.5, 0.03, 0.0)
    assert distance_gain(one, two, 0, 0.95).value == pytest.approx(1.5)
    assert speedup(one, two, 0, 0.95).value == pytest.approx(3.0, rel=0.02)


@pytest.mark.parametrize(
    ("name", "module", "plans"),
    [("pixels-are-the-wrong-unit", pixels, ("TOKENS", "PIXELS")), ("sketch-first", sketch_first, ("SKETCH", "ROWS"))],
)
@pytest.mark.usefixtures("_clock")
def test_runs(name: str, module: object, plans: tuple[str, str], few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for plan in plans:
        monkeypatch.setattr(module, plan, on(getattr(module, plan), few))
    result = run(name, tmp_path, budget=0.02)
    record = json.loads((tmp_path / "result.json").read_text())
    assert result.verdict in Verdict
    assert len(record["checks"]) == 2
    seconds = [figure["value"] for key, figure in record["figures"].items() if key.startswith("seconds of training")]
    assert len(seconds) == 2
    # The budget is one second; a step may exceed it by the few clock calls it makes.
    assert all(1 - 5 * TICK < each < 1 + 5 * TICK for each in seconds), seconds
    assert all(figure["value"] > 0 for key, figure in record["figures"].items() if key.startswith("images seen"))


def test_what_was_trained_for_longer_than_planned_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """10 s of which the tokenizer takes 3 s and encoding 2 s or 9 s: the generator has 5 s, or the least of 1 s."""
    trained = SimpleNamespace(tokenizer=SimpleNamespace(media=None), recipe=SimpleNamespace(data=SimpleNamespace(set="faces")))
    spent = list[float]()

    def train(name: str, text: str, overrides: object, *, seconds: float, tokens: object = None) -> tuple[object, object]:
        spent.append(seconds)
        return trained, SimpleNamespace(seconds=seconds, samples=8)

    bench = SimpleNamespace(folder=tmp_path, seed=0, train=train)
    monkeypatch.setattr(chains, "open_data", lambda *_, **__: MagicMock(__len__=lambda _: 0))
    for name in ("write", "tokenize", "identity"):
        monkeypatch.setattr(chains.cache, name, lambda *_: None)
    for encoding, generator, total in ((2.0, 5.0, 10.0), (9.0, 1.0, 13.0)):
        times = iter((0.0, encoding))
        monkeypatch.setattr(chains, "time", SimpleNamespace(perf_counter=lambda times=times: next(times)))
        found = chains.train_plan(bench, TrainingPlan("latents", "", ""), 10.0)  # type: ignore[arg-type]
        assert spent[-1] == pytest.approx(generator)
        assert found.seconds == pytest.approx(total)
        comparison = chains.Comparison([], [found], {"latents": drawn(1.0, 0.1)}, {})
        monkeypatch.setattr(chains, "provenance_of", lambda *_: {})
        late = [each for each in comparison.outcome([]).remarks if "latents: 13.0 s of training in place of 10.0 s" in each]
        assert len(late) == (total > 10)


# --- four corners ---------------------------------------------------------------------------------------------------------------------


def test_four_corners_claim_can_hold_and_fail() -> None:
    others = {corner: drawn(2.0 + index / 10, 0.01) for index, corner in enumerate(four_corners.PLANS)}
    best = four_corners.BEST
    assert conclude(four_corners.judge(others | {best: drawn(1.0, 0.1)}, 0)) is Verdict.HOLDS
    assert conclude(four_corners.judge(others | {best: drawn(3.0, 0.1)}, 0)) is Verdict.FAILS
    one_is_better = others | {best: drawn(1.0, 0.1), ("raster", "codes"): drawn(0.5, 0.1)}
    assert conclude(four_corners.judge(one_is_better, 0)) is Verdict.FAILS
    assert conclude(four_corners.judge(others | {best: drawn(1.95, 0.1, 2.0)}, 0)) is Verdict.UNKNOWN


@pytest.mark.usefixtures("_clock")
def test_four_corners_run(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(four_corners, "PLANS", {corner: on(plan, few) for corner, plan in four_corners.PLANS.items()})
    result = run("four-corners", tmp_path, budget=0.02)
    record = json.loads((tmp_path / "result.json").read_text())
    assert result.verdict in Verdict
    assert len(record["checks"]) == 3
    assert {"tokens per image, random vectors", "tokens per image, raster codes"} <= record["figures"].keys()
    assert "bits per image, raster codes" in record["figures"]
    assert "bits per image, raster vectors" not in record["figures"], "bits are not defined for vectors"
    orders = {name: "masked" in text["generator"] for name, text in record["provenance"]["recipes"].items()}
    assert orders == {"raster codes": False, "raster vectors": False, "random codes": True, "random vectors": True}


# --- discrete or continuous -----------------------------------------------------------------------------------------------------------


def rate(bits: float, decibels: float, seed: int = 0) -> discrete_or_continuous.Reconstructions:
    pictures = torch.randn(64, generator=torch.Generator().manual_seed(7), dtype=torch.float64)  # common to all tokenizers
    noise = 0.05 * torch.randn(64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return discrete_or_continuous.Reconstructions(bits, decibels + pictures + noise, 0.1)


def test_discrete_or_continuous_claim_can_hold_and_fail() -> None:
    codes, judge = [rate(256, 20, 1), rate(512, 22, 2)], discrete_or_continuous.judge
    assert conclude(judge(codes, [rate(200, 19.8, 3), rate(600, 23, 4), rate(3000, 27, 5)], 0)) is Verdict.HOLDS
    assert conclude(judge(codes, [rate(200, 17, 3), rate(600, 20, 4), rate(3000, 27, 5)], 0)) is Verdict.FAILS  # less at equal bits
    assert conclude(judge(codes, [rate(200, 20, 3), rate(600, 22.5, 4)], 0)) is Verdict.FAILS  # no further
    assert conclude(judge(codes, [rate(2000, 25, 3), rate(3000, 27, 4)], 0)) is Verdict.UNKNOWN  # never at equal bits


def test_rates_between_two_are_on_a_straight_line() -> None:
    some = [rate(400, 24.0), rate(200, 20.0), rate(800, 30.0)]
    found = discrete_or_continuous.psnr_at(300, some)
    assert found is not None
    torch.testing.assert_close(found, rate(300, 22.0).psnr)
    assert discrete_or_continuous.psnr_at(199, some) is None
    assert discrete_or_continuous.psnr_at(801, some) is None


@pytest.mark.usefixtures("_clock")
def test_discrete_or_continuous_runs(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discrete_or_continuous, "SET", str(few))
    monkeypatch.setattr(discrete_or_continuous, "CODES", (4, 16))
    monkeypatch.setattr(discrete_or_continuous, "WEIGHTS", (100.0, 0.001))
    result = run("discrete-or-continuous", tmp_path, budget=0.05)
    figures = result.outcome.figures
    assert figures["bits per image, 16 codes"].value == 64 * 4
    low, high = (figures[f"bits per image, vectors, weight {weight}"].value for weight in ("100", "0.001"))
    assert 0 <= low < high, "a larger KL weight leaves fewer bits"
    assert len(result.outcome.checks) == 2


# --- 32 tokens ------------------------------------------------------------------------------------------------------------------------


def kept(psnr: float, distance: float, extent: float) -> thirty_two_tokens.Reconstructions:
    noise = 0.01 * torch.randn(3, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return thirty_two_tokens.Reconstructions(psnr + noise[0], distance + noise[1], extent + noise[2], torch.zeros(8, 3, 4, 4))


def test_thirty_two_tokens_claim_can_hold_and_fail() -> None:
    grid = kept(24.0, 0.5, 0.05)
    assert conclude(thirty_two_tokens.judge(kept(23.5, 0.51, 0.4), grid, 0)) is Verdict.HOLDS
    assert conclude(thirty_two_tokens.judge(kept(22.5, 0.51, 0.4), grid, 0)) is Verdict.FAILS
    assert conclude(thirty_two_tokens.judge(kept(23.5, 0.60, 0.4), grid, 0)) is Verdict.FAILS
    assert conclude(thirty_two_tokens.judge(kept(23.5, 0.51, 0.01), grid, 0)) is Verdict.FAILS


def test_a_pixel_token_affects_one_pixel() -> None:
    tokenizer = PixelTokenizer(image_medium(3, (8, 8)), Pixels())
    system = System("pixels", recipe.load("maskgit-tiny"), tokenizer, None)
    pictures = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert thirty_two_tokens.token_extent(system, pictures, 0).tolist() == [1 / 64] * 6


@pytest.mark.usefixtures("_clock")
def test_thirty_two_tokens_run(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid, line = tmp_path / "grid", tmp_path / "line"
    short = [f"data.set={few}", "data.size=16", "train.samples=16", "train.batch=8", "train.warmup=8", "train.save_every=16"]
    options = {"progress": False, "evaluate": False, "device": "cpu"}
    experiment.run(recipe.load("vqgan-tiny", short), grid, **options)
    parts = [f"tokenizer.titok.proxy={grid}", "tokenizer.titok.patch=4", "tokenizer.titok.finetune_at=8"]
    experiment.run(recipe.load("titok-tiny", [*short, *parts]), line, **options)
    monkeypatch.setattr(thirty_two_tokens, "LINE", str(line))
    monkeypatch.setattr(thirty_two_tokens, "GRID", str(grid))
    monkeypatch.setattr(thirty_two_tokens.ThirtyTwoTokens, "needs", (str(line), str(grid)))
    result = run("32-tokens", tmp_path / "result", budget=0.02)
    figures = result.outcome.figures
    assert (figures[f"tokens, {line}"].value, figures[f"tokens, {grid}"].value) == (8, 16)
    assert figures[f"bits, {grid}"].value == 16 * 6


def test_an_experiment_without_its_model_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thirty_two_tokens.ThirtyTwoTokens, "needs", ("no-such-model",))
    assert "no-such-model" in str(missing("32-tokens"))
    assert missing("collapse") is None
    done = CliRunner().invoke(app, ["lab", "run", "32-tokens", "--out", str(tmp_path)])
    assert done.exit_code == 1
    assert "no-such-model" in done.stderr
    assert not list(tmp_path.iterdir())


# --- latent or pixel ------------------------------------------------------------------------------------------------------------------


def styles(share: float, seed: int = 0) -> torch.Tensor:
    return torch.rand(64, generator=torch.Generator().manual_seed(seed)) < share


def test_latent_or_pixel_claim_can_hold_and_fail() -> None:
    judge, good, bad = latent_or_pixel.judge, drawn(1.0, 0.01), drawn(2.0, 0.01)
    assert conclude(judge(good, bad, 0)) is Verdict.HOLDS
    assert conclude(judge(bad, good, 0)) is Verdict.FAILS
    assert conclude(judge(good, bad, 0, (styles(1.0), styles(0.9)))) is Verdict.HOLDS
    assert conclude(judge(good, bad, 0, (styles(0.2), styles(1.0)))) is Verdict.FAILS
    assert conclude(judge(good, bad, 0, (styles(0.6), styles(0.6, 1)))) is Verdict.UNKNOWN


def test_latent_or_pixel_has_one_network_for_both() -> None:
    networks, grids = [], []
    for plan in (latent_or_pixel.LATENT, latent_or_pixel.PIXEL):
        texts = plan.generator.replace("{checkpoint: set by the experiment}", "{patches: {patch: 4, std: 1.0}}")
        chosen = recipe.parse(texts, plan.name)
        head = chosen.head
        assert isinstance(head, FlowMatching)
        networks.append(head.network.model_dump())
        grids.append(chosen.data.size)
    assert networks[0] == networks[1]
    assert grids == [32, 32]


@pytest.mark.usefixtures("_clock")
def test_latent_or_pixel_runs(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for plan in ("LATENT", "PIXEL"):
        moved = on(getattr(latent_or_pixel, plan), few, f'"{latent_or_pixel.SET}"')
        monkeypatch.setattr(latent_or_pixel, plan, moved)
    result = run("latent-or-pixel", tmp_path, budget=0.02)
    record = json.loads((tmp_path / "result.json").read_text())
    assert result.verdict in Verdict
    assert len(record["checks"]) == 1  # no judge reads these squares
    assert any("styles are not measured" in remark for remark in record["remarks"])
    figures = record["figures"]
    assert figures["tokens per image, latents"] == figures["tokens per image, pixels"]
    seconds = [figures[f"seconds of training, {name}"]["value"] for name in ("latents", "pixels")]
    assert all(1 - 5 * TICK < each < 1 + 5 * TICK for each in seconds), seconds
