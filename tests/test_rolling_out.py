"""More frames than in training, with a window of the last ones: cached against naive, and against no window where it covers everything."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from jielong.backbones.transformer import Transformer
from jielong.conditions.classes import ClassCondition
from jielong.config.sampling import SamplingConfig
from jielong.core.medium import Medium
from jielong.core.tokens import Layout, Tokens
from jielong.generation.extent import check_decoded, describe_extent
from jielong.generation.generator import Generator
from jielong.heads.flow_matching import FlowMatching
from jielong.networks.backbone import BackboneInputs
from jielong.networks.cache import Cache
from jielong.networks.denoiser import MLP
from jielong.networks.dit import DiT
from jielong.orders.at_once import AtOnce
from jielong.orders.base import OrderSettings
from jielong.orders.frames import Frames
from jielong.orders.masked import Masked
from jielong.orders.raster import Raster
from jielong.tokenizers.pixels import Pixels

CLIP = Layout((3, 2, 2), channels=2)
FRAME = 4
INSIDE: dict[str, OrderSettings] = {"masked": Masked(choose="random", steps=2), "raster": Raster(), "at_once": AtOnce()}
EACH = pytest.mark.parametrize("inside", INSIDE)


def built(settings: Frames, path: Any = "prefix", positions: Any = "rotary") -> Generator:
    torch.manual_seed(0)
    order, joint = settings.build(), isinstance(settings.inside, AtOnce)
    network = DiT(layers=1, width=24, heads=2, positions=positions) if joint else MLP(layers=1, width=16)
    head = FlowMatching(network=network, steps=2).build(16, CLIP)
    backbone = Transformer(layers=2, width=16, heads=1, condition=path).build(CLIP, 8)
    embedding = order.embedding(SimpleNamespace(layout=CLIP), 16)  # type: ignore[arg-type]
    model = Generator(CLIP, order, backbone, head, ClassCondition(["cat", "dog"], 8, 0.1), embedding)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def draw(model: Generator, **options: Any) -> Tensor:
    return model.generate(["cat", "dog", "dog"], seed=3, guidance=2.0, **options).values


def alike(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@EACH
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("window", [2, 3])
def test_cached_is_naive_beyond_training_at_any_batch_size(inside: str, group: int, window: int) -> None:
    model = built(Frames(inside=INSIDE[inside], group=group))
    drawn = draw(model, frames=7, window=window)
    assert drawn.shape == (3, 7 * FRAME, 2)
    alike(draw(model, frames=7, window=window, cache=False), drawn)
    alike(draw(model, frames=7, window=window, batch=2), drawn)
    # Whole blocks within the window of the first frame are drawn as without one; the last, with more behind it, is not.
    free, same = draw(model, frames=7, window=7), window // group * group * FRAME
    alike(drawn[:, :same], free[:, :same])
    assert float((drawn - free)[:, -FRAME:].abs().max()) > 1e-4


@EACH
def test_a_window_over_everything_is_none(inside: str) -> None:
    model = built(Frames(inside=INSIDE[inside]))
    assert torch.equal(draw(model, window=3), draw(model))
    assert torch.equal(draw(model, window=3, frames=3), draw(model))


@EACH
@pytest.mark.parametrize("path", ["cross", "adaln"])
def test_the_other_ways_of_a_condition(inside: str, path: Any) -> None:
    model = built(Frames(inside=INSIDE[inside]), path)
    alike(draw(model, frames=6, window=2, cache=False), draw(model, frames=6, window=2))


@EACH
def test_the_window_is_that_of_training_by_default_and_memory_stays(inside: str) -> None:
    model, held = built(Frames(inside=INSIDE[inside])), set[tuple[int, int]]()

    def keep(module: Any, arguments: tuple[BackboneInputs, Cache, bool], result: Tensor) -> None:
        held.add((arguments[1].capacity, arguments[1].length))

    model.backbone.register_forward_hook(keep)
    drawn = draw(model, frames=9)
    alike(draw(model, frames=9, window=3), drawn)
    capacities, lengths = zip(*held, strict=True)
    prefix = 1
    assert set(capacities) == {3 * FRAME + prefix}, "the cache of nine frames is that of three"
    assert max(lengths) <= 3 * FRAME + prefix


@EACH
def test_fewer_frames_are_the_first_of_the_clip(inside: str) -> None:
    model = built(Frames(inside=INSIDE[inside]))
    alike(draw(model, frames=2), draw(model)[:, : 2 * FRAME])


@EACH
def test_a_clip_is_continued(inside: str) -> None:
    model = built(Frames(inside=INSIDE[inside], given=1))
    clip = Tokens(torch.randn(1, 12, 2, generator=torch.Generator().manual_seed(1)), CLIP)
    options = {"start": clip, "known": torch.ones(12, dtype=torch.bool), "frames": 5, "window": 2}
    drawn = draw(model, **options)
    assert torch.equal(drawn[:, :12], clip.values.expand(3, -1, -1))
    alike(draw(model, cache=False, **options), drawn)


@EACH
def test_differences_of_frames_are_all_that_counts(inside: str) -> None:
    """Shifted by frames, the hidden vectors of a window are the same: nothing in the model knows the number of a frame."""
    model = built(Frames(inside=INSIDE[inside]))
    embeddings = torch.randn(1, 12, 16, generator=torch.Generator().manual_seed(1))
    blocks = torch.arange(3).repeat_interleave(FRAME)
    assert model.condition is not None
    condition = model.condition.unconditional(1)
    moved = CLIP.coordinates() + torch.tensor([8, 0, 0])
    hidden = [model.backbone(BackboneInputs(embeddings, coords, blocks, condition)) for coords in (CLIP.coordinates(), moved)]
    torch.testing.assert_close(*hidden, rtol=1e-3, atol=1e-3)
    assert torch.equal(model.position_vectors(model.shortened_plan(9))[-12:], model.position_vectors(model.plan))


def test_what_cannot_be_rolled_out_is_refused() -> None:
    learned = built(Frames(inside=Raster(), learned_time=True))
    with pytest.raises(ValueError, match="trained with 3 frames of tokens, and its positions of frames are learned"):
        draw(learned, frames=4)
    assert draw(learned, frames=2).shape == (3, 8, 2)
    with pytest.raises(ValueError, match="positions: sincos"):
        draw(built(Frames(inside=AtOnce()), positions="sincos"), frames=4)
    with pytest.raises(ValueError, match="a block of this order is 2 frames"):
        draw(built(Frames(inside=INSIDE["masked"], group=2)), window=1)
    for name in ("frames", "window"):
        with pytest.raises(ValueError, match=f"{name} 4: the MaskedOrder does not go frame by frame"):
            Masked().build().check_sampling(SamplingConfig().override(**{name: 4}))
    with pytest.raises(ValueError, match="frames must be 1 or more"):
        SamplingConfig().override(frames=0)


def test_a_tokenizer_of_one_length_is_told_before_anything_is_drawn() -> None:
    tokenizer = Pixels(levels=4).build(Medium("video", 1, ("time", "rows", "columns"), (3, 2, 2), 8))
    check_decoded(tokenizer, None)
    check_decoded(tokenizer, 3)
    with pytest.raises(ValueError, match="decodes 3 frames of tokens and no other number"):
        check_decoded(tokenizer, 4)


def test_what_is_drawn_is_said() -> None:
    model = built(Frames(inside=Raster()))
    said = [describe_extent(model, SamplingConfig().override(frames=frames, window=window)) for frames, window in [(None, None), (9, None)]]
    assert said == ["", "9 frames of tokens are drawn, and 3 were trained; each attends to the last 3, its own included"]
    assert describe_extent(model, SamplingConfig().override(window=2)) == "each attends to the last 2, its own included"
    assert describe_extent(model, SamplingConfig().override(frames=2)) == "2 frames of tokens are drawn, and 3 were trained"
