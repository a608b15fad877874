"""A run that is killed, interrupted or stopped, and started again, equals one that never stopped: bit for bit."""

import json
import multiprocessing
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from toy_run import SETTINGS, ToyObjective, ToyStream, run

from jielong.config.recipe import parse, upgraded
from jielong.config.registry import RecipeError
from jielong.core.storage import StorageError
from jielong.training import state as state_module
from jielong.training.checkpoint import CheckpointError
from jielong.training.state import check_same_recipe, latest_state

pytestmark = [
    pytest.mark.usefixtures("default_signals"),
    pytest.mark.filterwarnings("ignore:.*taken over"),
    pytest.mark.filterwarnings("ignore:removed .* unfinished file"),
]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("whole")
    summary = run(out)
    assert summary.finished
    assert summary.samples == 320
    assert summary.steps == 40
    return out


def in_child(function, *arguments) -> int:
    """Run in a forked process; its exit code, negative for a signal."""
    child = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    child.start()
    child.join(120)
    return child.exitcode


def same_end(out: Path, other: Path) -> None:
    assert (out / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    last, other_last = latest_state(out), latest_state(other)
    assert last.name == other_last.name
    assert sorted(path.name for path in last.iterdir()) == sorted(path.name for path in other_last.iterdir())
    for file in last.glob("*.safetensors"):
        assert file.read_bytes() == (other_last / file.name).read_bytes(), file.name


def numbers_of(out: Path) -> list[dict]:
    """The log without the clock."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


@pytest.mark.parametrize("attempt", range(3))
def test_killed_at_random_points(tmp_path, uninterrupted, attempt):
    # SystemRandom: the points differ from one run of the suite to the next; the parameters name them when it fails.
    points = sorted(random.SystemRandom().sample(range(8, 320), 2))
    for point in points:
        assert in_child(run, tmp_path, SETTINGS, None, ToyStream(kill_at=point)) == -signal.SIGKILL, points
    run(tmp_path)
    same_end(tmp_path, uninterrupted)
    assert numbers_of(tmp_path) == numbers_of(uninterrupted), points


def killed_while_saving(out: Path, at: int, moment: str) -> None:
    real, calls = getattr(state_module, moment), [0]

    def deadly(*arguments):
        calls[0] += 1
        if calls[0] == at:
            if moment == "write_tensors":
                arguments[0].write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    setattr(state_module, moment, deadly)
    run(out)


@pytest.mark.parametrize(("moment", "at"), [("write_tensors", 2), ("write_tensors", 7), ("write_tensors", 12)])
def test_killed_while_a_state_is_half_written(tmp_path, uninterrupted, moment, at):
    assert in_child(killed_while_saving, tmp_path, at, moment) == -signal.SIGKILL
    assert list(tmp_path.glob(".state-*.tmp"))
    run(tmp_path)
    assert not list(tmp_path.glob(".state-*.tmp"))
    same_end(tmp_path, uninterrupted)


class SignalStream(ToyStream):
    """Sends a signal to its process when the batch at 200 is loaded."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def batch(self, first, count):
        if first == 200:
            os.kill(os.getpid(), self.number)
        return super().batch(first, count)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_on_request_and_by_signal(tmp_path, uninterrupted, number):
    before = signal.getsignal(number)
    assert run(tmp_path, stop_after=104).stopped == "stop_after"
    assert latest_state(tmp_path).name == "state-000000000104"
    assert not (tmp_path / "model.safetensors").exists()

    summary = run(tmp_path, stream=SignalStream(number))
    assert (summary.stopped, summary.signal) == ("interrupted", number)
    assert 192 <= summary.samples < 320
    assert signal.getsignal(number) is before
    run(tmp_path)
    same_end(tmp_path, uninterrupted)
    assert numbers_of(tmp_path) == numbers_of(uninterrupted)


def test_an_ignored_hang_up_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run(tmp_path, stream=SignalStream(signal.SIGHUP)).finished
    finally:
        signal.signal(signal.SIGHUP, before)


class SignalsObjective(ToyObjective):
    """Sends signals to its process in the step at 200 samples, or when it is evaluated."""

    def __init__(self, *numbers: int, evaluating: bool = False) -> None:
        super().__init__()
        self.numbers, self.evaluating, self.measured = numbers, evaluating, 0

    def send(self) -> None:
        for number in self.numbers:
            os.kill(os.getpid(), number)

    def forward(self, batch, phase, samples_seen, draws):
        if samples_seen == 200 and not self.evaluating:
            self.send()
        return super().forward(batch, phase, samples_seen, draws)

    def evaluate(self, model):
        self.measured += 1
        if self.evaluating and self.measured == 2:  # the first time is in the middle
            self.send()
        return super().evaluate(model)


@pytest.mark.parametrize(
    ("numbers", "evaluating", "last"),
    [((signal.SIGINT, signal.SIGINT), False, 200), ((signal.SIGHUP,), True, 320), ((signal.SIGTERM,), True, 320)],
)
def test_a_second_interrupt_and_one_in_the_last_measurement_stop_at_once(tmp_path, uninterrupted, numbers, evaluating, last):
    code = in_child(run, tmp_path, SETTINGS, SignalsObjective(*numbers, evaluating=evaluating))
    assert code == 128 + numbers[0]
    assert latest_state(tmp_path).name == f"state-{last:012d}"
    assert not list(tmp_path.glob(".*.tmp"))
    run(tmp_path)
    same_end(tmp_path, uninterrupted)
    assert numbers_of(tmp_path) == numbers_of(uninterrupted)


def test_a_hang_up_of_the_terminal_saves(tmp_path, uninterrupted):
    class WaitingStream(ToyStream):
        def batch(self, first, count):
            if first == 200:
                (tmp_path / "waiting").touch()
                while not (tmp_path / "go").exists():
                    time.sleep(0.01)
            return super().batch(first, count)

    child, terminal = pty.fork()
    if child == 0:
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # the terminal, not the files in which pytest captures output
        try:
            summary = run(tmp_path / "run", stream=WaitingStream(), progress=True)
            print("lines of the log after the hang-up are discarded", flush=True)
            os._exit(128 + summary.signal)
        finally:
            os._exit(1)
    while not (tmp_path / "waiting").exists():
        time.sleep(0.01)
    os.close(terminal)
    (tmp_path / "go").touch()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGHUP
    run(tmp_path / "run")
    same_end(tmp_path / "run", uninterrupted)


def test_muon_resumes_too(tmp_path):
    pytest.importorskip("pytorch_optimizer")
    settings = SETTINGS.model_copy(update={"optimizer": "muon", "samples": 80})
    run(tmp_path / "whole", settings)
    run(tmp_path / "parts", settings, stop_after=48)
    run(tmp_path / "parts", settings)
    same_end(tmp_path / "parts", tmp_path / "whole")


def test_a_finished_run_is_left_alone_and_a_larger_budget_goes_on(tmp_path):
    small = SETTINGS.model_copy(update={"samples": 80})
    first = run(tmp_path, small)
    written = (tmp_path / "model.safetensors").stat().st_mtime_ns
    assert run(tmp_path, small, stream=ToyStream(kill_at=0)) == first
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == written
    assert run(tmp_path, SETTINGS.model_copy(update={"samples": 160})).samples == 160
    with pytest.raises(RecipeError, match=r"train\.samples was 160 and is now 80"):
        run(tmp_path, small)


def test_another_recipe_is_refused(tmp_path):
    run(tmp_path, stop_after=40)
    with pytest.raises(RecipeError, match=r"train\.lr was 0\.01 and is now 0\.5"):
        run(tmp_path, SETTINGS.model_copy(update={"lr": 0.5}))
    run(tmp_path, SETTINGS.model_copy(update={"log_every": 16, "micro_batch": 4}), stop_after=48)
    with pytest.raises(RecipeError, match=r"order\.masked\.steps was 8 and is now 9"):
        check_same_recipe("order: {masked: {steps: 8}}", "order: {masked: {steps: 9}}", tmp_path)
    with pytest.raises(RecipeError, match=r"order\.at_once was not given.*order\.raster was \{\} and is now not given"):
        check_same_recipe("order: {raster: {}}", "order: {at_once: {}}", tmp_path)


def test_a_setting_that_came_after_the_run_began_counts_as_its_default(tmp_path):
    new = parse("tokenizer: pixels\norder: raster\nbackbone: {transformer: {layers: 2}}\nhead: softmax\ntrain: {samples: 100}").to_yaml()
    stored = yaml.safe_load(new)
    del stored["backbone"]["transformer"]["dropout"]
    stored["head"] = {"softmax": {}}
    check_same_recipe(yaml.safe_dump(stored), new, tmp_path, upgraded)
    with pytest.raises(RecipeError, match=r"backbone\.transformer\.dropout was 0\.0 and is now 0\.5\. Use"):
        check_same_recipe(yaml.safe_dump(stored), new.replace("dropout: 0.0", "dropout: 0.5"), tmp_path, upgraded)
    stored["train"]["rests"] = 3
    with pytest.raises(RecipeError, match=r"recipe: train\.rests was 3 and is no setting any more\. Use"):
        check_same_recipe(yaml.safe_dump(stored), new, tmp_path, upgraded)


def test_a_finished_model_without_state_is_not_overwritten(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(CheckpointError, match="finished model without the state"):
        run(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == b"precious"


def test_a_full_disk_leaves_the_last_state_intact(tmp_path, uninterrupted):
    import resource

    def small_disk(out: Path) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))  # Python ignores SIGXFSZ: writes fail as they do on a full disk
        try:
            run(out)
        except StorageError as error:
            reported = "cannot be written: File too large" in str(error) and "state-000000000080, is intact" in str(error)
            os._exit(7 if reported else 8)
        os._exit(9)

    run(tmp_path, stop_after=80)
    assert in_child(small_disk, tmp_path) == 7
    assert [path.name for path in tmp_path.glob("*state-*")] == ["state-000000000080"]
    run(tmp_path)
    same_end(tmp_path, uninterrupted)


def test_what_will_be_saved_is_compared_with_what_is_free_before_the_first_step(tmp_path, uninterrupted, monkeypatch):
    saved = sum(tensor.nbytes for file in latest_state(uninterrupted).glob("*.safetensors") for tensor in load_file(file).values())
    weights = sum(tensor.nbytes for tensor in load_file(uninterrupted / "model.safetensors").values())
    free = [0]
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=free[0]))
    with pytest.raises(StorageError, match=r"Two states of the run, of \S+ kB each, and the weights are to be saved") as refused:
        run(tmp_path, stream=ToyStream(kill_at=0))
    counters = 4 * 8  # AdamW counts the steps of each parameter in a tensor of its kind
    assert refused.value.needed == 2 * (saved - counters) + weights
    assert list(tmp_path.iterdir()) == []
    free[0] = refused.value.needed
    run(tmp_path, stop_after=80)
    free[0] = saved - counters + weights
    run(tmp_path, stop_after=160)
    free[0] = 0
    with pytest.raises(StorageError, match="A state of the run, of "):
        run(tmp_path)
    free[0] = saved - counters + weights
    run(tmp_path)
    same_end(tmp_path, uninterrupted)


FULL_DISK = """
import os
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from toy_run import ToyStream, run

class Filling(ToyStream):
    def batch(self, first, count):
        if first == 104:
            file = os.open({disk!r} + "/other", os.O_CREAT | os.O_WRONLY)
            try:
                while True:
                    os.write(file, bytes(4096))
            except OSError:
                os.close(file)
        return super().batch(first, count)

disk = Path({disk!r})
try:
    run(disk / "run", stream=Filling())
except OSError as error:
    print(error)
print(sorted(path.name for path in (disk / "run").glob("*state*")))
(disk / "other").unlink()
run(disk / "run")
run(Path({disk!r}) / "whole")
weights = [(disk / name / "model.safetensors").read_bytes() for name in ("run", "whole")]
print(weights[0] == weights[1])
"""


def test_a_disk_that_fills_up(tmp_path):
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    script = FULL_DISK.format(tests=str(Path(__file__).parent), disk=str(tmp_path))
    command = 'mount -t tmpfs -o size=500k tmpfs "$1" && exec "$2" -c "$3"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command, "sh", tmp_path, sys.executable, script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    message, states, equal = done.stdout.splitlines()
    place, full = tmp_path / "run" / "state-000000000120", r"No space left on device \(\S+ kB are needed, 0 bytes are free\)"
    assert re.match(rf"{place} cannot be written: {full}; free some space", message)
    assert message.endswith("The last complete state, state-000000000080, is intact; repeat the command to go on from there")
    assert (states, equal) == ("['state-000000000080']", "True")


def test_a_damaged_state_is_named(tmp_path):
    run(tmp_path, stop_after=40)
    weights = latest_state(tmp_path) / "objective.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"objective\.safetensors is truncated"):
        run(tmp_path)


def test_a_damaged_log_does_not_keep_a_run_from_its_end(tmp_path):
    run(tmp_path, stop_after=40)
    log = tmp_path / "metrics.jsonl"
    log.write_bytes(log.read_bytes()[:-3] + b"\0\0\n")
    with pytest.warns(UserWarning, match=r"metrics\.jsonl is damaged in its last line"):
        assert run(tmp_path).finished


def test_the_checkpoint_is_the_average(uninterrupted):
    state = latest_state(uninterrupted)
    kept, averages = load_file(uninterrupted / "model.safetensors"), load_file(state / "ema.safetensors")
    raw = load_file(state / "objective.safetensors")
    assert all(torch.equal(kept[name], averages[name]) for name in averages)
    assert torch.equal(kept["seen"], raw["model.seen"])  # buffers as they are
    assert not torch.equal(kept["head.weight"], raw["model.head.weight"])
