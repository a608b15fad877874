"""The depth head: an exact chain rule over codebooks, drawn with a cache that changes nothing."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from jielong.config.registry import parse_part
from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.generation.generator import Generator
from jielong.heads.base import HeadContext
from jielong.heads.depth import Depth, DepthHead
from jielong.heads.softmax import filter_logits
from jielong.networks.transformer import Transformer, TransformerConfig
from jielong.orders.raster import RasterOrder

K, V, D = 3, 4, 16
LAYOUT = Layout((6,), K, V)


def make(layers: int = 2, shared: bool = False, layout: Layout = LAYOUT, **settings: float) -> DepthHead:
    torch.manual_seed(0)
    head = DepthHead(D, layout, Depth(layers=layers, width=16, heads=2, shared=shared, **settings))
    for parameter in head.parameters():
        parameter.data += 0.4 * torch.randn(parameter.shape)
    return head.eval()


def all_codes() -> Tensor:
    return torch.tensor(list(itertools.product(range(V), repeat=K)))


def hidden(rows: int = 1, seed: int = 1) -> Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shared", [False, True])
def test_the_probabilities_of_all_tokens_add_up_to_one(shared: bool) -> None:
    head, grid = make(shared=shared), all_codes()
    h = hidden().expand(len(grid), -1)
    log_prob = head.log_prob(h, grid)
    assert float(log_prob.exp().sum().detach()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(head.loss(h, grid) * K, -log_prob)
    each = head.scores(h, grid).log_softmax(-1).gather(-1, grid[..., None])[..., 0].sum(-1)
    torch.testing.assert_close(log_prob, each)


def test_a_codebook_sees_those_before_it_and_no_other() -> None:
    head, codes = make(), torch.tensor([[1, 2, 3]])
    before = head.scores(hidden(), codes)
    for book in range(K):
        other = codes.clone()
        other[0, book] = (other[0, book] + 1) % V
        changed = (head.scores(hidden(), other) != before).any(-1)[0].tolist()
        assert changed == [later > book for later in range(K)]


def test_weights_are_a_codebook_s_own_or_shared() -> None:
    def size(**settings: object) -> int:
        return sum(p.numel() for name, p in Depth.model_validate(settings).build(D, LAYOUT).named_parameters() if "depth.layers" in name)

    assert size(width=16, heads=2) > 2.5 * size(width=16, heads=2, shared=True)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_drawing_with_a_cache_equals_drawing_without(layers: int, guidance: float) -> None:
    """The naive way: all codebooks are computed anew for each, with the same uniform numbers."""
    head, sampling = make(layers), SamplingConfig(temperature=0.8, top_k=3)
    h, null = hidden(10).view(2, 5, D), hidden(10, 2).view(2, 5, D)
    drawn = head.sample(h, PerSampleRNG(3, range(2)), sampling, HeadContext(null, guidance))
    uniform = PerSampleRNG(3, range(2)).uniform(5, K).flatten(0, 1)
    codes, log_prob = torch.zeros(10, K, dtype=torch.long), torch.zeros(10)
    for book in range(K):
        both = [head.scores(rows.flatten(0, 1), codes)[:, book] for rows in (null, h)]
        probability = filter_logits(torch.lerp(both[0], both[1], guidance), sampling).softmax(-1)
        codes[:, book] = (probability.cumsum(-1) <= uniform[:, book, None]).sum(-1)
        log_prob += probability.gather(-1, codes[:, book, None])[:, 0].log()
    assert torch.equal(drawn.values.flatten(0, 1), codes)
    assert drawn.confidence is not None
    torch.testing.assert_close(drawn.confidence.flatten(), log_prob, atol=1e-4, rtol=1e-4)


def test_draws_come_as_often_as_the_likelihood_says() -> None:
    head, grid, count = make(), all_codes(), 20_000
    drawn = head.sample(hidden().expand(1, count, D), PerSampleRNG(0, [0]), SamplingConfig()).values[0]
    number = (drawn * torch.tensor([V * V, V, 1])).sum(-1)
    share = torch.bincount(number, minlength=len(grid)) / count
    expected = head.log_prob(hidden().expand(len(grid), -1), grid).exp()
    assert float((share - expected).abs().max()) < 4 * math.sqrt(0.25 / count)
    assert float(expected.detach().max() / expected.detach().min()) > 5, "the distribution is far from even"


def test_temperature_zero_takes_the_most_likely_code_in_turn() -> None:
    head = make()
    first, second = (
        head.sample(hidden(6).view(1, 6, D), PerSampleRNG(seed, [0]), SamplingConfig(temperature=0.0)).values for seed in (0, 1)
    )
    assert torch.equal(first, second)
    assert torch.equal(first[0, :, 1], head.scores(hidden(6), first[0])[:, 1].argmax(-1))


def test_given_codes_stay_and_later_ones_follow_from_them() -> None:
    head = make()
    h, given = hidden(8).view(1, 8, D), torch.full((1, 8, K), -1)
    given[0, :, 1], given[0, 4:, 1] = 2, V  # code 2, and "nothing"
    drawn = head.sample(h, PerSampleRNG(3, [0]), SamplingConfig(temperature=0.0), HeadContext(given=given)).values
    assert torch.equal(drawn[..., 1], given[..., 1])
    assert torch.equal(drawn[0, :, 2], head.scores(h[0], drawn[0])[:, 2].argmax(-1))
    free = head.sample(h, PerSampleRNG(3, [0]), SamplingConfig(temperature=0.0)).values
    assert torch.equal(free[..., 0], drawn[..., 0])


def test_missing_codes_have_no_loss() -> None:
    head, codes = make(), torch.tensor([[1, 2, 3], [1, 2, V], [V, 2, V]])
    h = hidden(3)
    each = -head.scores(h, codes).log_softmax(-1)
    expected = [each[0, [0, 1, 2], [1, 2, 3]].mean(), each[1, [0, 1], [1, 2]].mean(), each[2, 1, 2]]
    torch.testing.assert_close(head.loss(h, codes), torch.stack(expected))


def test_the_first_codebook_may_weigh_more() -> None:
    plain, heavy, codes = make(), make(first_weight=98.0), torch.tensor([[1, 2, 3]])
    each = -plain.scores(hidden(), codes).log_softmax(-1)[0, range(K), [1, 2, 3]]
    torch.testing.assert_close(heavy.loss(hidden(), codes)[0], (98 * each[0] + each[1] + each[2]) / 100)
    assert heavy.nats_a_value(1.0) is None
    assert plain.nats_a_value(1.0) == 1.0


@pytest.mark.parametrize("layout", [Layout((4,), 2, 5), Layout((2, 2), 3, 5), Layout((4,), 1, 5)])
def test_codebooks_that_depend_on_each_other_are_learned_in_one_step(layout: Layout) -> None:
    """Later codebooks follow from the first, on a line and in a picture: nothing but the first is left to guess."""
    torch.manual_seed(0)
    head = Depth(layers=1, width=32, heads=2).build(32, layout)
    model = Generator(layout, RasterOrder(), Transformer(TransformerConfig(layers=1, width=32, heads=2), axes=len(layout.grid)), head)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses, books = [], torch.arange(layout.channels)
    for step in range(120):
        first = torch.randint(0, 5, (32, 4, 1), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss = model.loss(Tokens((first + 2 * books) % 5, layout))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(math.log(5), abs=1e-5)
    assert sum(losses[-10:]) / 10 - math.log(5) / layout.channels < 0.06
    generated = model.eval().generate(count=3, seed=1).values
    assert float((generated == (generated[..., :1] + 2 * books) % 5).float().mean()) > 0.95


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="needs discrete tokens"):
        DepthHead(D, Layout((4,), 3))
    with pytest.raises(Exception, match="width 10 must be a multiple of heads 4"):
        parse_part("head", {"depth": {"width": 10}})
