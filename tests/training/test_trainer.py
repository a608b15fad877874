"""The loop: accumulation, several processes, skipped steps, budgets, and what it tells."""

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import nn
from toy_run import SETTINGS, ToyObjective, ToyStream, run

from jielong.core.rng import seed_of
from jielong.training import run as run_module
from jielong.training.checkpoint import load_weights
from jielong.training.nonfinite import NonFiniteError, range_advice
from jielong.training.prefetch import BatchPrefetcher

SHORT = SETTINGS.model_copy(update={"samples": 160})


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory) -> dict[str, torch.Tensor]:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("one")
    summary = run(out, SETTINGS.model_copy(update={"keep": "best"}), ToyObjective(dropout=0.0))
    assert summary.kept["weights"] == "best"  # the norm of the weights grows
    return load_file(out / "model.safetensors")


def close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, value in expected.items():
        if value.is_floating_point():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("micro_batch", [4, 3])  # 3 does not divide 8: parts of unequal size count by their size
def test_accumulated_gradients_equal_those_of_the_whole_batch(tmp_path, one_process, micro_batch):
    run(tmp_path, SETTINGS.model_copy(update={"micro_batch": micro_batch, "keep": "best"}), ToyObjective(dropout=0.0))
    close(load_file(tmp_path / "model.safetensors"), one_process)


def test_two_processes_equal_one(tmp_path, one_process):
    script = Path(__file__).with_name("toy_run.py")
    source = Path(run_module.__file__).parents[2]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    close(load_file(tmp_path / "model.safetensors"), one_process)
    assert json.loads((tmp_path / "summary.json").read_text())["processes"] == 2
    samples = [json.loads(line)["samples"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert samples == list(range(40, 321, 40))


def test_the_slices_of_all_processes_and_micro_batches_make_up_the_global_batch():
    stream, device = ToyStream(), torch.device("cpu")
    whole = stream.batch(24, 12).keys
    parts = []
    for rank in range(2):
        with BatchPrefetcher(stream, 12, 4, rank, 2, 0, device) as feed:
            for first, batch in feed.take(24):
                assert batch.keys == stream.batch(first, len(batch)).keys
                parts += batch.keys
    assert parts == whole
    with pytest.raises(ValueError, match="cannot be shared equally by 5 processes"):
        BatchPrefetcher(stream, 12, 4, 0, 5, 0, device)


def test_draws_belong_to_samples_and_steps():
    with BatchPrefetcher(ToyStream(), 8, 8, 0, 1, 7, torch.device("cpu")) as feed:
        whole, part = feed.rng(16, 16, 8), feed.rng(16, 20, 4)
        assert torch.equal(whole.per_sample.normal(3)[4:], part.per_sample.normal(3))
        assert torch.equal(torch.rand(3, generator=whole.shared), torch.rand(3, generator=part.shared))
        assert not torch.equal(feed.rng(24, 24, 8).per_sample.normal(3), feed.rng(16, 16, 8).per_sample.normal(3))
    assert seed_of(1, "step", 0, 8) != seed_of(1, "step", 8, 0)


def test_a_step_that_is_not_finite_is_skipped_counted_and_recorded(tmp_path):
    objective = ToyObjective(poison=range(80, 88))
    summary = run(tmp_path, SHORT, objective)
    assert (summary.skipped, summary.steps, summary.samples) == (1, 19, 160)
    record = json.loads((tmp_path / "nonfinite-000000000080.json").read_text())
    assert record["keys"] == ToyStream().batch(80, 8).keys
    assert record["loss"] == "nan"
    assert all(bool(p.isfinite().all()) for p in objective.parameters())


def test_a_skipped_step_changes_no_weight(tmp_path):
    fresh = ToyObjective()
    run(tmp_path, SETTINGS.model_copy(update={"samples": 8, "warmup": 0}), ToyObjective(poison=range(8)))
    kept = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(kept[name], parameter) for name, parameter in fresh.model.named_parameters())


class Exploding(nn.Linear):
    def forward(self, hidden):
        return super().forward(hidden) / (hidden.sum() * 0)


class ExplodingBackward(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, hidden):
        return hidden * self.scale.mul(0).sqrt()  # its value is 0; its slope is infinite


@pytest.mark.parametrize(
    ("middle", "place"),
    [(Exploding(8, 8), r"output of 'model\.middle' \(Exploding\)"), (ExplodingBackward(), r"gradient of 'model\.middle\.scale'")],
)
def test_several_in_a_row_stop_the_run_and_name_the_module(tmp_path, middle, place):
    objective = ToyObjective()
    objective.model.middle = middle
    with pytest.raises(NonFiniteError, match=rf"3 steps in a row were not finite in phase 'model': .*{place}.*lower learning rate"):
        run(tmp_path, SHORT, objective)
    assert not (tmp_path / "model.safetensors").exists()


class Clock:
    """A hundredth of a second a look."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 0.01
        return self.now


def test_a_wall_time_budget_ends_the_run_in_time_and_anneals_by_it(tmp_path, monkeypatch):
    settings = SETTINGS.model_copy(update={"samples": 1_000_000, "log_every": 8, "save_every": None, "sample_every": None})
    monkeypatch.setattr(run_module, "time", SimpleNamespace(perf_counter=Clock().perf_counter))
    summary = run(tmp_path, settings, budget=2.0)
    assert summary.stopped == "budget"
    assert summary.finished
    assert (tmp_path / "model.safetensors").exists()
    assert 1.8 < summary.seconds <= 2.0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert 8 <= len(list((tmp_path / "samples").iterdir())) <= 11  # at every tenth of the time
    assert lines[-1]["lr"] < 0.03 * settings.lr < 0.5 * settings.lr < max(line["lr"] for line in lines)
    assert run(tmp_path, settings, budget=2.0, stream=ToyStream(kill_at=0)) == summary  # the time is used: nothing is left to do
    assert run(tmp_path, settings, budget=3.0).samples > summary.samples


def test_what_a_run_leaves_behind(tmp_path):
    screen = io.StringIO()
    summary = run(tmp_path, progress=True, console=Console(file=screen, width=200))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["samples"] for line in lines] == list(range(40, 321, 40))
    assert {"loss", "l2", "grad_norm", "lr", "samples_per_second", "seen", "skipped", "advice"} <= lines[0].keys()
    assert "discriminator" not in lines[0]
    assert {"discriminator", "discriminator_loss", "discriminator_grad_norm"} <= lines[-1].keys()
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert [line["samples"] for line in lines if "weight" in line] == [160]  # held-out figures stand beside each sample sheet's
    assert screen.getvalue().count("warning: a word of advice") == 1
    assert screen.getvalue().count("samples  ") == len(lines)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["samples-000000000160.png", "samples-000000000320.png"]
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["evaluation"] == summary.evaluation
    assert written["stopped"] == "finished"
    model = ToyObjective().model
    load_weights(model, tmp_path)
    assert summary.evaluation["weight"] == pytest.approx(model.inside.weight.abs().mean().item())
    assert summary.parameters == sum(p.numel() for p in model.parameters())


class Rising(ToyObjective):
    """Held-out losses that fall and then rise."""

    figures = MappingProxyType({"heldout_loss": False})

    def __init__(self, losses):
        super().__init__()
        self.losses = iter(losses)

    def evaluate(self, model):
        return {"heldout_loss": next(self.losses)}


@pytest.mark.parametrize(
    ("losses", "warnings"),
    [([3.0, 2.5, 2.54, 2.6, 2.7, 2.0], 1), ([3.0, 2.5, 2.54, 2.4, 2.4, 9.0], 0), ([-2.0, -1.9, -1.8, -2, -3, 0], 1)],
)
def test_a_rising_held_out_loss_is_reported_once(tmp_path, losses, warnings):
    screen = io.StringIO()
    settings = SETTINGS.model_copy(update={"sample_every": 56})
    run(tmp_path, settings, Rising(losses), progress=True, console=Console(file=screen, width=400))
    assert screen.getvalue().count("warning: the held-out loss was lowest at") == warnings
    if losses[0] > 0 and warnings:
        assert "was lowest at 112 samples, 2.5, and is 2.6 now" in screen.getvalue()


def test_phases_never_touch_each_other_and_gradients_are_free_afterwards(tmp_path):
    objective = ToyObjective(late=10_000)
    before = objective.discriminator.weight.clone()
    run(tmp_path, SHORT, objective)
    assert torch.equal(objective.discriminator.weight, before)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in objective.parameters())


def test_odd_ranges_of_media_are_warned_of():
    pictures = torch.rand(4, 3, 8, 8)
    assert range_advice(pictures * 2 - 1) is None
    assert range_advice(torch.empty(4, 0)) is None
    assert "look like [0, 1]" in str(range_advice(pictures))
    assert "127.5" in str(range_advice(pictures * 255))
    assert "uint8" in str(range_advice((pictures * 255).to(torch.uint8)))


def test_the_bar_and_the_lines_survive_numbers_that_are_not_finite(tmp_path):
    from jielong.core.progress import clock
    from jielong.training.run_logger import RunLogger

    with RunLogger(tmp_path, Console(file=io.StringIO(), force_terminal=True), 0, 0) as report:
        report.show("model", 0.0, 0.0, math.nan, math.inf)
        report.log({"samples": 8, "loss": math.nan}, 0.0, math.inf)
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"samples": 8, "loss": None}
    assert (clock(61.2), clock(3661), clock(math.inf)) == ("1:01", "1:01:01", "?")


def test_statistics_are_read_once_a_line(tmp_path):
    """They cover the steps since they were last read, so a second reading would be of nothing."""

    class Counting(ToyObjective):
        calls = 0

        def statistics(self) -> dict[str, float]:
            self.calls += 1
            return {"calls": float(self.calls)}

    run(tmp_path, SHORT, Counting())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["calls"] for line in lines] == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("micro_batch", [2, 8])
def test_statistics_of_less_than_the_batch_are_mentioned_once(micro_batch: int, tmp_path: Path) -> None:
    objective, screen = ToyObjective(), io.StringIO()
    objective.discriminator = torch.nn.Sequential(torch.nn.BatchNorm1d(48), torch.nn.Linear(48, 1))
    settings = SETTINGS.model_copy(update={"micro_batch": micro_batch, "samples": 160})
    run(tmp_path, settings, objective, progress=True, console=Console(file=screen, width=400))
    whole = micro_batch == settings.batch
    assert screen.getvalue().count("batch norm") == (0 if whole else 1)
    assert whole or "batch norm (discriminator.0) has statistics of 2 samples, not of the batch of 8" in screen.getvalue()
