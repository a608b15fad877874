"""Clips as a chain of pixels, whole: likelihood, the cache, given frames, and what the baseline of the paper cannot learn."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from jielong.backbones.vpn import VPN
from jielong.conditions.base import BuildContext
from jielong.conditions.classes import Class
from jielong.config.registry import parse_part
from jielong.core.medium import ALONG_FRAMES, Medium
from jielong.core.tokens import Tokens
from jielong.evaluation.soft_targets import nats_of_generator
from jielong.generation.generator import Generator
from jielong.heads.base import HeadSettings
from jielong.orders.base import OrderSettings
from jielong.tokenizers.pixels import Pixels, PixelTokenizer

SMALL: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 2, "width": 6, "first_kernel": 3}


def make(
    frames: int,
    size: tuple[int, int],
    channels: int = 1,
    *,
    levels: int = 2,
    head: str = "softmax",
    order: object = "raster",
    classes: bool = False,
    grown: float = 0.4,
    **sizes: Any,
) -> tuple[PixelTokenizer, Generator]:
    """A small generator over pixels of clips, all weights away from their start."""
    torch.manual_seed(0)
    tokenizer = PixelTokenizer(Medium("video", channels, ALONG_FRAMES, (frames, *size), 8.0), Pixels(levels=levels, flatten=channels > 1))
    backbone = VPN(**{**SMALL, **sizes}).build(tokenizer.layout, 6 if classes else None)
    order_part, head_part = parse_part("order", order), parse_part("head", head)
    assert isinstance(order_part, OrderSettings)
    assert isinstance(head_part, HeadSettings)
    condition = Class(width=6).build(BuildContext(["cat", "dog"])) if classes else None
    layout = tokenizer.layout
    model = Generator(layout, order_part.build(), backbone, head_part.build(backbone.width, layout), condition)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += grown * torch.randn(parameter.shape, generator=generator)
    return tokenizer, model.eval()


@pytest.mark.parametrize(("channels", "head"), [(1, "softmax"), (1, "bernoulli"), (3, "softmax")])
def test_all_clips_together_have_probability_one(channels: int, head: str) -> None:
    """A leak along any of the four axes would make some clip too likely, and the sum another one."""
    frames, size = (3, (1, 2)) if channels == 1 else (2, (1, 1))
    tokenizer, model = make(frames, size, channels, head=head)
    clips = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=frames * math.prod(size) * channels))).view(-1, channels, frames, *size)
    tokens = tokenizer.encode(clips)
    assert torch.equal(tokenizer.decode(tokens), clips)
    total = 0.0
    for item in tokens.values:
        nats = model.head.nats_a_value(model.loss(Tokens(item[None], tokens.layout)).item())
        assert nats is not None
        total += math.exp(-nats * clips[0].numel())
    assert total == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("decoder", ["pixelcnn", "independent"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_cache_draws_the_tokens_of_the_naive_reference(channels: int, decoder: str) -> None:
    _, model = make(3, (3, 2), channels, levels=6, classes=True, decoder=decoder)
    labels = ["cat", "dog", 1]
    for guidance in (1.0, 3.0):
        fast = model.generate(labels, seed=3, guidance=guidance)
        assert torch.equal(fast.values, model.generate(labels, seed=3, guidance=guidance, cache=False).values)
        assert torch.equal(fast.values, model.generate(labels, seed=3, guidance=guidance, batch=2).values)
        assert len(fast.values.flatten().unique()) > 2


@pytest.mark.parametrize("draws", ["binary", "mean"])
def test_given_frames_are_kept_seen_and_not_learned(draws: str) -> None:
    order = {"frames": {"inside": "raster", "given": 2}}
    tokenizer, model = make(4, (3, 2), levels=9, head={"bernoulli": {"draws": draws}}, order=order)  # type: ignore[arg-type]
    clips = torch.rand(2, 1, 4, 3, 2, generator=torch.Generator().manual_seed(5)) * 2 - 1
    start, known = tokenizer.encode(clips), torch.arange(24) < 12
    drawn = [model.generate(count=2, start=start, known=known, seed=1, cache=cache).values for cache in (True, False)]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0][:, :12], start.values[:, :12])
    with pytest.raises(ValueError, match="this generator continues given frames"):
        model.generate(count=2)
    # The loss is that of the last two frames alone.
    states = model.training_states(start)
    each = model.head.loss(states.hidden.flatten(0, 1), start.values.flatten(0, 1)).view(2, 24)
    torch.testing.assert_close(model.loss(start), each[:, 12:].mean())


def test_nats_a_frame_are_the_loss_times_the_pixels_of_a_frame() -> None:
    tokenizer, model = make(4, (3, 2), levels=9, head="bernoulli", order={"frames": {"inside": "raster", "given": 1}})
    clips = torch.rand(5, 1, 4, 3, 2, generator=torch.Generator().manual_seed(5)) * 2 - 1
    found = nats_of_generator(tokenizer, model, clips, batch=2)
    assert found is not None
    assert found.value == pytest.approx(6 * model.loss(tokenizer.encode(clips)).item(), rel=1e-5)
    assert (found.n, found.details["context"], found.details["frames"]) == (5, 1, 3)
    assert found.value > found.details["bound"] > 0
    other = make(2, (2, 2))
    assert nats_of_generator(*other, clips[:, :, :2, :2]) is None


def moving() -> torch.Tensor:
    """All clips of a bar that moves to the left or to the right by one column: 12 of them, equally likely, ``(12, 1, 2, 6, 6)``."""
    clips = torch.full((12, 1, 2, 6, 6), -1.0)
    for number, (place, step) in enumerate(itertools.product(range(6), (-1, 1))):
        clips[number, 0, 0, :, place] = clips[number, 0, 1, :, (place + step) % 6] = 1
    return clips


@pytest.mark.parametrize(("decoder", "bits"), [("pixelcnn", 1), ("independent", 12)])
def test_a_random_direction_costs_one_bit_a_frame_and_the_baseline_one_at_each_pixel(decoder: str, bits: int) -> None:
    """Given the first frame, the bar is in one of two columns: ln 2 nats a frame. Independent pixels pay ln 2 at all twelve of both."""
    order = {"frames": {"inside": "raster", "given": 1, "learned_time": True}}
    tokenizer, model = make(2, (6, 6), head="bernoulli", order=order, grown=0.0, width=24, decoder=decoder)
    tokens = tokenizer.encode(moving())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(160):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / 160)
        optimizer.zero_grad()
        loss = model.loss(tokens)
        loss.backward()
        optimizer.step()
    nats = 36 * model.loss(tokens).item()
    assert bits * math.log(2) <= nats < bits * math.log(2) + 0.35
