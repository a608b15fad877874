"""Power-function EMAs against their closed form, and their reconstruction from snapshots."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy_run import SETTINGS, ToyObjective, run
from typer.testing import CliRunner

from jielong.apps.cli import app
from jielong.config import recipe
from jielong.config.registry import RecipeError
from jielong.evaluation.evaluate import _weights_words
from jielong.system import load
from jielong.training import experiment
from jielong.training.power_ema import PowerEmas, coefficients, exponent_of, length_of, misfit, reconstruct, snapshots
from jielong.training.state import latest_state
from jielong.training.weights import available, measure_weights

STEPS = 600


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_lengths_and_exponents_are_those_of_the_paper() -> None:
    # EDM2, section 3.1: lengths of 5 % and 10 % are exponents of 16.97 and 6.94.
    assert exponent_of(0.05) == pytest.approx(16.97, abs=0.005)
    assert exponent_of(0.10) == pytest.approx(6.94, abs=0.005)
    assert length_of(0.0) == pytest.approx(12**-0.5)  # the standard deviation of a uniform distribution on [0, 1]
    for length in (0.01, 0.05, 0.1, 0.2, 0.27):
        assert length_of(exponent_of(length)) == pytest.approx(length, rel=1e-9)
    g, times = exponent_of(0.1), (np.arange(100_000) + 0.5) / 100_000
    weights = times**g / (times**g).sum()
    mean = (weights * times).sum()
    assert np.sqrt((weights * (times - mean) ** 2).sum()) == pytest.approx(0.1, rel=1e-4)


def trajectory() -> torch.Tensor:
    """Weights that drift, decay and tremble, (STEPS, 20)."""
    share = torch.linspace(0, 1, STEPS)[:, None]
    noise = torch.randn(STEPS, 20, generator=torch.Generator().manual_seed(0))
    return torch.linspace(0, 3, 20) * share.sqrt() + torch.linspace(-2, 2, 20) * torch.exp(-6 * share) + 0.3 * noise


def follow(lengths: list[float], out: Path | None = None) -> dict[str, dict[str, torch.Tensor]]:
    model = torch.nn.Linear(20, 1, bias=False)
    emas = PowerEmas(model, lengths)
    for step, weights in enumerate(trajectory()):
        with torch.no_grad():
            model.weight.copy_(weights[None])
        emas.update(step)
        if out is not None and (step + 1) % (STEPS // 20) == 0:
            emas.save_snapshots(out, step + 1)
    return emas.state()


def test_an_average_is_the_sum_of_all_weights_by_their_profile() -> None:
    g = exponent_of(0.1)
    edges = torch.arange(STEPS + 1, dtype=torch.float64) / STEPS
    profile = (edges ** (g + 1)).diff()
    expected = (profile[:, None] * trajectory().double()).sum(0)
    torch.testing.assert_close(follow([0.1])["ema-0.1"]["weight"][0].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [0.04, 0.05, 0.08, 0.1, 0.15, 0.2])
def test_a_reconstruction_equals_an_average_that_was_tracked(length: float, tmp_path: Path) -> None:
    follow([0.05, 0.1], tmp_path)
    direct = follow([length])[f"ema-{length:g}"]["weight"]
    error = (reconstruct(tmp_path, length)["weight"] - direct).abs().max()
    assert error < 0.01
    assert (trajectory()[-1] - direct).abs().max() > 0.5
    assert (follow([0.065])["ema-0.065"]["weight"] - direct).abs().max() > 2 * error  # a neighbouring length is farther off


def test_a_profile_that_the_snapshots_do_not_fit_is_mentioned(tmp_path: Path) -> None:
    """The distance between profiles by their integral on a fine grid."""
    times, lengths, length = [0.5, 1.0], [0.1, 0.1], 0.05
    grid = (np.arange(200_000) + 0.5) / 200_000

    def profile(time: float, of: float) -> np.ndarray:
        g = exponent_of(of)
        return np.where(grid < time, (g + 1) * (grid / time) ** g / time, 0.0)

    target, factors = profile(1.0, length), coefficients(times, lengths, 1.0, length)
    nearest = sum(factor * profile(time, of) for factor, time, of in zip(factors, times, lengths, strict=True))
    expected = np.linalg.norm(nearest - target) / np.linalg.norm(target)
    assert misfit(times, lengths, 1.0, length) == pytest.approx(expected, rel=1e-3)
    follow([0.05, 0.1], tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reconstruct(tmp_path, 0.07)
        with pytest.raises(UserWarning, match=r"fit the profile of an EMA of length 0.01 to .* only: choose a length nearer"):
            reconstruct(tmp_path, 0.01)


def test_factors_of_a_tracked_length_are_its_last_snapshot_alone() -> None:
    times, lengths = [20.0, 20.0, 40.0, 40.0], [0.05, 0.1, 0.05, 0.1]
    np.testing.assert_allclose(coefficients(times, lengths, 40.0, 0.1), [0, 0, 0, 1], atol=1e-9)


def test_a_run_writes_snapshots_and_resumes_to_the_same(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"ema_lengths": (0.05, 0.1)})
    run(tmp_path / "whole", settings)
    run(tmp_path / "parts", settings, stop_after=136)
    run(tmp_path / "parts", settings)
    files = [sorted(path.name for path in (tmp_path / name / "ema").iterdir()) for name in ("whole", "parts")]
    assert files[0] == files[1]
    assert [steps for length, steps, _ in snapshots(tmp_path / "whole") if length == 0.1] == list(range(5, 41, 5))
    for name in files[0]:
        found, expected = (load_file(tmp_path / run_name / "ema" / name) for run_name in ("parts", "whole"))
        assert all(torch.equal(found[key], value) for key, value in expected.items())
    state = load_file(latest_state(tmp_path / "whole") / "ema-0.1.safetensors")
    for name, value in reconstruct(tmp_path / "whole", 0.1).items():
        torch.testing.assert_close(value, state[name], rtol=1e-3, atol=1e-4)  # snapshots have 16 bits


def test_two_stages_are_refused(tmp_path: Path) -> None:
    class TwoStages(ToyObjective):
        def training_stage(self, samples_seen: int) -> int:
            return int(samples_seen >= 100)

    with pytest.raises(RecipeError, match=r"train\.ema_lengths: this model is trained in two stages"):
        run(tmp_path, SETTINGS.model_copy(update={"ema_lengths": (0.1,)}), TwoStages())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("finished") / "run"
    budget = ["train.samples=256", "train.sample_every=64", "train.save_every=32", "train.ema_lengths=[0.05, 0.1]", "train.keep=best"]
    experiment.run(recipe.load("maskgit-tiny", budget), out, device="cpu", progress=False)
    return out


def test_weights_are_chosen_after_the_run(finished: Path) -> None:
    assert available(finished) == ["last", "best", "LENGTH"]
    before = load_file(finished / "model.safetensors")
    summary = json.loads((finished / "summary.json").read_text())
    found = measure_weights(finished, ["last", "0.08"], "0.1", "cpu")
    assert list(found) == ["last", "0.08", "0.1"]
    assert found["last"]["heldout_loss"] == pytest.approx(summary["kept"]["last"]["heldout_loss"], rel=1e-6)
    after, expected = load_file(finished / "model.safetensors"), reconstruct(finished, 0.1)
    assert all(torch.equal(after[name], value) for name, value in expected.items())
    chosen = json.loads((finished / "summary.json").read_text())
    assert (chosen["kept"]["weights"], chosen["evaluation"]) == ("power-function EMA of length 0.1", found["0.1"])
    assert _weights_words(load(str(finished), "cpu")) == "power-function EMA of length 0.1"
    measure_weights(finished, [], summary["kept"]["weights"], "cpu")
    assert _weights_words(load(str(finished), "cpu")).startswith("EMA weights (decay")
    back = load_file(finished / "model.safetensors")
    assert all(torch.equal(back[name], value) for name, value in before.items())


def test_a_copy_has_the_weights_and_the_run_stays(finished: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in finished.iterdir() if path.is_file()}
    done = CliRunner().invoke(app, ["weights", str(finished), "--use", "0.1", "--out", str(tmp_path / "copy"), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert f"{tmp_path / 'copy'} holds the weights 0.1 now" in done.stderr
    assert {path.name: path.read_bytes() for path in finished.iterdir() if path.is_file()} == before
    stored, expected = load_file(tmp_path / "copy" / "model.safetensors"), reconstruct(finished, 0.1)
    assert all(torch.equal(stored[name], value) for name, value in expected.items())
    assert len(load(str(tmp_path / "copy"), "cpu").generate("a cat")) == 1
    for words, fault in (([], "say which weights it is to hold"), (["--use", "last"], "exists: choose a new folder")):
        refused = CliRunner().invoke(app, ["weights", str(finished), *words, "--out", str(tmp_path / "copy")])
        assert refused.exit_code == 2
        assert fault in " ".join(refused.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("choice", "message"), [("bset", "no weights called 'bset': choose one of last, best, LENGTH"), ("0.5", "below 0.28")]
)
def test_weights_that_are_not_there_are_refused(finished: Path, choice: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        measure_weights(finished, [choice], device="cpu")
