"""Autoguidance of whole systems."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from jielong.config.recipe import parse
from jielong.media.kinds.image import image_medium
from jielong.system import System, build_generator
from jielong.system.autoguidance import autoguided
from jielong.tokenizers.base import Tokenizer
from jielong.tokenizers.kl import KL

TEXT = """
data: {size: 8}
tokenizer: {pixels: {}}
order: at_once
condition: {class: {width: 8}}
backbone: {none: {width: 8}}
head: {flow_matching: {network: {dit: {layers: 1, width: 8, heads: 2}}, steps: 3}}
train: {samples: 8}
"""


def tokenizer_of(seed: int) -> Tokenizer:
    torch.manual_seed(seed)
    return KL().build(image_medium(3, (8, 8)), {}).eval()


def system_of(name: str, tokenizer: Tokenizer, text: str = TEXT, seed: int = 0) -> System:
    recipe = parse(text)
    generator = build_generator(recipe, tokenizer, ["cat", "dog"])
    torch.manual_seed(seed)
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return System(name, recipe, tokenizer, generator.eval())


@torch.no_grad()
def test_a_system_leads_away_from_a_weaker_one() -> None:
    tokenizer = tokenizer_of(0)
    strong, weak = system_of("strong", tokenizer), system_of("weak", tokenizer, seed=1)
    both = autoguided(strong, weak)

    def draw(system: System, guidance: float) -> torch.Tensor:
        return system.generate_tokens(["cat", "dog"], seed=1, guidance=guidance).values

    torch.testing.assert_close(draw(both, 0.0), draw(weak, 1.0), rtol=1e-4, atol=1e-4)
    assert float((draw(both, 2.0) - draw(strong, 2.0)).abs().max()) > 1e-2
    items = both.generate(classes=["cat", "dog"], seed=1, guidance=2.0)
    torch.testing.assert_close(
        torch.stack([each.tensor for each in items]), both.decode(both.generate_tokens(["cat", "dog"], seed=1, guidance=2.0))
    )
    with pytest.raises(ValueError, match="guidance is off"):
        draw(both, 1.0)


def test_systems_that_do_not_belong_together_are_refused() -> None:
    tokenizer = tokenizer_of(0)
    strong = system_of("strong", tokenizer)
    with pytest.raises(ValueError, match="the tokenizers of strong and other differ"):
        autoguided(strong, system_of("other", tokenizer_of(1)))
    with pytest.raises(ValueError, match="free takes nothing, and strong class"):
        autoguided(strong, system_of("free", tokenizer, TEXT.replace("condition: {class: {width: 8}}\n", "")))
    with pytest.raises(ValueError, match="alone is a tokenizer"):
        autoguided(strong, replace(strong, name="alone", generator=None))
