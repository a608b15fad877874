"""Every shipped strategy trains at its tiny size, and can learn one batch by heart."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from jielong.config.recipe import load
from jielong.core.rng import PerSampleRNG
from jielong.training.experiment import Experiment, prepare
from jielong.training.objective import StepRNG
from jielong.training.objectives import generator_objective, tokenizer_objective

from .conftest import succeed

TOKENIZERS = ("vqgan-tiny", "vqvae-tiny", "dvae-tiny", "fsq-tiny", "lfq-tiny", "bsq-tiny", "titok-tiny", "kl-tiny")
CODECS = ("encodec-tiny", "soundstream-tiny", "mimi-tiny", "dac-tiny", "vocos-tiny", "audio-kl-tiny")
PIXELS = ("pixelrnn-tiny", "pixelcnn-tiny", "pixelcnn-emoji-tiny", "vqvae-prior-tiny")
TINY = (*TOKENIZERS, "llamagen-tiny", "dalle-tiny", "maskgit-tiny", "titok-maskgit-tiny", *PIXELS)


@pytest.mark.parametrize("name", TINY)
def test_trains_on_the_built_in_set(name: str, tmp_path: Path) -> None:
    succeed("train", name, "--out", tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines]
    assert lines[-1]["samples"] == 512
    assert sum(losses[-5:]) / 5 < 0.9 * losses[0]
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("name", CODECS)
def test_codecs_train_on_the_built_in_sounds(name: str, tmp_path: Path) -> None:
    """The game begins in the middle; before it the same clips come back better and better."""
    pytest.importorskip("soundfile")
    succeed("train", name, "--out", tmp_path, "--set", "train.precision=fp32")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["samples"] == 256
    assert "features" not in lines[0]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert any(0 < line.get("discriminator_loss", 0) < 4 for line in lines)
    assert 0 < lines[-1]["features"] < 2
    assert lines[-1].get("codebook_usage_1", 1.0) > 0.9
    losses = losses_of(prepare(load(name)), items=4, steps=40, lr=1e-2)
    assert sum(losses[-5:]) / 5 < 0.8 * losses[0]


def losses_of(experiment: Experiment, items: int, steps: int, lr: float) -> list[float]:
    """Losses of training on one and the same batch."""
    objective = tokenizer_objective(experiment) if experiment.generator is None else generator_objective(experiment)
    batch = experiment.data.batch(range(0, len(experiment.data), len(experiment.data) // items))
    optimizer = torch.optim.AdamW(objective.model.parameters(), lr=lr)
    objective.train()
    losses = []
    for step in range(steps):
        draws = StepRNG(PerSampleRNG(step, range(items)), torch.Generator().manual_seed(step))
        total = objective(batch, "model", 0, draws).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(float(total.detach()))
    return losses


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("vqgan-tiny", ()),
        ("llamagen-tiny", ("condition.text.cfg_dropout=0",)),
        ("pixelrnn-tiny", ("condition.text.cfg_dropout=0",)),
        ("pixelcnn-emoji-tiny", ("condition.text.cfg_dropout=0",)),
        # Adaptive norms tell masked positions at once what a prefix takes a long training to tell.
        (
            "maskgit-tiny",
            ("condition={class: {width: 32, cfg_dropout: 0}}", "backbone.transformer.condition=adaln", "head.softmax.label_smoothing=0"),
        ),
    ],
)
def test_overfits_one_batch(name: str, overrides: tuple[str, ...], pictures: Path) -> None:
    """One picture of each colour. To guess every pixel from its position alone would cost 0.22 nats; a uniform guess costs ln 8 = 2.08."""
    losses = losses_of(prepare(load(name, overrides), str(pictures)), items=3, steps=100, lr=4e-3)
    assert losses[0] > 0.9
    assert sum(losses[-10:]) / 10 < 0.1
