"""Two processes that share the batch of a recipe are one process with all of it: losses of three steps, and weights behind them."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import torch
from double_precision import double_precision
from safetensors.torch import load_file
from torch import distributed as dist

from jielong.config.recipe import load
from jielong.training import experiment
from jielong.training.run import Run
from running_processes import run_processes

NAMES = ("lfq-tiny", "mar-tiny", "vqgan-tiny")  # entropy of all codes, noise and times of each sample, k-means of all vectors
STEPS, BATCH = 3, 8


def run(name: str, out: Path, steps: int = STEPS, micro_batch: int = BATCH) -> None:
    """Train for some steps without warm-up."""
    recipe = load(name)
    update = {
        "batch": BATCH,
        "micro_batch": micro_batch,
        "samples": steps * BATCH,
        "log_every": BATCH,
        "warmup": 1,
        "ema": 0.0,
        "precision": "fp32",
    }
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=update)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "write_samples", lambda _: None)  # the sampler has a state in float32
        assert experiment.run(recipe, out, device="cpu", progress=False, evaluate=False).samples == steps * BATCH


def process(rank: int, port: int, folder: str) -> None:
    """One of two."""
    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with double_precision():
        for name in NAMES:
            run(name, Path("two", name), micro_batch=BATCH // 4)
    assert dist.get_world_size() == 2
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs ``two/NAME`` and the tokenizer that mar-tiny reads."""
    folder = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run("kl-tiny", Path("runs/kl-tiny"), 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run_processes(process, port, str(folder))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_are_one(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with double_precision():
        run(name, Path("one", name))
    alone, shared = ([json.loads(line) for line in Path(kind, name, "metrics.jsonl").read_text().splitlines()] for kind in ("one", "two"))
    assert len(alone) == len(shared) == STEPS
    for step, (one, two) in enumerate(zip(alone, shared, strict=True), 1):
        for figure in ("loss", "grad_norm"):
            assert two[figure] == pytest.approx(one[figure], rel=1e-9), f"{figure} of step {step}"
    before, after = (load_file(Path(kind, name, "model.safetensors")) for kind in ("one", "two"))
    for each, value in before.items():
        torch.testing.assert_close(after[each], value, rtol=1e-9, atol=1e-9, msg=lambda text, each=each: f"{each}: {text}")
