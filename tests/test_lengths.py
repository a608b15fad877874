"""Items of different lengths: padding changes nothing, an asked length is met, and a stop head ends what nobody measured."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.backbones.pixelrnn import PixelRNN
from jielong.conditions.base import BuildContext
from jielong.conditions.classes import Class
from jielong.config.ending import StopHeadSettings
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.generation.callbacks import StepEvent
from jielong.generation.generator import Generator
from jielong.generation.plan import SequencePlan
from jielong.heads.base import Head
from jielong.heads.gaussian_mixture import GaussianMixture
from jielong.heads.softmax import Softmax
from jielong.networks.backbone import AnyBackbone, BackboneInputs
from jielong.networks.layers import ConditionPath
from jielong.networks.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from jielong.networks.stop import StopHead
from jielong.networks.transformer import Transformer, TransformerConfig
from jielong.orders.coarse_to_fine import CoarseToFine
from jielong.orders.masked import Masked
from jielong.orders.raster import Raster

N, V = 9, 7
LENGTHS = [9, 4, 1, 6]
CODES, NUMBERS = Layout((N,), 2, V), Layout((N,), 3)
ORDERS: dict[str, Raster | Masked | CoarseToFine] = {
    "raster": Raster(),
    "masked": Masked(steps=4),
    "masked at random": Masked(steps=4, choose="random"),
    "delay": Raster(pattern="delay"),
    "levels": CoarseToFine(),
}


def make(
    order: str = "raster",
    layout: Layout = CODES,
    path: ConditionPath | None = None,
    backbone: str = "transformer",
    ending: StopHeadSettings | None = None,
) -> Generator:
    torch.manual_seed(0)
    condition = Class(width=12, cfg_dropout=0.1).build(BuildContext(["a", "b"])) if path else None
    net: AnyBackbone
    axes = len(SequencePlan.of(ORDERS[order].build(), layout).layout.grid)
    width = 12 if path else None
    if backbone == "mar":
        config = MaskedAutoencoderConfig(encoder_layers=1, decoder_layers=1, width=16, heads=2, buffer=2, condition=path or "prefix")
        net = MaskedAutoencoder(config, extents=(N,), condition_width=width)
    else:
        net = Transformer(TransformerConfig(layers=2, width=16, heads=2, condition=path or "prefix"), axes=axes, condition_width=width)
    head: Head = Softmax().build(16, layout) if layout.discrete else GaussianMixture(components=2).build(16, layout)
    model = Generator(layout, ORDERS[order].build(), net, head, condition, stop_head=ending)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def tokens(layout: Layout, lengths: Sequence[int] | None = LENGTHS, seed: int = 0, batch: int = 4) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, layout.positions, layout.channels)
    values = torch.randint(0, V, shape, generator=generator) if layout.discrete else torch.randn(shape, generator=generator)
    return Tokens(values, layout, None if lengths is None else torch.tensor(lengths))


def spoilt(given: Tokens) -> Tokens:
    """The same with rubbish behind each item's end."""
    assert given.lengths is not None
    behind = torch.arange(N) >= given.lengths[:, None]
    rubbish = 10**6 if given.layout.discrete else math.nan
    return Tokens(given.values.masked_fill(behind[..., None], rubbish), given.layout, given.lengths)


def condition_values(model: Generator, batch: int = 4) -> Tensor | None:
    return None if model.condition is None else model.condition.prepare([i % 2 for i in range(batch)])


CASES = [
    *(
        (order, layout, path, "transformer")
        for order in ("raster", "masked", "masked at random")
        for layout in (CODES, NUMBERS)
        for path in (None, "prefix", "cross")
    ),
    ("masked", CODES, None, "mar"),
    ("masked at random", CODES, "prefix", "mar"),
    ("masked", CODES, "cross", "mar"),
]
cases = pytest.mark.parametrize(("order", "layout", "path", "backbone"), CASES)


@cases
def test_padding_changes_no_loss(order: str, layout: Layout, path: ConditionPath | None, backbone: str) -> None:
    model, given = make(order, layout, path, backbone), tokens(layout)
    model.train()
    for seed in range(3):
        rng = [PerSampleRNG(seed, range(4)) for _ in range(2)]
        loss = model.loss(given, condition_values(model), rng[0])
        assert torch.equal(loss, model.loss(spoilt(given), condition_values(model), rng[1]))
        assert torch.isfinite(loss)


@cases
def test_full_lengths_are_no_lengths(order: str, layout: Layout, path: ConditionPath | None, backbone: str) -> None:
    model, given = make(order, layout, path, backbone), tokens(layout, None)
    full = Tokens(given.values, layout, torch.full((4,), N))
    assert torch.equal(
        model.loss(given, condition_values(model), PerSampleRNG(3, range(4))),
        model.loss(full, condition_values(model), PerSampleRNG(3, range(4))),
    )


@pytest.mark.parametrize("layout", [CODES, NUMBERS])
@pytest.mark.parametrize(("order", "backbone"), [("raster", "transformer"), ("masked", "transformer"), ("masked", "mar")])
def test_padded_item_equals_unpadded_item(order: str, backbone: str, layout: Layout) -> None:
    """Hidden vectors of a padded item equal those of the same weights on a shorter layout, where there is no padding."""
    model = make(order, layout, None, backbone)
    given, known = tokens(layout), torch.rand(4, N, generator=torch.Generator().manual_seed(2)) < 0.5
    real = torch.arange(N) < torch.tensor(LENGTHS)[:, None]
    given = Tokens(given.values.masked_fill(~real[..., None], 0), layout, given.lengths)
    inputs = model.embeddings(given.values, known, slice(0, N), model.position_vectors(model.plan))
    hidden = model.backbone(BackboneInputs(inputs, model.plan.coords, model.plan.blocks, None, known, real))
    for index, length in enumerate(LENGTHS):
        alone = inputs[index : index + 1, :length]
        visible = known[index : index + 1, :length]
        expected = model.backbone(BackboneInputs(alone, model.plan.coords[:length], model.plan.blocks[:length], None, visible))
        torch.testing.assert_close(hidden[index : index + 1, :length], expected, atol=1e-5, rtol=1e-4)


def test_the_loss_is_the_mean_of_the_items_own() -> None:
    model, given = make(), tokens(CODES)
    assert given.lengths is not None
    alone = [model.loss(Tokens(given.values[i : i + 1], CODES, given.lengths[i : i + 1])) for i in range(4)]
    torch.testing.assert_close(model.loss(given), torch.stack(alone).mean())


@cases
def test_given_lengths_are_met_and_batches_make_no_difference(
    order: str, layout: Layout, path: ConditionPath | None, backbone: str
) -> None:
    model = make(order, layout, path, backbone)
    conditions = None if path is None else [0, 1, 0, 1]
    options = {"seed": 3, "lengths": LENGTHS, "guidance": 1.5 if path else 1.0}
    together = model.generate(conditions, None if path else 4, **options)  # type: ignore[arg-type]
    assert together.lengths is not None
    assert together.lengths.tolist() == LENGTHS
    behind = torch.arange(N) >= together.lengths[:, None]
    assert not together.values[behind].any()
    for batch in (1, 2, 3):
        other = model.generate(conditions, None if path else 4, batch=batch, **options)  # type: ignore[arg-type]
        torch.testing.assert_close(together.values, other.values, atol=1e-4, rtol=1e-4)
    naive = model.generate(conditions, None if path else 4, cache=False, **options)  # type: ignore[arg-type]
    torch.testing.assert_close(together.values, naive.values, atol=1e-4, rtol=1e-4)


def test_an_item_in_raster_order_begins_the_same_at_any_length() -> None:
    model = make()
    whole = model.generate(count=2, seed=1)
    short = model.generate(count=2, seed=1, lengths=[5, 3])
    assert torch.equal(short.values[0, :5], whole.values[0, :5])
    assert torch.equal(short.values[1, :3], whole.values[1, :3])


def test_no_step_is_taken_behind_the_last_end() -> None:
    moments: list[StepEvent] = []
    make().generate(count=2, lengths=[5, 3], on_step=moments.append)
    assert len(moments) == 5


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ([0, 3], "item 0 cannot have 0 tokens: a length is from 1 to 9"),
        ([3, 10], "item 1 cannot have 10 tokens"),
        ([3], "`lengths`: expected 2 values, one per item, got 1"),
    ],
)
def test_impossible_lengths_are_refused(lengths: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make().generate(count=2, lengths=lengths)


def test_lengths_must_fit_tokens_and_parts() -> None:
    with pytest.raises(ValueError, match="lengths are along time alone"):
        Tokens(torch.zeros(1, 4, 1, dtype=torch.long), Layout((2, 2), 1, V), torch.tensor([2]))
    with pytest.raises(ValueError, match="item 1 cannot have 12 tokens"):
        tokens(CODES, [1, 12, 3, 4])
    with pytest.raises(ValueError, match="`known` marks positions beyond length 3"):
        make().generate(count=1, lengths=[3], start=tokens(CODES, None, batch=1), known=torch.arange(N) < 4)
    with pytest.raises(ValueError, match="raster or coarse_to_fine"):
        make("masked", ending=StopHeadSettings())
    pictures = Layout((3, 3), 1, V)
    rnn = PixelRNN(kind="row", layers=1, hidden=4, width=16, kernel=3).build(pictures, None)
    with pytest.raises(ValueError, match="lengths are along time alone"):
        Generator(pictures, Raster().build(), rnn, Softmax().build(16, pictures), stop_head=StopHeadSettings())


# --- the stop head --------------------------------------------------------------------------------------------------------------------


def test_the_stop_loss_is_the_weighted_cross_entropy_written_out() -> None:
    head = StopHead(4, StopHeadSettings(positive_weight=5.0))
    nn.init.normal_(head.logit.weight)
    hidden = torch.randn(3, N, 4)
    lengths = [4, 9, 1]
    each = []
    for item, length in zip(head.logit(hidden)[..., 0], lengths, strict=True):
        terms = [-F.logsigmoid(-item[t]) for t in range(length)]
        terms += [-5.0 * F.logsigmoid(item[length])] if length < N else []
        each.append(torch.stack(terms).mean())
    torch.testing.assert_close(head.loss(hidden, torch.arange(N), torch.tensor(lengths)), torch.stack(each).mean())


@pytest.mark.parametrize(("order", "layout"), [("raster", CODES), ("raster", NUMBERS), ("delay", CODES), ("levels", CODES)])
def test_items_learn_to_end_by_themselves(order: str, layout: Layout) -> None:
    """An item's length is its class: after a little training each ends where its class says, whatever the batch."""
    ends = {0: 3, 1: 7}
    model = make(order, layout, "prefix", ending=StopHeadSettings(positive_weight=2))
    assert model.condition is not None
    optimizer = torch.optim.AdamW(
        [*model.backbone.parameters(), *model.durations.parameters(), *model.position_embeddings.parameters()], lr=5e-3
    )  # type: ignore[union-attr]
    labels = [0, 1] * 4
    for step in range(200):
        given = tokens(layout, [ends[label] for label in labels], step, 8)
        optimizer.zero_grad()
        model.loss(given, model.condition.prepare(labels), PerSampleRNG(step, range(8))).backward()
        optimizer.step()
    generated = model.generate([0, 1, 1, 0], seed=2)
    assert generated.lengths is not None
    assert generated.lengths.tolist() == [3, 7, 7, 3]
    assert not generated.values[torch.arange(N) >= generated.lengths[:, None]].any()
    for options in ({"batch": 1}, {"cache": False}, {"batch": 3}):
        other = model.generate([0, 1, 1, 0], seed=2, **options)
        assert other.lengths is not None
        assert torch.equal(other.lengths, generated.lengths)
        torch.testing.assert_close(other.values, generated.values, atol=1e-4, rtol=1e-4)
    fixed = model.generate([0, 1], seed=2, lengths=[5, 2])
    assert fixed.lengths is not None
    assert fixed.lengths.tolist() == [5, 2], "an asked length is met, whatever the stop head says"


def test_items_that_do_not_end_are_counted() -> None:
    endless, ending = make(ending=StopHeadSettings(threshold=1 - 1e-6)), make(ending=StopHeadSettings(threshold=1e-6))
    for draw in (lambda: endless.generate(count=3, batch=2), lambda: list(endless.stream(count=3))):
        with pytest.warns(UserWarning, match=f"3 of 3 items did not end by themselves: they stop at {N} tokens") as caught:
            draw()
        assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        endless.generate(count=2, lengths=[N, N])
        ending.generate(count=2)


def test_known_positions_are_not_ended() -> None:
    model = make(ending=StopHeadSettings(threshold=1e-6))
    assert model.generate(count=1).lengths.tolist() == [1]  # type: ignore[union-attr]
    start = tokens(CODES, None, batch=1)
    generated = model.generate(count=1, start=start, known=torch.arange(N) < 4)
    assert generated.lengths is not None
    assert generated.lengths.tolist() == [4]
    assert torch.equal(generated.values[:, :4], start.values[:, :4])
