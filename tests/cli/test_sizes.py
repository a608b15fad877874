"""Derived sizes, against what can be counted by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from jielong.apps.sizes import cost, sizes
from jielong.config.recipe import load
from jielong.training.experiment import prepare

from .conftest import command


def test_cost_of_a_linear_layer() -> None:
    layer = nn.Linear(8, 16, bias=False)
    x = torch.randn(4, 8)
    spent = cost(layer, lambda: layer(x))
    assert spent.flops == 2 * 4 * 8 * 16
    assert spent.saved == x.nbytes  # the input, for the weight's gradient; the weight itself is not counted


def test_sizes_of_a_generator(pictures: Path) -> None:
    experiment = prepare(load("llamagen-tiny", ["condition=null"]), str(pictures))
    found = {size.name: size.value for size in sizes(experiment)}
    model = experiment.generator
    assert model is not None
    assert found["positions"] == 64
    assert found["bits per item"] == 64 * 3 * math.log2(8)
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    assert found["FLOPs per item, forward"] == model.backbone.flops(64) + 2 * 64 * sum(p.numel() for p in model.head.parameters())
    assert found["cache per item"] == model.backbone.new_cache(1, 64).nbytes
    assert found["sampling steps"] == 64
    assert found["training steps"] == 512 // 16


def test_sizes_change_nothing(pictures: Path) -> None:
    experiment = prepare(load("vqgan-tiny"), str(pictures))
    before = {name: value.clone() for name, value in experiment.model.state_dict().items()}
    sizes(experiment)
    assert experiment.model.training
    assert all(torch.equal(before[name], value) for name, value in experiment.model.state_dict().items())


@pytest.mark.parametrize(("name", "steps"), [("maskgit-tiny", 8), ("llamagen-tiny", 64)])
def test_sampling_steps_are_those_of_generate(name: str, steps: int, pictures: Path) -> None:
    experiment = prepare(load(name), str(pictures))
    assert experiment.generator is not None
    moments: list[object] = []
    experiment.generator.eval().generate(["a"], on_step=moments.append)
    assert {size.name: size.value for size in sizes(experiment)}["sampling steps"] == steps == len(moments)


def test_a_set_that_is_not_here_is_named_with_the_option_that_gives_another() -> None:
    """As of imported weights, whose recipe names the set that they were trained on."""
    missing = " ".join(command("show", "kl-tiny", "--set", "data.set=imagenet").stderr.split())
    assert "without derived sizes: there is no set and no folder called 'imagenet'" in missing
    assert missing.endswith("; --data reads another set")
    given = " ".join(command("show", "kl-tiny", "--data", "imagenet").stderr.split())
    assert "called 'imagenet'" in given
    assert "--data reads" not in given
