"""Masked next-token prediction: raster order when nothing is dropped, and nothing that is dropped is ever seen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from jielong.backbones.transformer import Transformer
from jielong.config.registry import parse_part
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.generation.generator import Generator
from jielong.heads.gaussian_mixture import GaussianMixture
from jielong.heads.softmax import Softmax
from jielong.networks.backbone import BackboneInputs
from jielong.orders.base import TrainingView
from jielong.orders.masked_next import MaskedNext, MaskedNextOrder
from jielong.orders.ratio import Ratio

N = 10
NUMBERS, CODES = Layout((N,), channels=2), Layout((N,), channels=2, vocabulary=5)
BOTH = pytest.mark.parametrize("layout", [NUMBERS, CODES], ids=["numbers", "codes"])
NOTHING = MaskedNext(plain=1.0, few=Ratio(kind="truncated_normal", mean=0.0, std=1e-6, low=0.0, high=1e-3))


def built(layout: Layout, settings: MaskedNext = MaskedNext()) -> Generator:
    torch.manual_seed(0)
    order, backbone = settings.build(), Transformer(layers=2, width=16, heads=2).build(layout, None)
    head = (Softmax() if layout.discrete else GaussianMixture(components=2)).build(16, layout)  # type: ignore[attr-defined]
    model = Generator(layout, order, backbone, head, None, order.embedding(SimpleNamespace(layout=layout), 16))  # type: ignore[arg-type]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def tokens(layout: Layout, batch: int = 3) -> Tokens:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, N, layout.channels)
    return Tokens(torch.randint(5, shape, generator=generator) if layout.discrete else torch.randn(shape, generator=generator), layout)


class Fixed(MaskedNextOrder):
    """Leaves what it is told to leave."""

    def __init__(self, left: Tensor) -> None:
        super().__init__()
        self.left = left

    def view(self, layout: Layout, rng: PerSampleRNG, present: Tensor | None = None) -> TrainingView:
        left = self.left if present is None else self.left & present
        return TrainingView(left, left, left)


def hidden_of(model: Generator, given: Tokens) -> Any:
    return model.training_states(given, None, PerSampleRNG(0, range(len(given))))


def test_settings_survive_their_own_dump() -> None:
    assert parse_part("order", MaskedNext(plain=0.3).model_dump(mode="json")) == MaskedNext(plain=0.3)


@BOTH
def test_with_nothing_dropped_it_is_next_token_prediction(layout: Layout) -> None:
    """The same hidden vectors as a chain that walks token by token."""
    model, given = built(layout, NOTHING), tokens(layout)
    read = hidden_of(model, given)
    assert bool(read.loss_mask.all())
    cache, known = model.backbone.new_cache(3, N), torch.zeros(3, N, dtype=torch.bool)
    places = model.position_vectors(model.plan)
    for place in range(N):
        inputs = model.embeddings(given.values, known, slice(place, place + 1), places)
        step = model.backbone(BackboneInputs(inputs, model.plan.coords[place : place + 1], model.plan.blocks[place : place + 1]), cache)
        torch.testing.assert_close(step[:, 0], read.hidden[:, place], rtol=1e-4, atol=1e-5)
        known[:, place] = True


@BOTH
def test_what_is_dropped_or_comes_later_is_not_seen(layout: Layout) -> None:
    model, given = built(layout), tokens(layout, 1)
    left = torch.tensor([[True, False, True, True, False, False, True, False, True, True]])
    model.order = Fixed(left)
    before = hidden_of(model, given).hidden
    for place in range(N):
        changed = given.values.clone()
        changed[0, place] = (changed[0, place] + 1) % 5 if layout.discrete else changed[0, place] + 1
        after = hidden_of(model, Tokens(changed, layout)).hidden
        moved = ((after - before).abs().amax(-1) > 1e-7)[0] & left[0]
        expected = left[0] & (torch.arange(N) > place) if bool(left[0, place]) else torch.zeros(N, dtype=torch.bool)
        assert moved.tolist() == expected.tolist()


@BOTH
def test_what_is_left_is_the_shortened_sequence(layout: Layout) -> None:
    """Hidden vectors equal those of the tokens that are left, passed alone with their places."""
    model, given = built(layout), tokens(layout, 1)
    left = torch.tensor([[False, True, False, True, True, False, False, True, False, False]])
    model.order = Fixed(left)
    found = hidden_of(model, given).hidden[:, left[0]]
    kept = left[0].nonzero()[:, 0]
    contents = torch.cat([given.values[:, kept[:-1]], kept[None, :-1, None].to(given.values.dtype)], -1)
    inputs = torch.cat([model.placeholder.expand(1, 1, -1), model.embed(contents)], 1) + model.position_vectors(model.plan)[kept]
    alone = model.backbone(BackboneInputs(inputs, model.plan.coords[kept], torch.arange(len(kept))))
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


def test_the_next_position_changes_the_hidden_vector() -> None:
    """The same token before a gap of one and before a gap of three."""
    model, given = built(NUMBERS), tokens(NUMBERS, 1)
    hidden = []
    for first in (2, 4):
        model.order = Fixed((torch.arange(N)[None] == first) | (torch.arange(N)[None] == 5))
        values = given.values.clone()
        values[:, first] = 1.0
        hidden.append(hidden_of(model, Tokens(values, NUMBERS)).hidden[0, 5])
    assert float((hidden[0] - hidden[1]).abs().max().detach()) > 1e-3


def test_shares_are_those_of_the_two_distributions() -> None:
    order, layout = MaskedNext().build(), Layout((200,), 1)
    view = order.view(layout, PerSampleRNG(0, range(4000)))
    share = 1 - view.loss_mask.float().mean(1)
    assert abs(float((share < 0.7).float().mean()) - 0.5) < 0.05
    # Means of the two truncated normals: 0 + 0.25 phi-ratio, and one minus the same cut at 0.3.
    assert float(share[share < 0.7].mean()) == pytest.approx(0.25 * 0.7979 * (1 - 0.0198) / 0.9949, abs=0.02)
    assert float(share[share > 0.7].mean()) == pytest.approx(1 - 0.25 * 0.7979 * (1 - 0.4868) / 0.7699, abs=0.02)
    assert int(view.loss_mask.sum(1).min()) >= 1
    few = order.view(layout, PerSampleRNG(0, range(3)), torch.arange(200) < torch.tensor([[1], [5], [200]]))
    assert few.loss_mask[0].nonzero()[:, 0].tolist() == [0]
    assert not bool(few.loss_mask[1, 5:].any())


@BOTH
def test_it_draws_in_raster_order(layout: Layout) -> None:
    model = built(layout)
    model.loss(tokens(layout)).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in model.parameters())
    drawn = model.generate(count=3, seed=2)
    assert drawn.values.shape == (3, N, 2)
    torch.testing.assert_close(model.generate(count=3, seed=2, cache=False).values, drawn.values, rtol=1e-4, atol=1e-4)
    lengths = Tokens(tokens(layout).values, layout, torch.tensor([4, N, 7]))
    assert bool(model.loss(lengths).isfinite())
