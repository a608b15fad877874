"""Experiment trackers: TensorBoard's files, and what any tracker of accelerate receives."""

import os
from pathlib import Path

import pytest
import torch
from accelerate.tracking import GeneralTracker, get_available_trackers
from toy_run import SETTINGS, ToyObjective, run

from jielong.config.registry import RecipeError
from jielong.training.trackers import check_trackers

SHORT = SETTINGS.model_copy(update={"samples": 160, "sample_every": 80})


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Recorder(GeneralTracker):
    """Keeps what it receives."""

    name = "recorder"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, object] = {}
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.pictures: list[tuple[int, str, tuple[int, ...]]] = []
        self.finished = 0

    @property
    def tracker(self) -> None:
        return None

    def start(self) -> None:
        pass

    def store_init_configuration(self, values: dict[str, object]) -> None:
        self.config = values

    def log(self, values: dict[str, float], step: int | None = None, **_: object) -> None:
        self.lines.append((step, values))

    def log_images(self, values: dict[str, object], step: int | None = None, **_: object) -> None:
        self.pictures += [(step, name, value.shape) for name, value in values.items()]

    def finish(self) -> None:
        self.finished += 1


def test_a_tracker_receives_settings_figures_and_sample_grids(tmp_path: Path) -> None:
    tracker = Recorder()
    run(tmp_path, SHORT, trackers=[tracker])
    assert tracker.config["train.lr"] == SHORT.lr
    assert [step for step, _ in tracker.lines] == [40, 80, 120, 160]
    assert all({"loss", "lr", "grad_norm"} <= values.keys() for _, values in tracker.lines)
    assert [(step, name) for step, name, _ in tracker.pictures] == [(80, "samples"), (160, "samples")]
    assert all(shape[0] == 1 and shape[-1] == 3 for _, _, shape in tracker.pictures)
    assert tracker.finished == 1


def test_a_run_ends_its_trackers_when_it_fails(tmp_path: Path) -> None:
    class Broken(ToyObjective):
        def samples(self, model: torch.nn.Module) -> None:
            raise RuntimeError("no samples")

    tracker = Recorder()
    with pytest.raises(RuntimeError, match="no samples"):
        run(tmp_path, SHORT, Broken(), trackers=[tracker])
    assert tracker.finished == 1


def test_tensorboard_shows_the_figures_of_a_resumed_run_once(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(tmp_path, SHORT, trackers=["tensorboard"], stop_after=80)
    run(tmp_path, SHORT, trackers=["tensorboard"])
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "jielong"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [40, 80, 120, 160]
    assert {event.step for event in events.Images("samples")} == {80, 160}


@pytest.mark.skipif("wandb" not in map(str, get_available_trackers()), reason="wandb is not installed")
def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run(tmp_path, SHORT, trackers=["wandb"])
    assert [path for path in (tmp_path / "wandb").glob("offline-run-*/*.wandb") if os.path.getsize(path)]


def test_a_tracker_that_is_unknown_or_not_installed_is_refused_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no tracker 'wandbb'; did you mean 'wandb'"):
        check_trackers(["wandbb"])
    absent = next(name for name in ("comet_ml", "aim", "dvclive", "swanlab", "clearml") if name not in map(str, get_available_trackers()))
    with pytest.raises(RecipeError, match=f"the tracker {absent} is not installed: pip install .*, or leave out --tracker {absent}"):
        run(tmp_path / "run", SHORT, trackers=[absent])
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_values_that_trackers_cannot_store_are_words(tmp_path: Path) -> None:
    tracker = Recorder()
    run(tmp_path, SHORT, trackers=[tracker], recipe_yaml="train: {betas: [0.9, 0.95]}\norder: null\n")
    assert tracker.config == {"train.betas": "[0.9, 0.95]", "order": "None"}
