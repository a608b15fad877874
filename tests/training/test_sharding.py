"""Processes that divide the weights of blocks are one process with all of them: losses, states and checkpoints."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from double_precision import double_precision
from safetensors.torch import load_file
from torch import distributed as dist

from jielong.config.recipe import load
from jielong.core.device import DeviceError
from jielong.training import experiment
from jielong.training.run import Run
from jielong.training.sharding import is_divided, requested_sharding
from running_processes import run_processes

ROOT = Path(__file__).resolve().parents[2]
STEPS, BATCH = 3, 8
CASES = {
    "muon": ("maskgit-tiny", "train.optimizer=muon"),
    "adaln": ("maskgit-tiny", "backbone.transformer.condition=adaln", "train.optimizer=adamw", "train.gradient_checkpointing=true"),
    "gan": ("vqgan-tiny", "train.optimizer=adamw"),  # a second model, its gradient inside of a loss, averaged codebooks
}
TOLERANCE = {"muon": 1e-5, "adaln": 1e-9, "gan": 1e-9}  # Muon orthogonalises in float32


def run(case: str, out: Path, stop_after: int | None = None) -> None:
    """Train for some steps; also gathers both weights of the model, as a sample grid does."""
    name, *overrides = CASES[case]
    recipe = load(name, overrides)
    update = {"batch": BATCH, "samples": STEPS * BATCH, "log_every": BATCH, "warmup": 1, "ema": 0.5, "precision": "fp32"}
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=update)})

    def gather(run: Run) -> None:
        assert not any(is_divided(weight) for weights in (run.ema.raw_model, run.ema.model) for weight in weights().parameters())
        if run.accelerator.is_main_process:  # alone: what was gathered is copied, and nothing waits for others
            assert not any(map(is_divided, run.ema.copied().values()))
        assert any(map(is_divided, run.objective.model.parameters())) == (dist.is_initialized() and dist.get_world_size() == 2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "write_samples", gather)  # the sampler has a state in float32
        experiment.run(recipe, out, device="cpu", progress=False, evaluate=False, stop_after=stop_after)


def environment(config: str) -> dict[str, str]:
    """What ``accelerate launch --config_file`` passes to its processes."""
    arguments = ["--config_file", str(ROOT / "examples" / config), "-m", "jielong", "train", "maskgit"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    return {name: value for name, value in prepare_multi_gpu_env(arguments).items() if name.startswith(("FSDP", "ACCELERATE"))}


def process(rank: int, port: int, folder: str) -> None:
    """One of two."""
    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ |= environment("fsdp.yaml") | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    with double_precision():
        run("muon", Path("two", "muon"))
        run("adaln", Path("two", "adaln"))  # begun by one
        run("gan", Path("two", "gan"), stop_after=2 * BATCH)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process in ``one``; in ``two`` those of two processes, of one then two, and of two then one."""
    folder = tmp_path_factory.mktemp("sharding")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with double_precision():
            for case in CASES:
                run(case, Path("one", case))
            run("adaln", Path("two", "adaln"), stop_after=BATCH)
        run_processes(process, port, str(folder))
        with double_precision():
            run("gan", Path("two", "gan"))
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_with_divided_weights_are_one(case: str, folder: Path) -> None:
    alone, shared = (
        [json.loads(line) for line in (folder / kind / case / "metrics.jsonl").read_text().splitlines()] for kind in ("one", "two")
    )
    assert len(alone) == len(shared) == STEPS
    for step, (one, two) in enumerate(zip(alone, shared, strict=True), 1):
        for figure in ("loss", "grad_norm"):
            assert two[figure] == pytest.approx(one[figure], rel=TOLERANCE[case]), f"{figure} of step {step}"
    states = [next((folder / kind / case).glob("state-*")).name for kind in ("one", "two")]
    assert states[0] == states[1]
    files = sorted(path.name for path in (folder / "one" / case / states[0]).glob("*.safetensors"))
    for file in ("../model.safetensors", *files):
        before, after = (load_file(folder / kind / case / states[0] / file) for kind in ("one", "two"))
        assert before.keys() == after.keys()
        for name, value in before.items():
            words = f"{file} {name}: ".__add__
            torch.testing.assert_close(after[name], value, rtol=TOLERANCE[case], atol=TOLERANCE[case], msg=words)


def test_the_examples_are_what_accelerate_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert yaml.safe_load((ROOT / "examples" / "ddp.yaml").read_text())["distributed_type"] == "MULTI_GPU"
    given = environment("fsdp.yaml")
    assert (given["ACCELERATE_USE_FSDP"], given["FSDP_VERSION"]) == ("true", "2")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    plugin = requested_sharding()
    assert plugin is not None
    assert plugin.reshard_after_forward is True
    for name, value, right in (
        ("FSDP_VERSION", "1", "fsdp_version: 2"),
        ("FSDP_OFFLOAD_PARAMS", "true", "fsdp_offload_params: false"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "train.gradient_checkpointing: true"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(DeviceError, match=f"{name}={value}; write .*{right}"):
                requested_sharding()
