"""Texts told position by position: exact lengths, no padding felt, any order, and lengths of their own where none are asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from jielong.backbones.none import NoBackbone
from jielong.backbones.transformer import Transformer
from jielong.conditions.characters import Characters
from jielong.conditions.composite import Composite
from jielong.conditions.length import Length
from jielong.conditions.voice import Recording, Voice, VoiceCondition
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.generation.generator import Generator
from jielong.heads.flow_matching import FlowMatching
from jielong.heads.gaussian_mixture import GaussianMixture
from jielong.heads.softmax import Softmax
from jielong.networks.dit import DiT
from jielong.networks.monotonic_alignment import MonotonicAlignment
from jielong.orders.at_once import AtOnce
from jielong.orders.masked import Masked
from jielong.orders.raster import Raster

N = 12
NUMBERS, CODES = Layout((N,), channels=2), Layout((N,), channels=2, vocabulary=5)
JOINT = FlowMatching(network=DiT(layers=1, width=16, heads=2, kernel=3), steps=3, diffusion_batch_mul=1)
TEXTS, LENGTHS = ["abc", "a bit more", "x"], [5, 12, 3]
CASES: dict[str, tuple[Any, Any, Any, Layout]] = {
    "at once": (AtOnce(), NoBackbone(width=16), JOINT, NUMBERS),
    "at once, transformer": (AtOnce(), Transformer(layers=1, width=16, heads=2, condition="adaln"), JOINT, NUMBERS),
    "raster": (Raster(), Transformer(layers=1, width=16, heads=2), GaussianMixture(components=2), NUMBERS),
    "masked": (Masked(steps=3), Transformer(layers=1, width=16, heads=2), Softmax(), CODES),
}
EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
HOW = pytest.mark.parametrize("aligned", ["even", "search"])


def built(case: tuple[Any, Any, Any, Layout], aligned: Any, beside: Any = None, drop: float = 0.1) -> Generator:
    torch.manual_seed(0)
    order, backbone, head, layout = case
    text: Any = Characters(width=8, layers=1, heads=2, aligned=aligned, cfg_dropout=drop)
    condition = (text if beside is None else Composite(parts=(text, beside), width=8)).build()
    chain = order.build()
    model = Generator(layout, chain, backbone.build(layout, 8), head.build(16, layout), condition, chain.embedding(None, 16))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def tokens(layout: Layout, filler: float = 0) -> Tokens:
    generator = torch.Generator().manual_seed(1)
    shape = (3, N, layout.channels)
    values = torch.randint(5, shape, generator=generator) if layout.discrete else torch.randn(shape, generator=generator)
    behind = torch.arange(N) >= torch.tensor(LENGTHS)[:, None]
    return Tokens(values.masked_fill(behind[..., None], filler), layout, torch.tensor(LENGTHS))


def loss_of(model: Generator, given: Tokens, texts: Any = TEXTS) -> Tensor:
    assert model.condition is not None
    torch.manual_seed(5)
    return model.loss(given, model.condition.prepare(texts), PerSampleRNG(0, range(len(given))))


@EACH
@HOW
def test_everything_learns(case: Any, aligned: str) -> None:
    model = built(case, aligned).train()
    loss_of(model, tokens(case[3])).backward()  # type: ignore[no-untyped-call]
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert unused <= {"condition.null", "placeholder"}


@EACH
@HOW
def test_padding_has_no_effect(case: Any, aligned: str) -> None:
    model = built(case, aligned)
    torch.testing.assert_close(loss_of(model, tokens(case[3])), loss_of(model, tokens(case[3], filler=4)))


@EACH
@HOW
def test_given_lengths_are_met_in_any_batch_and_without_a_cache(case: Any, aligned: str) -> None:
    model = built(case, aligned)
    options: dict[str, Any] = {"lengths": LENGTHS, "guidance": 2.0, "seed": 4}
    drawn = model.generate(TEXTS, **options)
    assert drawn.lengths is not None
    assert drawn.lengths.tolist() == LENGTHS
    for other in ({"batch": 1}, {"cache": False}):
        torch.testing.assert_close(model.generate(TEXTS, **options, **other).values, drawn.values, rtol=1e-4, atol=1e-4)
    alone = model.generate(TEXTS[:1], **options | {"lengths": LENGTHS[:1]})
    torch.testing.assert_close(alone.values[0], drawn.values[0], rtol=1e-4, atol=1e-4)


@HOW
def test_the_text_is_aligned_in_its_order(aligned: str) -> None:
    """Two texts that begin alike: what is drawn at the end differs more than what is drawn at the beginning."""
    model = built(CASES["at once"], aligned)
    one, other = model.generate(["aaaaaa", "aaaabb"], lengths=[N, N], seed=1).values
    same = model.generate(["aaaaaa", "aaaaaa"], lengths=[N, N], seed=1).values
    assert float((one - other).abs().max()) > 1e-2
    assert float((same[1] - same[0]).abs().max()) > 0  # of another seed
    conditioning = model.condition(model.condition.prepare(["ab"]))  # type: ignore[misc, union-attr]
    inputs = model.durations.inputs(conditioning, torch.tensor([N]), model.plan)
    assert inputs is not None
    assert inputs.shape == (1, N, 16)


def test_lengths_of_their_own() -> None:
    model = built(CASES["at once"], "even")
    assert model.durations.regulator is not None
    model.durations.regulator.fit(torch.tensor([3, 4, 5]), torch.tensor([3, 5, 7]))  # states, of which two are edges
    drawn = model.generate(["a", "abc", "abcdefghijkl"])
    assert drawn.lengths is not None
    assert drawn.lengths.tolist() == [3, 7, N]
    whole = model.generate(count=2)
    assert whole.lengths is None
    assert bool(whole.values[:, -1].any())


@HOW
def test_a_text_beside_a_length(aligned: Any) -> None:
    model = built(CASES["at once"], aligned, Length(width=8))
    conditions = [{"characters": text, "length": 0.5} for text in TEXTS]
    assert bool(loss_of(model.train(), tokens(NUMBERS), conditions).isfinite())
    drawn = model.eval().generate(conditions, lengths=LENGTHS, guidance=3.0)
    assert drawn.values.shape == (3, N, 2)
    mute = [{"characters": "a"}, {"length": 1.0}, {"characters": "b"}]
    assert bool(loss_of(model, tokens(NUMBERS), mute).isfinite())
    assert model.generate(mute, lengths=LENGTHS).values.shape == (3, N, 2)


def test_a_voice_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though conditions are read twice where texts say how long they last."""
    model, calls = built(CASES["at once"], "even", Voice(width=8)), 0

    def hear(self: VoiceCondition, waveforms: list[Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.ones(len(waveforms), 256) / 16

    monkeypatch.setattr(VoiceCondition, "encode", hear)
    recording = Recording(torch.ones(1, 16_000), 16_000)
    drawn = model.generate([{"characters": "abc", "voice": recording}])
    assert calls == 1
    assert torch.equal(drawn.values, model.generate([{"characters": "abc", "voice": torch.ones(256) / 16}]).values)


def test_symbols_of_zero_duration_act_through_their_neighbours_alone() -> None:
    model = built(CASES["at once"], "even")
    condition: Any = model.condition
    plain, spaced = condition(condition.prepare(["ab"])).aligned_states, condition(condition.prepare(["a b"])).aligned_states
    assert plain.mask.sum() == spaced.mask.sum() == condition.count_aligned(["a b"])[0] == 4
    assert float((plain.states[0, 1] - spaced.states[0, 1]).abs().max().detach()) > 1e-4
    both = condition(condition.prepare(["(a b)c", "ab"])).aligned_states
    assert both.mask.tolist() == [[True] * 5, [True] * 4 + [False]]
    torch.testing.assert_close(both.states[1, :4], plain.states[0])
    torch.testing.assert_close(both.states[1, [0, 3]], condition.edges)


def test_a_dropped_text_says_the_same_everywhere() -> None:
    model = built(CASES["at once"], "even", drop=0.5)
    assert model.condition is not None
    given = model.condition(model.condition.prepare(TEXTS), torch.tensor([True, False, True]))
    assert given.aligned_states is not None
    assert given.aligned_states.mask.sum(1).tolist() == [1, 10, 1]
    nothing = model.condition.unconditional(1)
    assert nothing.aligned_states is not None
    torch.testing.assert_close(given.aligned_states.states[0, 0], nothing.aligned_states.states[0, 0])


def test_trimming_to_the_longest_item_changes_nothing() -> None:
    model, given = built(CASES["raster"], "even"), tokens(NUMBERS)
    short = [5, 6, 3]
    cut = Tokens(given.values, NUMBERS, torch.tensor(short))
    together = loss_of(model, cut)
    padded = torch.stack(
        [loss_of(model, Tokens(given.values[i : i + 1], NUMBERS, torch.tensor(short[i : i + 1])), TEXTS[i : i + 1]) for i in range(3)]
    )
    torch.testing.assert_close(together, padded.mean())


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("case", ["at once", "raster", "masked"])
def test_the_text_of_a_given_beginning_lasts_as_long_as_the_beginning(case: str, guidance: float) -> None:
    """Every symbol guesses a token of its own, surely; the symbols of the given part are found in it, and the others share the rest."""
    model = built(CASES[case], "search")
    stretch, layout = model.durations.regulator, CASES[case][3]
    assert isinstance(stretch, MonotonicAlignment)
    assert model.condition is not None
    along = model.condition(model.condition.prepare(["abc"])).aligned_states  # five states, with the edges
    assert along is not None
    if layout.discrete:
        states, guesses = torch.arange(5)[:, None].expand(5, 2), 20 * torch.eye(5).repeat(1, 2)
    else:
        states = guesses = 9 * torch.randn(5, 2, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        stretch.emission.bias.zero_()
        stretch.emission.weight.copy_((torch.linalg.pinv(along.states[0]) @ guesses).mT)
    symbols = torch.tensor([0, 1, 1, 1, 1, 2, 3, 3, 4, 4, 4, 4])
    known = torch.arange(N) < 7
    calls: list[Tensor] = []
    stretch.register_forward_hook(lambda _, given, __: calls.append(given[1]))
    start = Tokens(states[symbols][None], layout)
    drawn = model.generate(["abc"], start=start, known=known, guidance=guidance)
    torch.testing.assert_close(drawn.values[:, known], start.values[:, known])
    before, durations = calls[0][0], calls[-1][0]
    assert not torch.allclose(before[:3], torch.tensor([1.0, 4.0, 1.0]), atol=0.1)
    torch.testing.assert_close(durations[:3], torch.tensor([1.0, 4.0, 1.0]))
    assert float(durations[3]) >= 1
    assert float(durations[4]) > 0
    torch.testing.assert_close(calls[-1].sum(1), torch.full((len(calls[-1]),), float(N)))


def test_a_picture_has_no_line_to_stretch_over() -> None:
    grid = replace(NUMBERS, grid=(3, 4), axes=("rows", "columns"))
    with pytest.raises(ValueError, match="lengths are along time alone"):
        built((AtOnce(), NoBackbone(width=16), FlowMatching(network=DiT(layers=1, width=16, heads=2)), grid), "even")
