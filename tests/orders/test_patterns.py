"""Patterns: the layouts of the paper, built and undone exactly, and what can be learned in them and what cannot."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from transformers import MusicgenForCausalLM
from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig

from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.generation.generator import Generator
from jielong.generation.plan import SequencePlan
from jielong.heads.base import Head
from jielong.heads.depth import Depth
from jielong.heads.logistic_mixture import LogisticMixture
from jielong.heads.softmax import Softmax, SoftmaxHead
from jielong.networks.transformer import Transformer, TransformerConfig
from jielong.orders.base import Order
from jielong.orders.coarse_to_fine import CoarseToFine, CoarseToFineOrder
from jielong.orders.patterns import Pattern, coarse_first, delay, flatten, level_by_level
from jielong.orders.raster import Raster, RasterOrder

PATTERNS: dict[str, Callable[[Layout], Pattern]] = {
    "delay": lambda layout: delay(layout, range(layout.channels)),
    "flatten": flatten,
    "coarse first": coarse_first,
    "level by level": level_by_level,
}
ORDERS: dict[str, Callable[[], Order]] = {
    "parallel": RasterOrder,
    "delay": lambda: Raster(pattern="delay").build(),
    "flatten": lambda: Raster(pattern="flatten").build(),
    "coarse_first": lambda: Raster(pattern="coarse_first").build(),
    "levels": CoarseToFineOrder,
}


def codes(layout: Layout, batch: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, layout.vocabulary or 1, (batch, layout.positions, layout.channels), generator=generator)


def test_the_grids_are_those_of_the_paper() -> None:
    """T = 4, K = 3 with codes 1 to 4 in each codebook; S is nothing. The empty step before all others is our placeholder."""
    layout = Layout((4,), 3, 9)
    values = torch.arange(1, 5)[None, :, None].expand(1, -1, 3)

    def grid(pattern: Pattern) -> list[str]:
        return ["".join("S" if code == 9 else str(code) for code in row) for row in pattern.build(values)[0].T.tolist()]

    assert grid(delay(layout, range(3))) == ["1234SS", "S1234S", "SS1234"]
    assert grid(delay(layout, [0, 1, 1])) == ["1234S", "S1234", "S1234"]
    assert grid(delay(layout, [0, 0, 0])) == ["1234"] * 3
    assert grid(flatten(layout)) == ["1SS2SS3SS4SS", "S1SS2SS3SS4S", "SS1SS2SS3SS4"]
    assert grid(coarse_first(layout)) == ["1234SSSS", "SSSS1234", "SSSS1234"]
    assert grid(level_by_level(layout)) == ["1234SSSSSSSS", "SSSS1234SSSS", "SSSSSSSS1234"]


@pytest.mark.parametrize("books", [2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 3, 9])
@pytest.mark.parametrize("name", PATTERNS)
def test_build_then_undo_changes_nothing(name: str, count: int, books: int) -> None:
    layout = Layout((count,), books, 11)
    pattern, values = PATTERNS[name](layout), codes(layout)
    built = pattern.build(values)
    assert built.shape[1:] == (pattern.layout.positions, books)
    assert torch.equal(pattern.undo(built), values)
    assert int((built != 11).sum()) == values.numel()
    steps = {"delay": count + books - 1, "coarse first": 2 * count}
    assert pattern.layout.positions == steps.get(name, books * count)


@pytest.mark.parametrize("name", ["flatten", "coarse first", "level by level"])
def test_pictures_can_be_arranged_too(name: str) -> None:
    layout = Layout((2, 3), 4, 5)
    pattern, values = PATTERNS[name](layout), codes(layout)
    assert torch.equal(pattern.undo(pattern.build(values)), values)
    places = pattern.layout.coordinates()
    assert len(set(map(tuple, places.tolist()))) == len(places) == pattern.layout.positions


@pytest.mark.parametrize(("count", "books"), [(6, 4), (5, 2), (9, 3)])
def test_delays_equal_those_of_transformers(count: int, books: int) -> None:
    config = MusicgenDecoderConfig(
        vocab_size=16, num_hidden_layers=1, hidden_size=8, ffn_dim=8, num_attention_heads=1, num_codebooks=books, audio_channels=1
    )
    model = MusicgenForCausalLM(config)
    layout = Layout((count,), books, 16)
    values = codes(layout)
    start = torch.full((2 * books, 1), 16)  # the first column is the start of the chain
    longest = count + books  # a column of starts, and T + K - 1 steps
    _, mask = model.build_delay_pattern_mask(start, pad_token_id=16, max_length=longest)
    pattern = delay(layout, range(books))
    ours = torch.cat([torch.full((2, 1, books), 16), pattern.build(values)], dim=1).transpose(1, 2).flatten(0, 1)  # (B K, 1 + steps)
    assert torch.equal(model.apply_delay_pattern_mask(ours, mask), ours), "nothing stands where their mask has the start token"
    assert torch.equal((mask == -1)[:, 1:], (ours != 16)[:, 1:])


@pytest.mark.parametrize("name", ORDERS)
def test_a_step_sees_what_was_arranged_before_it_and_nothing_else(name: str) -> None:
    """In ``delay``, ``(t, q)`` sees ``(t', q')`` exactly if ``t' + d_q' < t + d_q``; in the others, if its block comes earlier."""
    layout = Layout((4,), 3, 7)
    torch.manual_seed(0)
    model = make(name, layout).eval()
    plan, values = model.plan, codes(layout, 1)
    step_of = plan.pattern.steps_of if plan.pattern is not None else torch.arange(4)[:, None].expand(-1, 3)
    before = hidden_of(model, values)
    for time in range(4):
        for book in range(3):
            other = values.clone()
            other[0, time, book] = (other[0, time, book] + 1) % 7
            changed = (hidden_of(model, other) != before).any(-1)[0]
            assert torch.equal(changed, plan.blocks > plan.blocks[step_of[time, book]]), (time, book)


def make(name: str, layout: Layout, head: Head | None = None, width: int = 32) -> Generator:
    order = ORDERS[name]()
    arranged = SequencePlan.of(order, layout).layout
    backbone = Transformer(TransformerConfig(layers=2, width=width, heads=2), axes=len(arranged.grid))
    model = Generator(layout, order, backbone, head or Softmax().build(width, layout))
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def test_further_codebooks_take_their_most_likely_codes_unless_they_are_drawn() -> None:
    layout = Layout((5,), 3, 7)
    model = make("levels", layout).eval()
    assert isinstance(model.head, SoftmaxHead)

    def most_likely_of(drawn: Tokens) -> torch.Tensor:
        scores = model.head.scores(hidden_of(model, drawn.values)).unflatten(1, (3, 5))  # a row a codebook
        return torch.stack([scores[:, book, :, book].argmax(-1) for book in range(3)], dim=-1)

    greedy = model.eval().generate(count=8, seed=1)
    most_likely = most_likely_of(greedy)
    assert torch.equal(greedy.values[..., 1:], most_likely[..., 1:])
    assert not torch.equal(greedy.values[..., 0], most_likely[..., 0])
    model.order = CoarseToFine(greedy=False).build()
    drawn = model.eval().generate(count=8, seed=1)
    assert torch.equal(drawn.values[..., 0], greedy.values[..., 0])
    assert not torch.equal(drawn.values[..., 1:], most_likely_of(drawn)[..., 1:])


def test_only_codes_that_there_are_cost_logits() -> None:
    torch.manual_seed(0)
    head = Softmax().build(8, Layout((5,), 3, 7))
    torch.nn.init.normal_(head.logits.weight)
    hidden, targets = torch.randn(20, 8, requires_grad=True), torch.randint(0, 8, (20, 3))  # 7 is no code
    targets[0] = 7
    losses = head.loss(hidden, targets)
    present, each = targets != 7, -head.scores(hidden).log_softmax(-1).gather(-1, targets.clamp_max(6)[..., None])[..., 0]
    wanted = (each * present).sum(-1) / present.sum(-1).clamp_min(1)
    torch.testing.assert_close(losses, wanted)
    weights = torch.randn(20)
    ours = torch.autograd.grad((losses * weights).sum(), [hidden, head.logits.weight])
    theirs = torch.autograd.grad((wanted * weights).sum(), [hidden, head.logits.weight])
    torch.testing.assert_close(ours, theirs)


def hidden_of(model: Generator, values: torch.Tensor) -> torch.Tensor:
    kept: list[torch.Tensor] = []
    handle = model.backbone.register_forward_hook(lambda module, arguments, result: kept.append(result.detach()))
    model.loss(Tokens(values, model.layout))
    handle.remove()
    return kept[0]


@pytest.mark.parametrize("head", ["softmax", "depth"])
@pytest.mark.parametrize("name", ORDERS)
def test_an_untrained_head_guesses_evenly(name: str, head: str) -> None:
    """Zero weights: ln V at every code, padding and nothing left out."""
    layout = Layout((5,), 3, 7)
    order = ORDERS[name]()
    arranged = SequencePlan.of(order, layout).layout
    built = Softmax().build(16, layout) if head == "softmax" else Depth(layers=1, width=8, heads=1).build(16, layout)
    model = Generator(layout, order, Transformer(TransformerConfig(layers=1, width=16, heads=2), axes=len(arranged.grid)), built)
    given = Tokens(codes(layout), layout, torch.tensor([5, 2]))
    torch.testing.assert_close(float(model.loss(given).detach()), math.log(7), rtol=1e-6, atol=0)


@pytest.mark.parametrize("head", ["softmax", "depth"])
@pytest.mark.parametrize("name", ORDERS)
def test_the_cache_the_batch_and_padding_change_no_draw(name: str, head: str) -> None:
    layout = Layout((5,), 3, 7)
    torch.manual_seed(0)
    model = make(name, layout, Depth(layers=1, width=8, heads=1).build(32, layout) if head == "depth" else None).eval()
    lengths = [5, 2, 3, 1]
    generated = model.eval().generate(count=4, seed=4, lengths=lengths)
    assert generated.values.shape == (4, 5, 3)
    assert 0 <= int(generated.values.min()) <= int(generated.values.max()) < 7
    for options in ({"cache": False}, {"batch": 1}, {"batch": 3}):
        other = model.eval().generate(count=4, seed=4, lengths=lengths, **options)  # type: ignore[arg-type]
        assert torch.equal(other.values, generated.values), options
    rubbish = generated.values.masked_fill((torch.arange(5) >= torch.tensor(lengths)[:, None])[..., None], 10**6)
    loss = model.loss(generated)
    assert torch.equal(loss, model.loss(Tokens(rubbish, layout, generated.lengths)))
    alone = [model.loss(Tokens(generated.values[i : i + 1], layout, torch.tensor(lengths[i : i + 1]))) for i in range(4)]
    torch.testing.assert_close(loss, torch.stack(alone).mean())


@pytest.mark.parametrize("name", ORDERS)
def test_known_positions_are_kept(name: str) -> None:
    """A prompt's tail is not known at the first steps of delayed codebooks: those are drawn, and nothing of it is overwritten."""
    layout = Layout((6,), 3, 7)
    torch.manual_seed(0)
    model = make(name, layout).eval()
    start, known = Tokens(codes(layout), layout), torch.arange(6) < 2
    generated = model.eval().generate(count=2, seed=1, start=start, known=known)
    assert torch.equal(generated.values[:, :2], start.values[:, :2])
    naive = model.eval().generate(count=2, seed=1, start=start, known=known, cache=False)
    assert torch.equal(generated.values, naive.values)
    steps: list[int] = []
    model.eval().generate(count=2, start=start, known=known, on_step=lambda moment: steps.append(int(moment.known[0].sum())))
    assert len(steps) == {"parallel": 4, "delay": 6, "flatten": 12, "coarse_first": 8, "levels": 6}[name]
    assert steps == sorted(steps)
    assert steps[-1] == 6


@pytest.mark.parametrize("name", ORDERS)
def test_the_second_codebook_follows_from_the_first_where_the_pattern_lets_it(name: str) -> None:
    """q1 = f(q0), q0 random: an order that draws both at once keeps ln V of q1; all others come near 0 (optimum: ln V / 2 a code)."""
    layout = Layout((3,), 2, 4)
    torch.manual_seed(0)
    model = make(name, layout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for step in range(150):
        first = torch.randint(0, 4, (48, 3, 1), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss = model.loss(Tokens(torch.cat([first, (3 * first + 1) % 4], dim=-1), layout), rng=PerSampleRNG(step, range(48)))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    excess = sum(losses[-10:]) / 10 - math.log(4) / 2
    if name == "parallel":
        assert excess > 0.9 * math.log(4) / 2
    else:
        assert excess < 0.05


@pytest.mark.parametrize("name", ["parallel", "delay", "flatten", "levels"])
def test_with_likelihoods_of_all_codes_the_chain_sums_to_one(name: str) -> None:
    """T = 2, K = 2, V = 2: the probabilities of all 16 token grids, by the loss (the mean of 4 codes' nats), add up to 1."""
    layout = Layout((2,), 2, 2)
    torch.manual_seed(0)
    model = make(name, layout).eval()
    grids = torch.tensor([[(n >> bit) & 1 for bit in range(4)] for n in range(16)]).view(16, 2, 2)
    total = sum(math.exp(-4 * float(model.loss(Tokens(grid[None], layout)).detach())) for grid in grids)
    assert total == pytest.approx(1, abs=1e-5)


def test_impossible_pairings_are_refused() -> None:
    numbers, single, pictures, deep = Layout((4,), 3), Layout((4,), 1, 7), Layout((2, 2), 3, 7), Layout((4,), 3, 7)
    for layout, words in ((numbers, "is continuous"), (single, "has one codebook")):
        with pytest.raises(ValueError, match=words):
            SequencePlan.of(Raster(pattern="flatten").build(), layout)
        with pytest.raises(ValueError, match=words):
            SequencePlan.of(CoarseToFineOrder(), layout)
    with pytest.raises(ValueError, match="delay needs 1-D tokens"):
        SequencePlan.of(Raster(pattern="delay").build(), pictures)
    with pytest.raises(ValueError, match="delays needs 3 numbers, one per codebook"):
        SequencePlan.of(Raster(pattern="delay", delays=(0, 1)).build(), deep)
    backbone = Transformer(TransformerConfig(layers=1, width=16, heads=2), axes=1)
    with pytest.raises(ValueError, match="take the head softmax or depth"):
        Generator(deep, Raster(pattern="delay").build(), backbone, LogisticMixture().build(16, deep))
