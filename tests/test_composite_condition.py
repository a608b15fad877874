"""Several conditions in a recipe: built, trained, kept, and asked for by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from jielong.config.recipe import parse
from jielong.config.schema import Recipe
from jielong.media.kinds.image import image_medium
from jielong.system import DESCRIPTION, System, build_generator, build_tokenizer, describe, load
from jielong.system.inputs import gather
from jielong.training.checkpoint import save_checkpoint

MEDIA = image_medium(1, (4, 4))
RECIPE = """\
data: {size: 4}
tokenizer: pixels
condition:
  composite:
    parts: {characters: {width: 8, layers: 1, heads: 2}, class: {width: 4}, length: {width: 4, cfg_dropout: 0}, voice: {width: 4}}
    width: 8
order: raster
backbone: {transformer: {layers: 1, width: 16, heads: 2}}
head: softmax
train: {samples: 8}
"""


def make(recipe: Recipe) -> System:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(recipe, MEDIA).eval()
    generator = build_generator(recipe, tokenizer, ["cat", "dog"]).eval()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    return System("toy", recipe, tokenizer, generator)


def test_composite_checkpoint_round_trip(tmp_path: Path) -> None:
    system = make(parse(RECIPE))
    assert system.generator is not None
    save_checkpoint(tmp_path, system.generator, system.recipe.to_yaml())
    (tmp_path / DESCRIPTION).write_text(json.dumps(describe(MEDIA, ["cat", "dog"], system.tokenizer, system.generator)))
    back = load(str(tmp_path))
    assert back.recipe == system.recipe
    inputs = {"text": ["hi", "Hello!"], "classes": "dog", "seconds": 2.0, "voice": torch.ones(256) / 16}
    assert torch.equal(back.generate(**inputs, seed=3).tensor, system.generate(**inputs, seed=3).tensor)
    assert [picture.caption for picture in back.generate(**inputs)] == ["hi", "Hello!"]


def test_values_are_routed_to_each_part() -> None:
    system = make(parse(RECIPE))
    found = gather(system, {"text": ["a", "b"], "classes": "dog", "seconds": [1.0, 2.5]}, 2, 0)
    assert found.conditions == [
        {"characters": text, "class": "dog", "length": seconds} for text, seconds in (("a", 1.0), ("a", 1.0), ("b", 2.5), ("b", 2.5))
    ]
    assert found.captions == ["a", "a", "b", "b"]
    assert found.durations == [1.0, 1.0, 2.5, 2.5]
    with pytest.raises(ValueError, match=r"^`seconds`: expected 1 or 3 values, got 2$"):
        system.generate(text=["a", "b", "c"], seconds=[1, 2])
    with pytest.raises(ValueError, match=r"^this model needs a duration: pass `seconds`$"):
        system.generate(text="a")
    plain = make(parse(RECIPE.replace("\n".join(RECIPE.splitlines()[2:6]), "condition: {characters: {width: 8, layers: 1, heads: 2}}")))
    assert plain.inputs == ("text",)
    assert len(plain.generate(text="a", count=2)) == 2
    with pytest.raises(ValueError, match="takes `text`, not `voice`"):
        plain.generate(voice="x.wav")


def test_parts_are_dropped_independently() -> None:
    system = make(parse(RECIPE))
    generator = system.generator
    assert generator is not None
    generator.train()
    tokens = system.encode(torch.rand(4, 1, 4, 4) * 2 - 1)
    assert generator.condition is not None
    values = [{"characters": "ab", "class": 0, "length": 1.0, "voice": torch.ones(256) / 16}] * 4
    generator.loss(tokens, generator.condition.prepare(values)).backward()
    learned = {name.split(".")[2] for name, p in generator.named_parameters() if name.startswith("condition.parts") and p.grad is not None}
    assert learned == {"characters", "class", "length", "voice"}
