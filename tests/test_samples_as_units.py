"""Sound sample by sample, by the one generator: the same with rings as without, and learned from a recipe."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

from jielong.backbones.wavenet import WaveNet
from jielong.config.recipe import load as load_recipe
from jielong.core.tokens import Layout, Tokens
from jielong.generation.generator import Generator
from jielong.heads.logistic_mixture import LogisticMixture
from jielong.heads.softmax import Softmax
from jielong.media.kinds.audio import audio_medium
from jielong.orders.raster import Raster
from jielong.system import load
from jielong.tokenizers.samples import Samples
from jielong.training.experiment import run


@pytest.mark.parametrize("settings", [Softmax(), LogisticMixture(components=2)])
def test_fast_and_naive_sampling_draw_the_same_samples(settings: Softmax | LogisticMixture) -> None:
    layout = Samples(levels=32).build(audio_medium(1, 40, 8_000)).layout
    torch.manual_seed(0)
    backbone = WaveNet(stacks=2, layers=3, width=8).build(layout, None)
    head = settings.build(8, layout)
    model = Generator(layout, Raster().build(), backbone, head)
    for parameter in head.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    fast = model.eval().generate(count=3, seed=5)
    assert torch.equal(fast.values, model.eval().generate(count=3, seed=5, cache=False).values)
    assert torch.equal(fast.values[1:2], model.eval().generate(count=2, seed=5, batch=1).values[1:])
    assert len(fast.values.unique()) > 8


def test_all_sounds_together_have_probability_one() -> None:
    """A leak from a sample to itself or to those after it would make some sound too likely, and the sum another one."""
    layout = Layout((5,), vocabulary=3)
    torch.manual_seed(0)
    model = Generator(layout, Raster().build(), WaveNet(stacks=1, layers=3, width=6).build(layout, None), Softmax().build(6, layout)).eval()
    for parameter in model.parameters():
        parameter.data += 0.4 * torch.randn_like(parameter)
    every = torch.tensor(list(itertools.product(range(3), repeat=5)))[..., None]
    total = sum(math.exp(-5 * model.loss(Tokens(each[None], layout)).item()) for each in every)
    assert total == pytest.approx(1, abs=1e-5)


def test_a_recipe_learns_and_writes_its_sound(tmp_path: Path) -> None:
    pytest.importorskip("jielong_zoo")
    pytest.importorskip("soundfile")
    pytest.importorskip("soxr")
    run(load_recipe("wavenet-tiny"), tmp_path / "run")
    system = load(str(tmp_path / "run"))
    sounds = system.generate(classes="hi-hat", count=2, seed=1)
    assert sounds.tensor.shape == (2, 1, 500)
    assert bool(sounds.tensor.isfinite().all())
