"""Tasks of the order at_once: the network of a joint head reads given tokens clean, and they have no loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jielong.backbones.none import NoBackbone
from jielong.backbones.transformer import Transformer
from jielong.conditions.classes import ClassCondition
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.generation.generator import Generator
from jielong.generation.inpainting import check_seen, kept
from jielong.heads.diffusion import Diffusion
from jielong.heads.flow_matching import FlowMatching
from jielong.heads.gaussian_mixture import GaussianMixture
from jielong.heads.tarflow import TarFlow
from jielong.networks.dit import DiT
from jielong.networks.mmdit import MMDiT
from jielong.orders.at_once import AtOnce
from jielong.orders.frames import Frames
from jielong.orders.masked import Masked
from jielong.orders.raster import Raster
from jielong.orders.tasks import Tasks, known_region

CLIP = Layout((3, 2, 2), channels=2)
FIRST = Tasks(frame_prediction=1)
MIX = Tasks(none=1, frame_prediction=5, interpolation=1, last_frame=1)
DIT: dict[str, Any] = {"layers": 1, "width": 24, "heads": 2}
HEADS = {
    "flow_matching": FlowMatching(network=DiT(**DIT), steps=2),
    "diffusion": Diffusion(network=DiT(**DIT), steps=2, start=5.0),
    "mmdit": FlowMatching(network=MMDiT(**DIT), steps=2),
    "gaussian_mixture": GaussianMixture(),
}
EACH = pytest.mark.parametrize("head", HEADS)


def built(head: str = "flow_matching", tasks: Tasks | None = FIRST, fresh: bool = False) -> Generator:
    torch.manual_seed(0)
    order = AtOnce(tasks=tasks).build()
    alone = HEADS[head].build(24, CLIP, 8)
    backbone = (NoBackbone(width=24) if alone.joint else Transformer(layers=1, width=24, heads=2)).build(CLIP, 8)
    model = Generator(CLIP, order, backbone, alone, ClassCondition(["cat", "dog"], 8, 0.1), order.embedding(None, 24))  # type: ignore[arg-type]
    if not fresh:
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def clips(count: int = 3) -> Tokens:
    return Tokens(torch.randn(count, CLIP.positions, 2, generator=torch.Generator().manual_seed(1)), CLIP)


def loss(model: Generator, tokens: Tokens) -> torch.Tensor:
    assert model.condition is not None
    return model.loss(tokens, model.condition.prepare(["cat", "dog", "cat"][: len(tokens)]), PerSampleRNG(4, range(len(tokens))))


def changed(tokens: Tokens, where: torch.Tensor) -> Tokens:
    return Tokens(torch.where(where[..., None], tokens.values + 1, tokens.values), CLIP)


@pytest.mark.parametrize("head", ["flow_matching", "diffusion", "mmdit"])
def test_what_is_given_has_no_loss(head: str) -> None:
    """An untrained network predicts zero, whatever it reads: changed tokens change the loss exactly if they are predicted."""
    model, tokens, given = built(head, fresh=True), clips(), known_region(CLIP, "frame_prediction")
    before = loss(model, tokens)
    assert torch.equal(loss(model, changed(tokens, given)), before)
    if head != "diffusion":  # which predicts noise, whatever the tokens are
        assert not torch.equal(loss(model, changed(tokens, ~given)), before)
        assert model.condition is not None
        each = list[torch.Tensor]()
        for row, name in enumerate(["cat", "dog", "cat"]):
            one = Tokens(tokens.values[row : row + 1], CLIP)
            each.append(model.loss(one, model.condition.prepare([name]), PerSampleRNG(4, [row])))
        torch.testing.assert_close(torch.stack(each).mean(), before)


@EACH
def test_what_is_given_is_read_clean(head: str) -> None:
    """At the input of a given position stands its token, elsewhere the placeholder."""
    model, tokens = built(head, MIX), clips(1)
    given = known_region(CLIP, "interpolation").expand(1, -1)
    positions = model.position_vectors(model.plan)
    read = model.embeddings(tokens.values, given, slice(0, 12), positions) - positions
    torch.testing.assert_close(read[given], model.embed(tokens.values)[given])
    torch.testing.assert_close(read[~given], model.placeholder.expand(4, -1))
    assert not torch.equal(loss(model, changed(tokens, given)), loss(model, tokens))


@EACH
def test_everything_learns(head: str) -> None:
    model = built(head, MIX).train()
    loss(model, clips()).backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is None} == set()


@EACH
@pytest.mark.parametrize("task", ["frame_prediction", "last_frame", "interpolation", "none"])
def test_given_frames_are_kept_and_change_the_others_at_any_batch_size(head: str, task: Any) -> None:
    model, tokens, known = built(head, MIX), clips(1), known_region(CLIP, task)
    options: dict[str, Any] = {"start": tokens, "known": known, "seed": 2}
    drawn = model.generate(["cat", "dog", "dog"], **options).values
    assert torch.equal(drawn[:, known], tokens.values[:, known].expand(3, -1, -1))
    torch.testing.assert_close(model.generate(["cat", "dog", "dog"], batch=2, **options).values, drawn, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.generate(["cat", "dog", "dog"], cache=False, **options).values, drawn, rtol=1e-4, atol=1e-4)
    if bool(known.any()):
        options["start"] = changed(tokens, known.expand(1, -1))
        assert float((model.generate(["cat", "dog", "dog"], **options).values - drawn)[:, ~known].abs().max()) > 1e-4


@pytest.mark.parametrize("task", ["frame_prediction", "interpolation", "central_outpainting"])
def test_the_region_of_a_task_is_kept_where_it_is_seen(task: Any) -> None:
    layout = Layout((3, 4, 4), channels=2)
    for order in (AtOnce(tasks=FIRST).build(), Masked().build()):
        assert torch.equal(kept(layout, order, task), known_region(layout, task))
    for settings in (Frames(), Frames(inside=Raster()), Raster()):
        if task == "interpolation" or (task == "central_outpainting" and settings != Frames()):
            with pytest.raises(ValueError, match="before it sees all that is kept"):
                kept(layout, settings.build(), task)
        else:
            assert torch.equal(kept(layout, settings.build(), task), known_region(layout, task))


def test_tasks_are_for_heads_that_draw_a_part() -> None:
    order = AtOnce(tasks=FIRST).build()
    head = TarFlow().build(24, CLIP)
    with pytest.raises(ValueError, match="draws all tokens as one: choose a head such as flow_matching"):
        Generator(CLIP, order, NoBackbone(width=24).build(CLIP, None), head)
    with pytest.raises(ValueError, match="on a grid with time"):
        AtOnce(tasks=FIRST).build().blocks(Layout((4, 4)))


def test_heads_of_single_tokens_see_what_is_given_too() -> None:
    check_seen(CLIP, AtOnce(tasks=FIRST).build())
    with pytest.raises(ValueError, match="would not see what is kept"):
        check_seen(CLIP, AtOnce().build())
