"""The weights that a run keeps, and early stopping."""

import io
import json
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from toy_run import SETTINGS, ToyObjective, ToyStream, run

from jielong.config import recipe
from jielong.config.registry import RecipeError
from jielong.system import load
from jielong.training import experiment
from jielong.training.best import Selection, selection_of
from jielong.training.state import latest_state

STEPS = SETTINGS.model_copy(update={"samples": 320, "sample_every": 32, "keep": "best"})


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Measured(ToyObjective):
    """Held-out losses by the samples that the model saw."""

    figures = MappingProxyType({"heldout_loss": False, "heldout_psnr": True})

    def __init__(self, losses: dict[int, float]) -> None:
        super().__init__(late=10_000)  # the model sees every sample once
        self.losses = losses

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        loss = self.losses[int(model.seen)]
        return {"heldout_loss": loss, "heldout_psnr": -loss}


FALLING = dict(zip(range(32, 321, 32), [5.0, 4.0, 3.0, 3.5, 3.4, 3.3, 3.2, 3.1, 3.05, 3.01], strict=True))


def ema_at(samples: int, folder: Path) -> dict[str, torch.Tensor]:
    """EMA weights of a run that was stopped there."""
    run(folder, STEPS, Measured(FALLING), stop_after=samples)
    return load_file(latest_state(folder) / "ema.safetensors")


@pytest.mark.parametrize("by", [None, "heldout_psnr"])
def test_the_best_weights_are_those_of_the_evaluation_with_the_best_figure(tmp_path: Path, by: str | None) -> None:
    screen = io.StringIO()
    settings = STEPS.model_copy(update={"best_by": by})
    summary = run(tmp_path / "run", settings, Measured(FALLING), progress=True, console=Console(file=screen, width=400))
    kept, state = load_file(tmp_path / "run" / "model.safetensors"), latest_state(tmp_path / "run")
    best, last = ema_at(96, tmp_path / "best"), load_file(state / "ema.safetensors")
    assert all(torch.equal(kept[name], value) for name, value in best.items())
    assert kept["seen"] == 96
    assert not all(torch.equal(kept[name], value) for name, value in last.items())
    stored = load_file(state / "best.safetensors")  # both stay in the state, where a larger budget goes on from the last
    assert all(torch.equal(stored[name], value) for name, value in best.items())
    figure, sign = by or "heldout_loss", -1 if by else 1
    both = {"best": {"samples": 96, figure: sign * 3.0}, "last": {"samples": 320, figure: sign * 3.01}}
    assert summary.kept == {"weights": "best", "by": figure, **both}
    assert summary.evaluation["heldout_loss"] == 3.0
    line = f"kept the best weights, {figure} {sign * 3.0:.4g} at 96 samples; the last have {sign * 3.01:.4g} at 320 samples"
    assert line in screen.getvalue()


def test_last_weights_are_kept_on_request_and_where_they_are_the_best(tmp_path: Path) -> None:
    for keep, losses in (
        ("last", FALLING),
        ("auto", FALLING),
        ("best", FALLING | {320: 2.9}),
    ):  # this objective does not choose the best itself
        summary = run(tmp_path / keep, STEPS.model_copy(update={"keep": keep}), Measured(losses))
        kept, last = load_file(tmp_path / keep / "model.safetensors"), load_file(latest_state(tmp_path / keep) / "ema.safetensors")
        assert all(torch.equal(kept[name], value) for name, value in last.items())
        assert summary.kept["weights"] == "last"
    assert (latest_state(tmp_path / "best") / "best.safetensors").exists()
    assert not (latest_state(tmp_path / "last") / "best.safetensors").exists()


@pytest.mark.parametrize("stop", [64, 104, 168, 200])
def test_early_stopping_ends_and_resumes_to_the_same_weights(tmp_path: Path, stop: int) -> None:
    settings = STEPS.model_copy(update={"patience": 3})
    whole = run(tmp_path / "whole", settings, Measured(FALLING))
    assert (whole.stopped, whole.samples) == ("early_stopping", 192)
    first = run(tmp_path / "parts", settings, Measured(FALLING), stop_after=stop)
    assert first.finished == (stop > 192)
    parts = run(tmp_path / "parts", settings, Measured(FALLING))
    assert (parts.stopped, parts.samples, parts.kept) == (whole.stopped, whole.samples, whole.kept)
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("parts", "whole"))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    again = run(tmp_path / "whole", settings, Measured(FALLING), stream=ToyStream(kill_at=0))
    assert again == whole  # nothing is left to do
    longer = run(tmp_path / "whole", settings.model_copy(update={"patience": 20}), Measured(FALLING))
    assert (longer.stopped, longer.samples) == ("finished", 320)


@pytest.mark.parametrize(
    ("changes", "figures", "message"),
    [
        ({"best_by": "heldout_los"}, {"heldout_loss": False}, "train.best_by: .*'heldout_los'.*did you mean 'heldout_loss'"),
        ({"keep": "best"}, {}, "train.keep: best needs held-out items"),
        ({"patience": 2}, {}, "train.patience needs held-out items"),
    ],
)
def test_what_cannot_be_followed_is_refused(changes: dict[str, object], figures: dict[str, bool], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        selection_of(SETTINGS.model_copy(update=changes), figures, keeps_best=True)


def test_a_figure_that_chooses_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"best_by \(heldout_loss\) chooses nothing under keep: last"):
        recipe.load("llamagen-tiny", ["train.keep=last", "train.best_by=heldout_loss"])


def test_any_figure_is_better_than_one_that_is_not_finite() -> None:
    nan = float("nan")
    for higher in (False, True):
        selection = Selection("figure", higher, True, None)
        assert selection.better(1.0, 2.0) != higher
        assert selection.better(1.0, nan)
        assert not selection.better(nan, 1.0)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that have nothing in common: what is learned of some is wrong of others."""
    root, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for split, count in (("train", 8), ("heldout", 24)):
        (root / split).mkdir()
        for index in range(count):
            path = root / split / f"{index}.png"
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
            path.with_suffix(".txt").write_text(f"noise {index}")
    return root


def test_a_run_that_overfits_stops_and_keeps_better_weights_than_the_last(noise: Path, tmp_path: Path) -> None:
    overrides = ["backbone.transformer.dropout=0", "train.lr=3e-3", "train.warmup=16", "train.batch=8", "train.ema=0.5"]
    budget = ["train.samples=1600", "train.sample_every=80", "train.save_every=1600", "train.schedule=constant", "train.patience=4"]
    chosen = recipe.load("llamagen-tiny", [*overrides, *budget])
    assert chosen.train.keep == "auto"
    summary = experiment.run(chosen, tmp_path, str(noise), device="cpu", progress=False)
    assert summary.stopped == "early_stopping"
    assert summary.samples < 1600
    best, last = summary.kept["best"], summary.kept["last"]
    assert summary.kept["weights"] == "best"
    assert best["heldout_loss"] < 0.9 * last["heldout_loss"]
    assert last["samples"] == best["samples"] + 4 * 80 == summary.samples
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = {line["samples"]: line["heldout_loss"] for line in lines if "heldout_loss" in line}
    assert best["heldout_loss"] == min(logged.values()) == logged[best["samples"]]
    prepared = experiment.prepare(chosen.model_copy(update={"data": chosen.data.model_copy(update={"set": str(noise)})}))
    objective = experiment.generator_objective(prepared)
    found = objective.evaluate(load(str(tmp_path), "cpu").generator)
    assert found["heldout_loss"] == pytest.approx(best["heldout_loss"], rel=1e-6)
    assert objective.evaluate(load(str(tmp_path), "cpu").generator) == found  # the same masks and noise each time
