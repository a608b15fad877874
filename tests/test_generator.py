"""The one loss and the one loop, for the two orders that ship and for three made here: what holds for any order holds in the loop."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from jielong.conditions.base import BuildContext, Condition
from jielong.conditions.classes import Class
from jielong.conditions.text import Text
from jielong.config.guidance import Guidance
from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.generation.callbacks import StepEvent
from jielong.generation.generator import Generator
from jielong.heads.softmax import Softmax
from jielong.media.kinds.image import image_medium
from jielong.networks.backbone import Backbone, BackboneInputs
from jielong.networks.transformer import Transformer, TransformerConfig
from jielong.orders.base import Embed, Order
from jielong.orders.masked import Masked, MaskedOrder
from jielong.orders.raster import Raster
from jielong.tokenizers.pixels import Pixels

GRID = (3, 2, 2)  # frames, rows, columns
LAYOUT = Layout(GRID, channels=1, vocabulary=11)
N = LAYOUT.positions
CLASSES = ["cat", "dog", "bird", "fish", "ant"]
ALARM = 1e-6


class Frames(MaskedOrder):
    """Frame by frame, masked inside a frame: earlier frames are seen, clean."""

    def blocks(self, layout: Layout) -> Tensor:
        return layout.coordinates()[:, 0]


class Slabs(Order):
    """Frame by frame, each drawn at once from the frame before: a shifted block of several positions, as the scales of next-scale are."""

    shifted = True

    def blocks(self, layout: Layout) -> Tensor:
        return layout.coordinates()[:, 0]

    def inputs(self, embed: Embed, values: Tensor, known: Tensor, placeholder: Tensor, start: int, stop: int) -> Tensor:
        size = LAYOUT.positions // LAYOUT.grid[0]
        before = embed(values[:, max(start - size, 0) : max(stop - size, 0)])
        missing = (stop - start) - before.shape[1]
        return torch.cat([placeholder.expand(len(values), missing, -1), before], dim=1)


class AtOnce(Slabs):
    """One block of everything; only the position stands at a position."""

    def blocks(self, layout: Layout) -> Tensor:
        return torch.zeros(layout.positions, dtype=torch.long)

    def inputs(self, embed: Embed, values: Tensor, known: Tensor, placeholder: Tensor, start: int, stop: int) -> Tensor:
        return placeholder.expand(len(values), stop - start, -1)


ORDERS: dict[str, Callable[[], Order]] = {
    "raster": Raster().build,
    "masked": Masked(steps=5).build,
    "frames": lambda: Frames(Masked(steps=3)),
    "masked at random": Masked(steps=5, choose="random").build,
    "frames at random": lambda: Frames(Masked(steps=3, choose="random")),
    "slabs": Slabs,
    "at once": AtOnce,
}


def make(
    order: str = "raster",
    path: str | None = "prefix",
    *,
    layout: Layout = LAYOUT,
    drop: float = 0.1,
    text: bool = False,
    smoothing: float = 0.0,
) -> Generator:
    """A small generator, all weights away from their start, so that nothing hides behind a zero."""
    torch.manual_seed(0)
    condition: Condition | None = None
    if path is not None:
        condition = (
            Text(encoder="bytes", width=12, cfg_dropout=drop).build()
            if text
            else Class(width=12, cfg_dropout=drop).build(BuildContext(CLASSES))
        )
    backbone = Transformer(
        TransformerConfig(layers=2, width=16, heads=2, condition=path or "prefix"),
        axes=len(layout.grid),
        condition_width=12 if path else None,
    )
    model = Generator(layout, ORDERS[order](), backbone, Softmax(label_smoothing=smoothing).build(16, layout), condition)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.4 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def given(model: Generator, count: int = 4) -> list[int] | None:
    return None if model.condition is None else [i % len(CLASSES) for i in range(count)]


def codes(batch: int = 2, layout: Layout = LAYOUT, seed: int = 3) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    return Tokens(torch.randint(0, layout.vocabulary or 2, (batch, layout.positions, layout.channels), generator=generator), layout)


class Calls:
    """The batch size and number of positions of every call of a generator's backbone, and what came out."""

    def __init__(self, model: Generator) -> None:
        self.rows: list[int] = []
        self.positions: list[int] = []
        self.hidden: list[Tensor] = []
        model.backbone.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, arguments: tuple[BackboneInputs, ...], result: Tensor) -> None:
        self.rows.append(len(arguments[0].embeddings))
        self.positions.append(arguments[0].embeddings.shape[1])
        self.hidden.append(result)


# --- the loss: what may be read, and how much it is ----------------------------------------------------------------------------------


def hidden_of(model: Generator, values: Tensor) -> Tensor:
    """Hidden vectors behind the loss, ``(B, N, D)``; masks and dropped conditions are drawn alike every time."""
    calls = Calls(model)
    prepared = None if model.condition is None else model.condition.prepare(given(model, len(values)) or [])
    model.loss(Tokens(values, model.layout), prepared, PerSampleRNG(7, range(len(values))))
    return calls.hidden[-1]


@pytest.mark.parametrize("path", [None, "prefix", "cross", "adaln"])
def test_raster_reads_nothing_from_a_token_on(path: str | None) -> None:
    model = make("raster", path)
    values = codes().values
    before = hidden_of(model, values)
    for changed in range(N):
        other = values.clone()
        other[:, changed:] = (other[:, changed:] + 1) % 11
        after = hidden_of(model, other)
        assert torch.equal(after[:, : changed + 1], before[:, : changed + 1])
        if changed + 1 < N:
            assert (after[:, changed + 1] != before[:, changed + 1]).any(-1).all(), "and the next position reads it"


@pytest.mark.parametrize(("order", "sees"), [("raster", "before"), ("slabs", "frames before"), ("at once", "nothing"), ("masked", "known")])
def test_gradients_reach_exactly_the_tokens_that_may_be_read(order: str, sees: str) -> None:
    model, values = make(order), codes(1).values
    vectors: list[Tensor] = []
    model.embedding.register_forward_hook(lambda module, arguments, result: (result.retain_grad(), vectors.append(result))[0])
    masked = model.order.view(LAYOUT, PerSampleRNG(7, [0])).loss_mask[0] if model.condition is None else _asked(model)
    frame = LAYOUT.coordinates()[:, 0]
    for position in range(N):
        vectors.clear()
        hidden_of(model, values)[0, position].sum().backward()
        reached = torch.zeros(N, dtype=torch.bool)
        if vectors and vectors[-1].grad is not None:
            touched = vectors[-1].grad[0].abs().sum(-1) > 0
            reached[: len(touched)] = touched
        may = {
            "before": torch.arange(N) < position,
            "frames before": frame < frame[position],
            "nothing": torch.zeros(N, dtype=torch.bool),
            "known": ~masked,
        }[sees]
        assert torch.equal(reached, may), position


def _asked(model: Generator) -> Tensor:
    """Which positions the loss asks for with the noise of ``hidden_of``."""
    return model.order.view(LAYOUT, PerSampleRNG(7, [0])).loss_mask[0]


def test_masked_training_does_not_show_its_targets() -> None:
    model, values = make("masked"), codes(2).values
    masked = torch.stack([model.order.view(LAYOUT, PerSampleRNG(7, [row])).loss_mask[0] for row in range(2)])
    other = torch.where(masked[..., None], (values + 5) % 11, values)
    assert masked.any(1).all()
    assert torch.equal(hidden_of(model, other), hidden_of(model, values))


@pytest.mark.parametrize("order", ["raster", "masked"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_first_loss_is_ln_v(order: str, channels: int) -> None:
    layout = Layout((4, 4), channels=channels, vocabulary=1000)
    condition = Class(width=8).build(BuildContext(CLASSES))
    backbone = Transformer(TransformerConfig(layers=1, width=16, heads=2, condition="prefix"), axes=2, condition_width=8)
    model = Generator(layout, ORDERS[order](), backbone, Softmax().build(16, layout), condition)
    loss = model.loss(codes(3, layout), condition.prepare([0, 1, 2]))
    assert loss.item() == pytest.approx(math.log(1000), rel=1e-6)


def test_every_item_weighs_the_same_at_any_number_of_targets() -> None:
    model = make("masked", None)
    tokens, noise = codes(4), range(4)
    together = model.loss(tokens, rng=PerSampleRNG(5, noise))
    alone = [model.loss(Tokens(tokens.values[row : row + 1], LAYOUT), rng=PerSampleRNG(5, [row])) for row in noise]
    torch.testing.assert_close(together, torch.stack(alone).mean())
    assert len({int(model.order.view(LAYOUT, PerSampleRNG(5, [row])).loss_mask.sum()) for row in noise}) > 1


def test_loss_is_the_mean_negative_log_probability_of_the_chain() -> None:
    """The raster loss times N is ``-ln p`` of the sequence; over all sequences of a tiny layout ``p`` sums to one."""
    layout = Layout((3,), vocabulary=3)
    model = make("raster", None, layout=layout)
    everything = torch.tensor(list(itertools.product(range(3), repeat=3)))[..., None]
    with torch.no_grad():
        losses = torch.stack([model.loss(Tokens(row[None], layout)) for row in everything])
    probability = (-3 * losses).double().exp()
    assert float(probability.sum()) == pytest.approx(1, abs=1e-5)
    # And that is the distribution it samples: a chi-square test over the 27 sequences.
    drawn = model.generate(count=4000, batch=4000).values[..., 0]
    counts = torch.bincount((drawn * torch.tensor([9, 3, 1])).sum(-1), minlength=27)
    assert stats.chisquare(counts.numpy(), (probability / probability.sum() * 4000).numpy()).pvalue > ALARM


def test_conditions_are_dropped_in_training_only_and_at_the_given_rate() -> None:
    model = make("raster", drop=0.5)
    tokens, prepared = codes(1), model.condition.prepare([3])  # type: ignore[union-attr]
    kept = model.loss(tokens, prepared)
    nothing = model.condition.unconditional(1)  # type: ignore[union-attr]
    model.train()
    with torch.no_grad():
        losses = torch.stack([model.loss(tokens, prepared, PerSampleRNG(1, [row])) for row in range(100)])
    gone = (losses - kept).abs() > 1e-5
    assert 20 < int(gone.sum()) < 80  # binomial(100, 1/2): beyond six sigma
    assert losses[gone].std() < 1e-5
    assert nothing.mask.all()


def test_loss_and_sampling_do_not_disturb_each_other() -> None:
    """Sampling runs in inference mode; nothing it leaves behind (rotations, masks) may reach a backward pass."""
    model = make("masked", text=True)
    model.generate(["a cat", "a dog"], guidance=2.0)
    model.train()
    prepared = model.condition.prepare(["a cat", "a dog"])  # type: ignore[union-attr]
    model.loss(codes(2), prepared).backward()
    assert all(parameter.grad is not None for parameter in model.backbone.parameters())
    with pytest.raises(ValueError, match="in training mode"):
        model.generate(["a cat"])
    assert model.training, "nothing switches the mode of a module that others may share"


# --- the loop ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("path", [None, "prefix", "cross", "adaln"])
def test_cached_equals_uncached(order: str, path: str | None) -> None:
    model = make(order, path)
    cached = model.generate(given(model), 4, seed=1)
    assert torch.equal(cached.values, model.generate(given(model), 4, seed=1, cache=False).values)
    assert cached.values.unique().numel() > 3


GUIDANCES = {
    "constant": Guidance(scale=3.0),
    "zero": Guidance(scale=0.0),
    "linear": Guidance(scale=4.0, kind="linear"),
    "interval": Guidance(scale=3.0, kind="interval", start=0.2, stop=0.6),
}


@pytest.mark.parametrize(
    ("order", "kind"), [(order, kind) for order in ORDERS for kind in GUIDANCES if order != "at once" or kind in ("constant", "zero")]
)
def test_guided_cached_equals_guided_uncached(order: str, kind: str) -> None:
    model = make(order, text=True)
    texts = ["a cat", "dog", "a very long caption of a bird", "x"]  # of several lengths: the null half is padded to them
    cached = model.generate(texts, seed=2, guidance=GUIDANCES[kind])
    assert torch.equal(cached.values, model.generate(texts, seed=2, guidance=GUIDANCES[kind], cache=False).values)


@pytest.mark.parametrize("order", ["raster", "masked", "frames", "slabs"])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_sample_is_the_same_whatever_the_batch(order: str, scale: float) -> None:
    model = make(order)
    whole = model.generate(given(model, 7), seed=3, guidance=scale, batch=7).values
    for batch in (1, 3):
        assert torch.equal(model.generate(given(model, 7), seed=3, guidance=scale, batch=batch).values, whole)
    assert torch.equal(model.generate(given(model, 7)[:2], seed=3, guidance=scale).values, whole[:2])  # type: ignore[index]


@pytest.mark.parametrize("order", ORDERS)
def test_seeds_and_samples_differ(order: str) -> None:
    model = make(order, None)
    first, again, other = (model.generate(count=4, seed=seed).values for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert len({tuple(row.flatten().tolist()) for row in [*first, *other]}) == 8


def test_guidance_one_is_the_conditional_model_and_never_computes_the_null(monkeypatch: pytest.MonkeyPatch) -> None:
    for order in ("raster", "masked"):
        model = make(order)
        monkeypatch.setattr(model.condition, "unconditional", lambda *a, **k: pytest.fail("the null was asked for"))
        for guidance in (1.0, Guidance(scale=1.0, kind="linear"), Guidance(scale=1.0, kind="interval", start=0.1, stop=0.5)):
            calls = Calls(model)
            drawn = model.generate(given(model, 3), guidance=guidance)
            assert set(calls.rows) == {3}
            assert torch.equal(drawn.values, model.generate(given(model, 3)).values)


def test_guidance_zero_is_the_unconditional_model() -> None:
    for order in ("raster", "masked"):
        model = make(order)
        assert torch.equal(model.generate(given(model), guidance=0.0).values, model.generate(None, 4).values)


def test_guidance_towards_a_condition_that_is_the_null_changes_nothing() -> None:
    for order in ("raster", "masked"):
        model = make(order)
        model.condition.table.weight.data[:] = model.condition.null.data  # type: ignore[union-attr]
        plain = model.generate(given(model)).values
        for guidance in (0.0, 5.0, GUIDANCES["linear"], GUIDANCES["interval"]):
            assert torch.equal(model.generate(given(model), guidance=guidance).values, plain)


@pytest.mark.parametrize("cache", [True, False])
def test_the_null_half_is_dropped_after_the_interval(cache: bool) -> None:
    model = make("raster")
    calls, scales = Calls(model), []
    guidance = Guidance(scale=3.0, kind="interval", start=0.25, stop=0.5)
    model.generate(given(model, 3), guidance=guidance, cache=cache, on_step=lambda moment: scales.append(moment.guidance))
    assert scales == [1.0] * 3 + [3.0] * 3 + [1.0] * 6
    assert calls.rows == [6] * 6 + [3] * 6
    assert calls.positions == ([1] * 12 if cache else list(range(1, 13)))


def test_the_cache_passes_each_block_once_more_clean_only_where_it_was_masked() -> None:
    for order, expected in {
        "raster": [1] * 12,
        "slabs": [4] * 3,
        "masked": [12] * 5,
        "at once": [12],
        "frames": [4] * (3 + 1 + 3 + 1 + 3),
    }.items():
        model = make(order, None)
        calls = Calls(model)
        model.generate(count=2)
        assert calls.positions == expected, order


@pytest.mark.parametrize("order", ORDERS)
def test_watch_sees_every_position_become_known_exactly_once(order: str) -> None:
    model = make(order)
    moments: list[StepEvent] = []
    tokens = model.generate(given(model), seed=4, on_step=moments.append)
    assert [moment.step for moment in moments] == list(range(1, len(moments) + 1))
    assert (torch.stack([moment.new.int() for moment in moments]).sum(0) == 1).all()
    known = torch.zeros(4, N, dtype=torch.bool)
    for before, moment in zip([None, *moments], moments, strict=False):
        known = known | moment.new
        assert torch.equal(moment.known, known)
        if before is not None:  # what is known never changes, and what is not known shows nothing yet
            assert torch.equal(moment.values[before.known], before.values[before.known])
        assert (moment.values[~moment.known] == 0).all()
        assert torch.equal(moment.values[moment.known], tokens.values[moment.known])
    assert known.all()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kept", [[0, 1, 2, 3, 4], [0, 5, 11], list(range(8, 12)), [3, 4, 5, 6, 7, 8], list(range(12)), []])
def test_in_painting_keeps_known_tokens_with_the_cache_as_without(order: str, kept: list[int]) -> None:
    model, start = make(order), codes(4, seed=9)
    known = torch.zeros(N, dtype=torch.bool)
    known[kept] = True
    moments: list[StepEvent] = []
    drawn = model.generate(given(model), seed=5, start=start, known=known, guidance=2.0, on_step=moments.append)
    assert torch.equal(drawn.values[:, known], start.values[:, known])
    assert not any(bool(moment.new[:, known].any()) for moment in moments)
    again = model.generate(given(model), seed=5, start=start, known=known, guidance=2.0, cache=False)
    assert torch.equal(drawn.values, again.values)
    if not kept:
        assert torch.equal(drawn.values, model.generate(given(model), seed=5, guidance=2.0).values)
    block = model.order.blocks(LAYOUT)
    if not model.order.shifted and 0 < len(kept) < N and block[known].min() <= block[~known].max():
        other = Tokens((start.values + 1) % 11, LAYOUT)
        changed = model.generate(given(model), seed=5, start=other, known=known, guidance=2.0)
        assert not torch.equal(changed.values[:, ~known], drawn.values[:, ~known]), "what is kept is read"


@pytest.mark.parametrize("steps", [1, 2, 5, 12, 40])
def test_steps_may_be_any_number(steps: int) -> None:
    model = make("masked")
    moments: list[StepEvent] = []
    model.generate(given(model), steps=steps, on_step=moments.append)
    assert len(moments) == min(steps, N)


def test_several_codebooks() -> None:
    tokenizer = Pixels(levels=5).build(image_medium(3, (2, 3)))
    for order in ("raster", "masked"):
        model = make(order, layout=tokenizer.layout)
        drawn = model.generate(given(model), seed=6, guidance=2.0)
        assert drawn.values.shape == (4, 6, 3)
        assert torch.equal(drawn.values, model.generate(given(model), seed=6, guidance=2.0, cache=False).values)
        assert tokenizer.decode(drawn).shape == (4, 3, 2, 3)
        # The same code in another codebook is another vector.
        a, b = torch.tensor([[[1, 2, 0]]]), torch.tensor([[[2, 1, 0]]])
        assert not torch.allclose(model.embed(a), model.embed(b))
        table = model.embedding.weight.view(3, 5, -1)  # type: ignore[union-attr]
        torch.testing.assert_close(model.embed(a)[0, 0], table[0, 1] + table[1, 2] + table[2, 0])


# --- masked decoding against MaskGIT's own checks ------------------------------------------------------------------------------------


def test_as_many_steps_as_tokens_without_noise_is_confidence_ordered_decoding() -> None:
    model = make("masked", None)
    model.order.choice_temperature = 0.0  # type: ignore[attr-defined]
    drawn = model.generate(count=3, steps=N, sampling=SamplingConfig(temperature=0.0)).values[..., 0]
    for row in range(3):
        values, known = torch.zeros(1, N, 1, dtype=torch.long), torch.zeros(1, N, dtype=torch.bool)
        for _ in range(N):
            with torch.no_grad():
                shown = torch.where(known[..., None], model.embed(values), model.placeholder)
                places = sum(table(LAYOUT.coordinates()[:, axis]) for axis, table in enumerate(model.position_embeddings))
                hidden = model.backbone(BackboneInputs(shown + places, LAYOUT.coordinates(), torch.zeros(N, dtype=torch.long)))
                best = model.head.scores(hidden)[0, :, 0].log_softmax(-1).max(-1)  # type: ignore[operator]
            place = int(best.values.masked_fill(known[0], -math.inf).argmax())
            values[0, place, 0], known[0, place] = best.indices[place], True
        assert torch.equal(drawn[row], values[0, :, 0])


class Twin(Backbone[Any]):
    """A backbone of width 3 that knows the data {00, 11}: at each of two positions it says what stands at the other."""

    width, conditioned = 3, False

    def forward(self, inputs: BackboneInputs, cache: None = None, commit: bool = True) -> Tensor:
        return inputs.embeddings.flip(1)

    def new_cache(self, *sizes: object, **places: object) -> Any:
        raise AssertionError("it has no cache")

    def cache_bytes(self, *sizes: object, **places: object) -> int:
        return 0

    def check_order(self, blocks: Tensor, shifted: bool) -> None:
        assert not shifted


@pytest.mark.parametrize(("steps", "wrong"), [(1, 0.5), (2, 0.0)])
@pytest.mark.parametrize("choose", ["confidence", "random"])
def test_the_lectures_two_heads(steps: int, wrong: float, choose: str) -> None:
    """Two tokens that must agree: drawn at once, half of the pairs are invalid; one after the other, none."""
    layout, samples = Layout((2,), vocabulary=2), 4000
    order = Masked(steps=steps, choose=choose).build()
    model = Generator(layout, order, Twin(), Softmax().build(3, layout))
    model.embedding.weight.data = torch.eye(3)[:2]  # type: ignore[assignment]
    model.placeholder.data = torch.eye(3)[2]
    model.position_embeddings[0].weight.data.zero_()  # type: ignore[operator, union-attr]
    model.head.logits.weight.data = torch.tensor([[50.0, -50.0, 0.0], [-50.0, 50.0, 0.0]])  # type: ignore[union-attr]
    pairs = model.eval().generate(count=samples, batch=samples, cache=False).values[..., 0]
    invalid = int((pairs[:, 0] != pairs[:, 1]).sum())
    assert (invalid == 0) if wrong == 0 else stats.binomtest(invalid, samples, wrong).pvalue > ALARM
    assert stats.binomtest(int(pairs[:, 0].sum()), samples, 0.5).pvalue > ALARM


# --- misuse --------------------------------------------------------------------------------------------------------------------------


def test_misuse_is_refused_in_sentences() -> None:
    model, plain = make("masked"), make("masked", None)
    start, known = codes(2), torch.zeros(N, dtype=torch.bool)
    refused: list[tuple[str, Callable[[], object]]] = [
        ("trained without a condition: ask for a count", lambda: plain.generate([0, 1])),
        ("guidance needs a condition to follow", lambda: plain.generate(count=2, guidance=2.0)),
        ("guidance needs a condition to follow", lambda: model.generate(count=2, guidance=2.0)),
        (r"guidance.scale: Input should be greater than or equal to 0", lambda: model.generate([0, 1], guidance=-1.0)),
        ("both `start` and the mask `known`", lambda: model.generate([0, 1], start=start)),
        ("both `start` and the mask `known`", lambda: model.generate([0, 1], known=known)),
        (r"`start` must hold 3 items of layout .*, not 2", lambda: model.generate([0, 1, 2], start=start, known=known)),
        (r"`start` must hold 2 items of layout", lambda: model.generate([0, 1], start=codes(2, Layout((12,), 1, 11)), known=known)),
        (r"`known` must be bool \(12,\)", lambda: model.generate([0, 1], start=start, known=known[:5])),
        (r"`known` must be bool \(12,\)", lambda: model.generate([0, 1], start=start, known=known.float())),
        (r"code indices in \[0, 11\)", lambda: model.generate([0, 1], start=Tokens(start.values + 9, LAYOUT), known=~known)),
        ("no conditions are given", lambda: model.generate([])),
        (r"a list with one condition an item: write \['cat'\]", lambda: model.generate("cat")),
        ("count must be 1 or more, not 0", lambda: plain.generate(count=0)),
        ("batch must be 1 or more, not 0", lambda: plain.generate(count=1, batch=0)),
        ("steps must be 1 or more, not 0", lambda: plain.generate(count=1, steps=0)),
        ("needs its condition", lambda: model.loss(codes(2))),
        ("trained without a condition", lambda: plain.loss(codes(2), torch.tensor([0, 1]))),
    ]
    for reason, attempt in refused:
        with pytest.raises(ValueError, match=reason):
            attempt()


def test_a_head_that_cannot_predict_the_tokens_is_refused() -> None:
    head = Softmax().build(16, LAYOUT)
    continuous = Layout(GRID, channels=4)
    with pytest.raises(ValueError, match="SoftmaxHead cannot predict this tokenizer's continuous tokens"):
        Generator(continuous, Raster().build(), Transformer(TransformerConfig(layers=1, width=16, heads=2), axes=3), head)
