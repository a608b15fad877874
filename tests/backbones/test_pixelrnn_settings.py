"""PixelRNN as a generator's backbone: its settings, its likelihood, and its drawings."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from jielong.backbones.pixelrnn import PixelRNN
from jielong.conditions.base import BuildContext
from jielong.conditions.classes import Class
from jielong.config.guidance import Guidance
from jielong.config.registry import parse_part
from jielong.core.tokens import Layout, Tokens
from jielong.generation.generator import Generator
from jielong.heads.softmax import Softmax
from jielong.orders.masked import Masked
from jielong.orders.raster import Raster

KINDS = ("row", "diagonal")


def pixels(grid: tuple[int, ...], channels: int, vocabulary: int) -> Layout:
    return Layout(grid, channels, vocabulary, axes=("rows", "columns", "channels")[: len(grid)])


def generator(kind: str, layout: Layout, classes: bool = False, random_head: bool = True) -> Generator:
    torch.manual_seed(3)
    condition = Class(width=5, cfg_dropout=0.1).build(BuildContext(["cat", "dog"])) if classes else None
    backbone = PixelRNN(kind=kind, layers=2, hidden=6, width=8, kernel=3).build(layout, 5 if classes else None)
    head = Softmax().build(8, layout)
    if random_head:
        nn.init.normal_(head.logits.weight, std=0.5)
        for layer in backbone.stack:
            for scan in layer.states.both:
                if scan.condition is not None:
                    nn.init.normal_(scan.condition.weight)
    return Generator(layout, Raster().build(), backbone, head, condition).eval()


def test_settings_reach_the_network() -> None:
    part = parse_part("backbone", {"pixelrnn": {"kind": "row", "layers": 3, "hidden": 12, "width": 10, "kernel": 5}})
    assert isinstance(part, PixelRNN)
    net = part.build(pixels((4, 5, 3), 1, 8), condition_width=7)
    assert (net.kind, len(net.stack), net.hidden, net.width, net.input.reach, net.condition_width) == ("row", 3, 12, 10, 2, 7)
    assert (net.grid.rows, net.grid.columns, net.groups) == (4, 5, 3)
    # Codes of a tokenizer, or whole pixels, are one colour.
    assert part.build(pixels((4, 5), 2, 8), None).groups == 1


@pytest.mark.parametrize("wrong", [{"kernel": 4}, {"kernel": 1}, {"layers": 0}, {"kind": "column"}, {"heads": 3}])
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PixelRNN(**wrong)


def test_what_is_no_picture_or_no_raster_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reads a grid \(rows, columns\)"):
        PixelRNN().build(pixels((16,), 1, 8), None)
    layout = pixels((2, 2), 1, 8)
    with pytest.raises(ValueError, match="raster"):
        Generator(layout, Masked().build(), PixelRNN(layers=1, hidden=4).build(layout, None), Softmax().build(64, layout))


@pytest.mark.parametrize("kind", KINDS)
def test_the_untrained_loss_is_that_of_a_uniform_guess(kind: str) -> None:
    layout = pixels((3, 4, 3), 1, 256)
    values = torch.randint(256, (2, layout.positions, 1))
    loss = generator(kind, layout, random_head=False).loss(Tokens(values, layout))
    torch.testing.assert_close(loss, torch.tensor(math.log(256)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", [(2, 2), (2, 1, 2), (1, 2, 3)])
@torch.no_grad()
def test_the_probabilities_of_all_pictures_sum_to_one(kind: str, grid: tuple[int, ...]) -> None:
    """The chain rule: a leak would let the sum pass 1."""
    layout = pixels(grid, 1, 2)
    model = generator(kind, layout)
    total = 0.0
    for picture in itertools.product((0, 1), repeat=layout.positions):
        loss = model.loss(Tokens(torch.tensor(picture)[None, :, None], layout))
        total += math.exp(-layout.positions * float(loss))
    assert total == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", [(4, 5), (3, 4, 3)])
def test_drawing_with_the_cache_is_drawing_without(kind: str, grid: tuple[int, ...]) -> None:
    model = generator(kind, pixels(grid, 1, 16), classes=True)
    # Guidance that ends half-way: the cache is then cut to the conditional half.
    options = {"seed": 5, "guidance": Guidance(scale=1.5, kind="interval", start=0.0, stop=0.5)}
    cached = model.generate(["cat", "dog", "dog"], cache=True, **options)
    naive = model.generate(["cat", "dog", "dog"], cache=False, **options)
    assert torch.equal(cached.values, naive.values)
    other = model.generate(["dog", "dog", "dog"], seed=5)
    assert not torch.equal(cached.values[0], other.values[0])


@pytest.mark.parametrize("kind", KINDS)
def test_completes_a_picture_from_its_upper_half(kind: str) -> None:
    layout = pixels((4, 5), 1, 16)
    model = generator(kind, layout)
    known = torch.arange(20) < 10
    start = Tokens(torch.randint(16, (2, 20, 1)), layout)
    drawn = model.generate(count=2, start=start, known=known)
    assert torch.equal(drawn.values[:, known], start.values[:, known])
    assert torch.equal(drawn.values, model.generate(count=2, start=start, known=known, cache=False).values)


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_learns(kind: str) -> None:
    layout = pixels((3, 4, 3), 1, 16)
    model = generator(kind, layout, classes=True)
    values = torch.randint(16, (2, layout.positions, 1))
    model.loss(Tokens(values, layout), model.condition.prepare(["cat", "dog"])).backward()
    idle = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert idle == ["condition.null"]  # nothing was dropped
