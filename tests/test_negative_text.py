"""A negative text takes the place of the null condition in guidance."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from jielong.autoencoders.convolutional import Convolutional
from jielong.conditions.base import registered_inputs
from jielong.conditions.inputs import InputError
from jielong.config.recipe import parse
from jielong.config.sampling import SamplingConfig
from jielong.media.kinds.image import image_medium
from jielong.system import System, build_generator, build_tokenizer
from jielong.system.options import GenerateOptions, SamplingOptions
from jielong.tokenizers.kl import KL

TEXT = "text: {encoder: bytes, length: 16, width: 8}"
RECIPE = """\
data: {size: 8}
tokenizer: {pixels: {levels: 4}}
order: {masked: {choose: random}}
backbone: {transformer: {layers: 1, width: 16, heads: 2}}
condition: CONDITION
head: HEAD
sampling: {steps: 3, guidance: 2}
train: {samples: 8}
"""
CODES, NUMBERS = "softmax", "{diffusion: {steps: 3, network: {mlp: {layers: 1, width: 16}}}}"


def system(condition: str = f"{{{TEXT}}}", head: str = CODES) -> System:
    """A generator with initial weights, made large enough that the condition matters."""
    recipe, medium = parse(RECIPE.replace("HEAD", head).replace("CONDITION", condition)), image_medium(3, (8, 8))
    torch.manual_seed(0)
    small = Convolutional(channels=(8,), blocks=(0,))  # 2 x 2 tokens
    tokenizer = build_tokenizer(recipe, medium) if head == CODES else KL(dim=4, autoencoder=small).build(medium, {})
    generator = build_generator(recipe, tokenizer, ("red", "blue"))
    for name, weights in generator.named_parameters():
        if "norm" not in name:
            weights.data = weights.data + 0.2 * torch.randn_like(weights)
    return System("toy", recipe, tokenizer.eval(), generator.eval())


def drawn(model: System, text: Sequence[str] = ("a cat", "two dogs"), **options: object) -> Tensor:
    return model.generate(list(text), seed=3, **options).tensor


@pytest.mark.parametrize("head", [CODES, NUMBERS], ids=["codes", "numbers"])
def test_an_empty_text_is_the_null_bit_for_bit(head: str) -> None:
    model = system(head=head)
    plain = drawn(model)
    for empty in ("", ["", ""], None):
        assert torch.equal(drawn(model, negative_text=empty), plain)
    assert not torch.equal(drawn(model, negative_text="rain"), plain)


@pytest.mark.parametrize("head", [CODES, NUMBERS], ids=["codes", "numbers"])
@pytest.mark.parametrize("scale", [0.0, 3.0, "linear"])
def test_the_same_text_on_both_sides_is_the_unguided_draw(head: str, scale: float | str) -> None:
    model, texts = system(head=head), ["a cat", "two dogs and a long tail"]
    guidance = {"scale": 4.0, "kind": "linear"} if scale == "linear" else scale
    both = drawn(model, texts, negative_text=texts, guidance=guidance)
    torch.testing.assert_close(both, drawn(model, texts, guidance=1.0), atol=1e-3, rtol=0)
    assert not torch.allclose(both, drawn(model, texts, guidance=guidance), atol=1e-2)


def test_at_scale_zero_the_draw_is_that_of_the_negative_text() -> None:
    model = system(head=NUMBERS)
    found = drawn(model, negative_text=["rain", "snow"], guidance=0.0)
    torch.testing.assert_close(found, drawn(model, ["rain", "snow"], guidance=1.0), atol=1e-3, rtol=0)


def test_one_text_serves_all_items_and_an_empty_one_among_others_is_the_null() -> None:
    model = system(head=NUMBERS)
    assert torch.equal(drawn(model, negative_text="rain"), drawn(model, negative_text=["rain", "rain"]))
    mixed = drawn(model, negative_text=["", "rain"])
    torch.testing.assert_close(mixed[0], drawn(model)[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(mixed[1], drawn(model, negative_text="rain")[1], atol=1e-3, rtol=0)
    several = model.generate(["a cat"], count=2, negative_text=["rain", "snow"], seed=3)
    assert several.captions == ["a cat"] * 4


def test_other_conditions_are_the_same_on_both_sides() -> None:
    model = system(f"{{composite: {{parts: {{{TEXT}, class: {{width: 8}}}}, width: 8}}}}", NUMBERS)
    found = drawn(model, classes=["red", "blue"], negative_text=["rain", "snow"], guidance=0.0)
    torch.testing.assert_close(found, drawn(model, ["rain", "snow"], classes=["red", "blue"], guidance=1.0), atol=1e-3, rtol=0)


def test_it_is_refused_where_it_means_nothing() -> None:
    model = system()
    with pytest.raises(InputError, match="`negative_text` is what guidance leads away from, and guidance is off"):
        drawn(model, negative_text="rain", guidance=1.0)
    with pytest.raises(InputError, match="give `text` too") as refused:
        model.generate(negative_text="rain", count=2)
    assert "--negative-text is what guidance leads away from, towards a text: give --text too" in refused.value.on_command_line()
    with pytest.raises(InputError, match="`text`: expected 1 or 3 values, got 2"):
        drawn(model, negative_text=["rain", "snow", "hail"])
    with pytest.raises(InputError, match="takes `classes`, not `negative_text`"):
        system("{class: {width: 8}}").generate(classes="red", negative_text="rain")
    with pytest.raises(InputError, match="takes `text`, not `negative_text`"):  # which is spoken
        system("{characters: {width: 8}}").generate("a", negative_text="rain")


def test_the_shared_arguments_are_those_that_there_are() -> None:
    assert set(SamplingOptions.__annotations__) == set(SamplingConfig.model_fields)
    inputs = {each.keyword for each in registered_inputs().values()} - {"text", "classes"}
    assert inputs <= set(GenerateOptions.__annotations__)
