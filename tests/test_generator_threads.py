"""Threads that share one generator: each draws what it draws alone, since no state is kept in modules."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from jielong.backbones.mar import Mar
from jielong.backbones.pixelrnn import PixelRNN
from jielong.backbones.transformer import Transformer
from jielong.backbones.wavenet import WaveNet
from jielong.conditions.base import BuildContext
from jielong.conditions.classes import Class
from jielong.core.tokens import Layout
from jielong.generation.generator import Generator
from jielong.heads.depth import Depth
from jielong.heads.diffusion import Diffusion
from jielong.heads.softmax import Softmax
from jielong.networks.denoiser import MLP
from jielong.orders.masked import Masked
from jielong.orders.raster import Raster

PICTURE, SOUND = Layout((3, 4), 2, 9), Layout((12,), 2, 9)
NUMBERS = Layout((3, 4), 3)
DIFFUSION = Diffusion(network=MLP(layers=1, width=8), steps=3)
CASES: dict[str, tuple[Layout, Any, Any, Any]] = {
    "raster": (PICTURE, Raster(), Transformer(layers=2, width=16, heads=2), Depth(layers=1, width=16, heads=2)),
    "masked": (PICTURE, Masked(steps=5), Transformer(layers=2, width=16, heads=2), Softmax()),
    "mar": (
        NUMBERS,
        Masked(choose="random", steps=5),
        Mar(width=16, heads=2, buffer=2),
        Diffusion(network=MLP(layers=1, width=8), steps=3),
    ),
    "wavenet": (SOUND, Raster(), WaveNet(layers=3, width=16), Softmax()),
    "pixelrnn": (PICTURE, Raster(), PixelRNN(layers=1, hidden=8, width=16), Softmax()),
}


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def built(case: str) -> Generator:
    layout, order, backbone, head = CASES[case]
    torch.manual_seed(0)
    condition = Class(width=8).build(BuildContext(["a", "b"]))
    model = Generator(layout, order.build(), backbone.build(layout, 8), head.build(16, layout), condition)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


@pytest.mark.parametrize("case", CASES)
def test_each_thread_draws_what_it_draws_alone(case: str) -> None:
    model, seeds = built(case), range(6)

    def draw(seed: int) -> Tensor:
        return model.generate([0, 1][: 1 + seed % 2], seed=seed, guidance=1.0 + seed % 3).values

    alone = [draw(seed) for seed in seeds]
    with ThreadPoolExecutor(max_workers=len(seeds)) as threads:
        together = list(threads.map(draw, seeds))
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
    assert len({tuple(values.flatten().tolist()) for values in alone}) == len(seeds)


def test_streams_of_one_generator_take_turns() -> None:
    model = built("wavenet")
    streams = [model.stream([0], seed=seed) for seed in (0, 1)]
    chunks = list(zip(*streams, strict=True))  # one token of each, in turn
    for which in (0, 1):
        joined = torch.cat([pair[which].values for pair in chunks], dim=1)
        assert torch.equal(joined, model.generate([0], seed=which).values)


def test_a_training_thread_is_not_disturbed() -> None:
    """Sampling switches no mode and leaves no tensor behind that autograd cannot use."""
    sampled, trained = built("masked"), built("masked")
    trained.backbone.rotary = sampled.backbone.rotary  # type: ignore[union-attr, assignment]
    tokens = sampled.generate([0, 1])

    def step(_: int) -> Tensor:
        loss = trained.loss(tokens, trained.condition.prepare([0, 1]))  # type: ignore[union-attr]
        loss.backward()
        return loss.detach()

    expected = step(0)
    with ThreadPoolExecutor(max_workers=2) as threads:
        drawing = threads.map(lambda seed: sampled.generate([0, 1], seed=seed), range(4))
        losses = list(threads.map(step, range(4)))
        list(drawing)
    assert all(torch.equal(loss, expected) for loss in losses)
