"""Pixels as units, whole: pictures as a chain of pixels or of colours, drawn by a PixelCNN with and without its cache."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from jielong.backbones.pixelcnn import PixelCNN
from jielong.conditions.base import BuildContext
from jielong.conditions.classes import Class
from jielong.config.registry import Part
from jielong.config.sampling import SamplingConfig
from jielong.core.tokens import Tokens
from jielong.generation.generator import Generator
from jielong.heads.logistic_mixture import LogisticMixture
from jielong.heads.softmax import Softmax
from jielong.media.kinds.image import image_medium
from jielong.networks.backbone import BackboneInputs
from jielong.orders.masked import Masked
from jielong.orders.raster import Raster
from jielong.tokenizers.pixels import Pixels, PixelTokenizer

HEADS: dict[str, Part] = {"softmax": Softmax(), "logistic mixture": LogisticMixture(components=3)}
CASES = [(1, False, "softmax"), (1, False, "logistic mixture"), (3, False, "logistic mixture"), (3, True, "softmax")]


def make(
    size: tuple[int, int], channels: int, flatten: bool, head: str, *, levels: int = 2, classes: bool = False
) -> tuple[PixelTokenizer, Generator]:
    """A small generator over pixels, all weights away from their start."""
    torch.manual_seed(0)
    tokenizer = PixelTokenizer(image_medium(channels, size), Pixels(levels=levels, flatten=flatten))
    condition = Class(width=6).build(BuildContext(["cat", "dog"])) if classes else None
    backbone = PixelCNN(layers=2, width=6, features=6, first_kernel=3).build(tokenizer.layout, 6 if classes else None)
    model = Generator(tokenizer.layout, Raster().build(), backbone, HEADS[head].build(6, tokenizer.layout), condition)  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.4 * torch.randn(parameter.shape, generator=generator)
    return tokenizer, model.eval()


@pytest.mark.parametrize(("channels", "flatten", "head"), CASES)
def test_all_pictures_together_have_probability_one(channels: int, flatten: bool, head: str) -> None:
    """A leak anywhere would make some picture too likely, and the sum another one."""
    size = (2, 3) if channels == 1 else (1, 2)
    tokenizer, model = make(size, channels, flatten, head)
    media = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=math.prod(size) * channels))).view(-1, channels, *size)
    tokens = tokenizer.encode(media)
    assert len(tokens.values.flatten(1).unique(dim=0)) == len(media)
    total = 0.0
    for item in tokens.values:
        nats = model.head.nats_a_value(model.loss(Tokens(item[None], tokens.layout)).item())
        assert nats is not None
        total += math.exp(-nats * media[0].numel())
    assert total == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("channels", "flatten", "head"), CASES)
def test_an_untrained_softmax_is_exactly_uniform_and_a_mixture_nearly(channels: int, flatten: bool, head: str) -> None:
    tokenizer = PixelTokenizer(image_medium(channels, (4, 5)), Pixels(flatten=flatten))
    backbone = PixelCNN(layers=1, width=6, features=6).build(tokenizer.layout, None)
    model = Generator(tokenizer.layout, Raster().build(), backbone, HEADS[head].build(6, tokenizer.layout))  # type: ignore[attr-defined]
    media = torch.rand(8, channels, 4, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    nats = model.head.nats_a_value(model.loss(tokenizer.encode(media)).item())
    assert nats == pytest.approx(math.log(256), rel=1e-6 if head == "softmax" else 0.1)


@pytest.mark.parametrize(("channels", "flatten", "head"), CASES)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_cache_draws_the_tokens_of_the_naive_reference(channels: int, flatten: bool, head: str, guidance: float) -> None:
    _, model = make((4, 5), channels, flatten, head, levels=6, classes=True)
    labels = ["cat", "dog", 1]
    fast = model.generate(labels, seed=3, guidance=guidance)
    slow = model.generate(labels, seed=3, guidance=guidance, cache=False)
    assert torch.equal(fast.values, slow.values)
    assert torch.equal(model.generate(labels, seed=3, guidance=guidance, batch=2).values, fast.values)
    assert len(fast.values.flatten().unique()) > 2


def test_what_is_known_is_kept_and_seen_with_and_without_the_cache() -> None:
    tokenizer, model = make((4, 4), 3, True, "softmax", levels=4)
    media = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(5)) * 2 - 1
    start = tokenizer.encode(media)
    known = torch.arange(48) < 24
    generated = [model.generate(count=2, start=start, known=known, seed=1, cache=cache).values for cache in (True, False)]
    assert torch.equal(generated[0], generated[1])
    assert torch.equal(generated[0][:, :24], start.values[:, :24])
    other = model.generate(count=2, start=Tokens(3 - start.values, start.layout), known=known, seed=1).values
    assert not torch.equal(other[:, 24:], generated[0][:, 24:])


@torch.no_grad()
def test_greedy_samples_are_the_most_likely_of_the_naive_reference() -> None:
    _, model = make((3, 3), 1, False, "softmax", levels=5)
    drawn = model.generate(count=1, sampling=SamplingConfig(temperature=0.0))
    known = torch.ones(1, 9, dtype=torch.bool)
    inputs = model.embeddings(drawn.values, known, slice(0, 9), model.position_vectors(model.plan))
    scores = model.head.scores(model.backbone(BackboneInputs(inputs, model.plan.coords, model.plan.blocks)))  # type: ignore[operator]
    assert torch.equal(scores[0, :, 0].argmax(-1), drawn.values[0, :, 0])


def test_only_the_raster_order_fits() -> None:
    tokenizer = PixelTokenizer(image_medium(1, (4, 4)), Pixels(levels=4))
    backbone = PixelCNN(layers=1, width=6).build(tokenizer.layout, None)
    with pytest.raises(ValueError, match="needs order: raster"):
        Generator(tokenizer.layout, Masked().build(), backbone, Softmax().build(6, tokenizer.layout))
