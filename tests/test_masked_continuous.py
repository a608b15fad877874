"""Masked generation over continuous tokens: what may be read, which draws belong to whom, and what each speed option may change.

The head here is a Gaussian of known mean, so that a generated token tells which hidden vector and which random numbers it came from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jielong.backbones.mar import Mar
from jielong.backbones.transformer import Transformer
from jielong.conditions.base import BuildContext
from jielong.conditions.classes import Class
from jielong.config.guidance import Guidance
from jielong.config.sampling import Lazy, SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.generation.callbacks import StepEvent
from jielong.generation.generator import Generator
from jielong.heads.base import NO_CONTEXT, Head, HeadContext, SampleOutput
from jielong.orders.masked import Masked
from jielong.orders.raster import Raster
from jielong.orders.ratio import Ratio

LAYOUT = Layout((4, 4), channels=3)
N = LAYOUT.positions
CLASSES = ["cat", "dog", "bird", "fish"]
BACKBONES = ["transformer", "mar"]
# Products of other shapes round otherwise; a chain of a dozen steps carries that on and lets it grow.
CLOSE = {"atol": 2e-5, "rtol": 2e-5}


class Gaussian(Head):
    """``N(W h, 1)``, guided in its mean; counts the rows that it draws at."""

    discrete = False

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.mean = nn.Linear(width, channels)
        self.rows = 0
        self.shares: list[float] = []

    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        return (self.mean(hidden) - targets).square().sum(-1) / 2

    def sample(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> SampleOutput:
        self.rows += hidden.shape[1]
        self.shares.append(context.known_fraction)
        mean = self.mean(hidden)
        if context.null is not None:
            without = self.mean(context.null)
            mean = without + context.guidance * (mean - without)
        return SampleOutput(mean + sampling.temperature * rng.normal(hidden.shape[1], mean.shape[-1]))


def make(
    backbone: str = "transformer", path: str | None = "prefix", *, steps: int = 6, order: str = "masked", layers: int = 4, **more: Any
) -> Generator:
    torch.manual_seed(0)
    shared: dict[str, Any] = {"width": 16, "heads": 2, "condition": path or "prefix", **more}
    part = (
        Transformer(layers=layers, **shared)
        if backbone == "transformer"
        else Mar(encoder_layers=layers // 2, decoder_layers=layers - layers // 2, buffer=2, **shared)
    )
    condition = None if path is None else Class(width=12).build(BuildContext(CLASSES))
    chain = Raster().build() if order == "raster" else Masked(steps=steps, choose="random", ratio=Ratio(kind="truncated_normal")).build()
    model = Generator(LAYOUT, chain, part.build(LAYOUT, None if path is None else 12), Gaussian(16, 3), condition)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.12 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def given(model: Generator, count: int = 4) -> list[int] | None:
    return None if model.condition is None else [i % len(CLASSES) for i in range(count)]


def tokens(count: int = 4) -> Tokens:
    return Tokens(torch.randn(count, N, 3, generator=torch.Generator().manual_seed(9)), LAYOUT)


# --- what may be read ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_is_masked_changes_nothing_and_what_is_visible_changes_everything(backbone: str) -> None:
    """MAR's leak test, on the hidden vectors behind the loss."""
    model, values = make(backbone, None), tokens(1).values
    taken: list[Tensor] = []
    model.backbone.register_forward_hook(lambda module, arguments, result: taken.append(result))

    seed = next(seed for seed in range(100) if int(model.order.view(LAYOUT, PerSampleRNG(seed, [0])).known.sum()) > 2)
    masked = model.order.view(LAYOUT, PerSampleRNG(seed, [0])).loss_mask

    def hidden(shown: Tensor) -> Tensor:
        with torch.no_grad():
            model.loss(Tokens(shown, LAYOUT), rng=PerSampleRNG(seed, [0]))
        return taken[-1]

    before = hidden(values)
    assert torch.equal(hidden(torch.where(masked[..., None], values + 1, values)), before)
    assert torch.equal(hidden(torch.where(masked[..., None], values.flip(1), values)), before)
    for position in (~masked[0]).nonzero().flatten().tolist():
        other = values.clone()
        other[0, position] += 1
        assert (hidden(other) != before).any(-1).all()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_predictions_do_not_depend_on_the_order_in_which_the_visible_ones_came(backbone: str) -> None:
    """Fluid's permutation test: whichever was drawn first, the next draw reads what is known, and nothing that was covered again."""
    model = make(backbone)
    known = torch.zeros(N, dtype=torch.bool)
    known[[1, 6, 8, 15]] = True
    first = model.generate(given(model), seed=2, start=tokens(), known=known, steps=3)
    covered = Tokens(torch.where(known[:, None], tokens().values, 100.0), LAYOUT)
    assert torch.equal(model.generate(given(model), seed=2, start=covered, known=known, steps=3).values, first.values)
    # Tokens drawn one after the other, against the same tokens given at once: the hidden vectors are the same.
    moments: list[StepEvent] = []
    model.generate(given(model), seed=1, steps=N, on_step=moments.append)
    taken: list[Tensor] = []
    model.backbone.register_forward_hook(lambda module, arguments, result: taken.append(result))
    state = moments[5]
    model.generate(given(model), seed=1, steps=N)
    one_by_one = taken[6]
    taken.clear()
    for row in range(4):
        only = Tokens(state.values[row : row + 1], LAYOUT)
        model.generate((given(model) or [])[row : row + 1], seed=1, start=only, known=state.known[row], steps=1)
        torch.testing.assert_close(taken[row][0], one_by_one[row], **CLOSE)


# --- whose draws ------------------------------------------------------------------------------------------------------------------------


def test_the_mask_vector_may_go_without_the_position_of_inputs() -> None:
    """MAR: known tokens have the encoder's position, unknown ones the decoder's alone."""
    bare, placed = make("mar", mask_positions=False), make("mar")
    values = torch.randn(3, N, 3, generator=torch.Generator().manual_seed(2))
    known = torch.rand(3, N, generator=torch.Generator().manual_seed(3)) < 0.4
    places = bare.position_vectors(bare.plan)
    for span in (slice(0, N), slice(5, 9)):
        found, usual = (model.embeddings(values, known, span, places) for model in (bare, placed))
        assert torch.equal(found[~known[:, span]], bare.placeholder.expand(int((~known[:, span]).sum()), -1))
        assert torch.equal(found[known[:, span]], usual[known[:, span]])
        assert torch.equal(usual, placed.embeddings(values, known, slice(0, N), places)[:, span])
    for options in ({}, {"lazy": Lazy(refresh=1)}):
        drawn = bare.generate(given(bare), 4, seed=1, guidance=2.5, **options)
        torch.testing.assert_close(bare.generate(given(bare), 4, seed=1, guidance=2.5, cache=False).values, drawn.values, **CLOSE)
    assert (drawn.values - placed.generate(given(placed), 4, seed=1, guidance=2.5).values).abs().max() > 0.01
    tokens = Tokens(values, LAYOUT)
    loss = bare.loss(tokens, bare.condition.prepare(["cat"] * 3))  # type: ignore[union-attr]
    gradients = torch.autograd.grad(loss, list(bare.position_embeddings.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("options", [{}, {"guidance": 3.0}, {"detail_steps": 2}, {"lazy": Lazy(), "guidance": 2.0}], ids=str)
def test_a_sample_is_the_same_whatever_the_batch(backbone: str, options: dict[str, Any]) -> None:
    model = make(backbone)
    whole = model.generate(given(model, 7), seed=3, batch=7, **options).values
    for batch in (1, 3):
        torch.testing.assert_close(model.generate(given(model, 7), seed=3, batch=batch, **options).values, whole, **CLOSE)
    assert len({tuple(row.flatten().tolist()) for row in whole}) == 7


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("path", [None, "prefix", "cross", "adaln"])
def test_every_option_off_equals_the_naive_reference(backbone: str, path: str | None) -> None:
    """Drawing at chosen positions alone, with what the condition comes to kept, against drawing everywhere at every step."""
    model = make(backbone, path)
    guidance = 1.0 if path is None else 2.5
    fast = model.generate(given(model), 4, seed=1, guidance=guidance)
    torch.testing.assert_close(model.generate(given(model), 4, seed=1, guidance=guidance, cache=False).values, fast.values, **CLOSE)


@pytest.mark.parametrize("steps", [1, 3, N])
def test_the_head_draws_every_token_once(steps: int) -> None:
    model = make()
    model.generate(given(model), steps=steps)
    assert model.head.rows == N
    naive = make()
    naive.generate(given(naive), steps=steps, cache=False)
    assert naive.head.rows == steps * N


def test_chosen_positions_take_the_numbers_they_take_alone() -> None:
    rng, places = PerSampleRNG(5, range(3)), torch.tensor([[4, 1], [0, 2], [3, 4]])
    few = PerSampleRNG(5, range(3)).normal(2, 3)
    laid = rng.laid_out(places, 6).normal(6, 3)
    assert torch.equal(laid.gather(1, places[..., None].expand(-1, -1, 3)), few)
    assert int((laid != 0).sum()) == few.numel()
    assert PerSampleRNG(5, range(3)).laid_out(places, 6).uniform(6).shape == (3, 6)
    with pytest.raises(ValueError, match=r"request a shape \(6, \.\.\.\)"):
        rng.laid_out(places, 6).normal(2, 3)


# --- completion --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("kept", [[], [0, 5, 11], list(range(8)), list(range(N))])
@pytest.mark.parametrize("options", [{}, {"detail_steps": 1}, {"lazy": Lazy(refresh=3, share=0.2)}], ids=str)
def test_completion_keeps_what_is_given_and_reads_it(backbone: str, kept: list[int], options: dict[str, Any]) -> None:
    model, start, known = make(backbone), tokens(), torch.zeros(N, dtype=torch.bool)
    known[kept] = True
    moments: list[StepEvent] = []
    drawn = model.generate(given(model), seed=5, guidance=2.0, start=start, known=known, on_step=moments.append, **options)
    assert torch.equal(drawn.values[:, known], start.values[:, known])
    new = sum((moment.new.int() for moment in moments), torch.zeros(4, N, dtype=torch.int))
    assert torch.equal(new, (~known).int().expand(4, -1)), "each of the others once"
    if 0 < len(kept) < N:
        other = model.generate(given(model), seed=5, guidance=2.0, start=Tokens(start.values + 1, LAYOUT), known=known, **options)
        assert (other.values[:, ~known] != drawn.values[:, ~known]).any(-1).all(), "what is kept is read"


# --- speed -------------------------------------------------------------------------------------------------------------------------------

ALIKE: list[Callable[[], Lazy]] = [
    lambda: Lazy(refresh=1),
    lambda: Lazy(warmup=100),
    lambda: Lazy(refresh=3, share=1.0, condition=False),
]


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("path", [None, "prefix", "cross", "adaln"])
@pytest.mark.parametrize("lazy", range(3))
def test_laziness_that_leaves_nothing_out_equals_the_naive_reference(backbone: str, path: str | None, lazy: int) -> None:
    """A refresh at every step; a warm-up of all steps; and for the plain transformer all positions through all layers.

    The encoder of ``mar`` keeps what it said of tokens until the next refresh, and so differs where there is none.
    """
    if backbone == "mar" and lazy == 2:
        pytest.skip("its encoder is lazy whatever the share")
    model = make(backbone, path)
    guidance = 1.0 if path is None else 2.5
    drawn = model.generate(given(model), 4, seed=1, guidance=guidance, lazy=ALIKE[lazy]())
    naive = model.generate(given(model), 4, seed=1, guidance=guidance, cache=False)
    torch.testing.assert_close(drawn.values, naive.values, **CLOSE)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_lazy_steps_differ_and_come_nearer_with_every_refresh(backbone: str) -> None:
    """Same random numbers, so the distance to the naive tokens is what laziness costs."""
    model = make(backbone, steps=N)
    naive = model.generate(given(model, 16), seed=1, guidance=2.0).values

    def apart(**settings: Any) -> float:
        lazily = model.generate(given(model, 16), seed=1, guidance=2.0, lazy=Lazy(warmup=1, **settings)).values
        return float((lazily - naive).square().mean())

    rare, often = apart(refresh=8, share=0.0), apart(refresh=2, share=0.0)
    assert 1e-6 < often < rare
    assert apart(refresh=8, share=0.75, condition=False) < rare


@pytest.mark.parametrize("backbone", BACKBONES)
def test_lazy_steps_compute_half_the_batch_and_a_share_of_the_rows(backbone: str) -> None:
    """Counted at the last layer's feed-forward part: rows of a fresh step, and rows of a lazy one."""
    model = make(backbone, steps=N)
    stack = model.backbone if backbone == "transformer" else model.backbone.decoder
    rows: list[int] = []
    stack.blocks[-1].feed_forward.register_forward_hook(lambda module, arguments, result: rows.append(len(arguments[0])))
    model.generate(given(model), guidance=2.0, lazy=Lazy(refresh=4, share=0.25, layers=1, warmup=1))
    front = 1 if backbone == "transformer" else 3  # the class as a prefix; for mar two places of the buffer, too
    positions = N if backbone == "transformer" else N + front
    must = 2 if backbone == "transformer" else 2 + 2  # revealed last, and wanted now; the buffer
    lazy_rows = 4 * (must + round(0.25 * (positions - must)))
    assert rows[0] == rows[1] == rows[5] == 2 * 4 * (N + front)
    assert rows[2] == rows[3] == rows[4] == lazy_rows


@pytest.mark.parametrize("backbone", BACKBONES)
def test_an_interval_of_guidance_drops_the_null_half(backbone: str) -> None:
    for options in ({}, {"lazy": Lazy(refresh=2)}, {"cache": False}):
        model = make(backbone)
        heights: list[int] = []
        model.backbone.register_forward_hook(
            lambda module, arguments, result, heights=heights: heights.append(len(arguments[0].embeddings))
        )
        scales: list[float] = []
        guidance = Guidance(scale=3.0, kind="interval", start=0.0, stop=0.3)
        drawn = model.generate(
            given(model), guidance=guidance, on_step=lambda moment, scales=scales: scales.append(moment.guidance), **options
        )
        assert heights[0] == 8
        assert heights[-1] == 4
        assert scales[0] == 3.0
        assert scales[-1] == 1.0
        assert torch.isfinite(drawn.values).all()
        open_ended = make(backbone).generate(given(model), guidance=Guidance(scale=3.0, kind="interval", start=0.0, stop=1.0), **options)
        constant = make(backbone).generate(given(model), guidance=3.0, **options)
        assert torch.equal(open_ended.values, constant.values)


@pytest.mark.parametrize("steps", [5, 16])
def test_linear_guidance_counted_after_the_step_is_that_of_mar(steps: int) -> None:
    """``w_k = 1 + (w - 1) (N - n_k) / N``, where ``n_k = max(1, min(n_{k-1} - 1, floor(N cos(pi/2 (k + 1) / K))))``; the card's rule."""
    scales: list[float] = []
    guidance = Guidance(scale=3.0, kind="linear", counted="after")
    model = make("mar", steps=steps)
    drawn = model.generate(given(model), seed=1, guidance=guidance, on_step=lambda event: scales.append(event.guidance))
    hidden, expected = N, []
    for step in range(steps):
        hidden = max(1, min(hidden - 1, math.floor(N * math.cos(math.pi / 2 * (step + 1) / steps))))
        expected.append(1 + 2 * (N - hidden) / N)
    assert scales == pytest.approx(expected)
    torch.testing.assert_close(model.generate(given(model), seed=1, guidance=guidance, cache=False).values, drawn.values, **CLOSE)


def test_two_stages_change_which_come_when_and_nothing_else() -> None:
    model = make(steps=8)
    moments: list[StepEvent] = []
    model.generate(given(model), detail_steps=2, on_step=moments.append)
    even = LAYOUT.coordinates().sum(1) % 2 == 0
    assert len(moments) == 8
    assert all(not (moment.new & ~even).any() for moment in moments[:6])
    assert all(not (moment.new & even).any() for moment in moments[6:])
    assert moments[-1].known.all()


def test_the_head_receives_the_known_fraction() -> None:
    """What DiSA needs: the share rises from 0, so a head's number of evaluations can fall."""
    model = make()
    model.generate(given(model))
    assert model.head.shares[0] == 0.0
    assert model.head.shares == sorted(model.head.shares)
    assert model.head.shares[-1] < 1.0
    sampling = SamplingConfig(num_inference_steps=50, final_inference_steps=5)
    assert [sampling.num_inference_steps_at(share, 10) for share in (0.0, 0.5, 1.0)] == [50, 28, 5]


def test_raster_goes_with_any_head_and_random_one_by_one_is_masked_in_as_many_steps() -> None:
    raster = make(order="raster")
    drawn = raster.generate(given(raster), seed=2, guidance=2.0)
    torch.testing.assert_close(raster.generate(given(raster), seed=2, guidance=2.0, cache=False).values, drawn.values, **CLOSE)
    model, moments = make(), []
    model.generate(given(model), steps=N, on_step=moments.append)
    assert all(int(moment.new.sum()) == 4 for moment in moments)


def test_misuse_is_refused_in_sentences() -> None:
    model, raster = make(), make(order="raster")
    refused: list[tuple[str, Callable[[], object]]] = [
        ("chooses before it draws: order:", lambda: raster.generate(given(raster), lazy=Lazy())),
        ("chooses positions before it draws", lambda: raster.generate(given(raster), detail_steps=1)),
        ("give one of them", lambda: model.generate(given(model), lazy=Lazy(), cache=False)),
        ("needs order: masked", lambda: make("mar", order="raster")),
    ]
    for reason, attempt in refused:
        with pytest.raises(ValueError, match=reason):
            attempt()
