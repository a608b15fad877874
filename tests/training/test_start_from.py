"""A run may begin from another's weights: those that fit are taken, the rest begins anew, and a run that goes on looks at its own."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console
from toy_run import SETTINGS, ToyObjective, run

from jielong.training import precision
from jielong.training.checkpoint import CheckpointError, init_from_checkpoint, read_tensors


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    out = tmp_path_factory.mktemp("earlier")
    run(out, SETTINGS.model_copy(update={"samples": 40, "warmup": 8}))
    return out


def test_weights_that_fit_are_taken_and_others_left(earlier):
    model, stored = ToyObjective().model, read_tensors(earlier / "model.safetensors")
    model.head = torch.nn.Linear(8, 5)
    initial = model.head.weight.detach().clone()
    taken, new = init_from_checkpoint(model, earlier)
    assert (taken, sorted(new)) == (len(stored) - 2, ["head.bias", "head.weight"])
    assert torch.equal(model.middle.weight, stored["middle.weight"])
    assert torch.equal(model.head.weight, initial)


def test_a_model_of_which_nothing_fits_is_refused(earlier):
    with pytest.raises(CheckpointError, match=r"none of the 7 tensors .* fits"):
        init_from_checkpoint(torch.nn.Bilinear(2, 3, 4), earlier)


def test_a_run_begins_there_once(earlier, tmp_path):
    """The first step is from the other run's weights; going on, from its own, whether or not they are still there."""
    settings = SETTINGS.model_copy(update={"lr": 1e-12, "warmup": 8, "samples": 80, "ema": 0.0, "weight_decay": 0.0})
    output = io.StringIO()
    run(tmp_path, settings, stop_after=40, init_from=earlier, progress=True, console=Console(file=output, width=200))
    assert "initialised 7 tensors from earlier" in output.getvalue()
    run(tmp_path, settings, init_from=tmp_path / "nowhere")
    end, start = read_tensors(tmp_path / "model.safetensors"), read_tensors(earlier / "model.safetensors")
    torch.testing.assert_close(end["middle.weight"], start["middle.weight"], rtol=0, atol=1e-8)
    assert not torch.equal(ToyObjective().model.middle.weight, start["middle.weight"])


@pytest.mark.parametrize(("tiles", "instruction", "measured", "wanted"), [(1, 1, 0, 1), (0, 1, 1, 1), (0, 1, 0, 0), (0, 0, 1, 0)])
def test_the_automatic_precision_is_the_faster_one(tiles, instruction, measured, wanted, monkeypatch):
    """A matrix unit settles it; the instruction alone asks for a measurement; without it products are emulated."""
    probes = {"_is_amx_tile_supported": tiles, "_is_avx512_bf16_supported": instruction}
    monkeypatch.setattr(precision, "_probe", lambda name: bool(probes[name]))
    monkeypatch.setattr(precision, "_measured_on_cpu", lambda: bool(measured))
    assert precision.bf16_is_faster(torch.device("cpu")) == bool(wanted)


def test_the_measurement_ends(monkeypatch):
    assert precision._measured_on_cpu.__wrapped__() in (True, False)
