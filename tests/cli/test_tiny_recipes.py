"""Every shipped strategy trains at its tiny size, and can learn one batch by heart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from jielong.experiment import Experiment, generator_objective, prepare, tokenizer_objective
from jielong.noise import Noise
from jielong.recipe import load
from jielong.training.objective import Draws

from .conftest import succeed

TINY = ("vqgan-tiny", "llamagen-tiny", "maskgit-tiny")


@pytest.mark.parametrize("name", TINY)
def test_trains_on_the_built_in_set(name: str, tmp_path: Path) -> None:
    succeed("train", name, "--out", tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines]
    assert lines[-1]["samples"] == 512
    assert sum(losses[-5:]) / 5 < 0.9 * losses[0]
    assert (tmp_path / "model.safetensors").exists()


def losses_of(experiment: Experiment, items: int, steps: int, lr: float) -> list[float]:
    """Losses of training on one and the same batch."""
    objective = tokenizer_objective(experiment) if experiment.generator is None else generator_objective(experiment)
    batch = experiment.images.batch(range(items))
    optimizer = torch.optim.AdamW(objective.model.parameters(), lr=lr)
    objective.train()
    told = []
    for step in range(steps):
        draws = Draws(Noise(step, range(items)), torch.Generator().manual_seed(step))
        total = objective(batch, "model", 0, draws).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        told.append(float(total.detach()))
    return told


@pytest.mark.parametrize(
    ("name", "overrides", "bound"),
    [
        ("vqgan-tiny", (), 0.15),
        # Nats a token: a uniform guess among eight levels costs ln 8 = 2.08.
        ("llamagen-tiny", ("condition.text.drop=0",), 0.15),
        ("maskgit-tiny", ("condition.text.drop=0", "head.softmax.label_smoothing=0"), 0.35),
    ],
)
def test_learns_one_batch_by_heart(name: str, overrides: tuple[str, ...], bound: float, pictures: Path) -> None:
    told = losses_of(prepare(load(name, overrides), str(pictures)), items=4, steps=100, lr=4e-3)
    assert sum(told[-10:]) / 10 < bound < 0.5 * told[0]
