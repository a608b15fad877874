"""The states of a condition reach joint heads: in training with the null where it was dropped, in sampling with both sides of guidance."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from jielong.autoencoders.convolutional import Convolutional
from jielong.config.recipe import parse
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.generation.generator import Generator
from jielong.heads.base import HeadContext
from jielong.heads.continuous import GuidedDenoiser
from jielong.heads.flow_matching import FlowMatching
from jielong.media.kinds.image import image_medium
from jielong.networks.conditioning import Conditioning
from jielong.networks.dit import DiT
from jielong.networks.mmdit import MMDiT
from jielong.system import System, build_generator
from jielong.tokenizers.kl import KL

RECIPE = """\
data: {size: 8}
tokenizer: {pixels: {levels: 4}}
order: at_once
backbone: {none: {width: 16}}
condition: {text: {encoder: bytes, length: 16, width: 8}}
head: {HEAD: {network: {NETWORK}}}
train: {samples: 8}
"""
NETWORKS = {
    "cross": "dit: {layers: 1, width: 16, heads: 2, condition: cross}",
    "mmdit": "mmdit: {layers: 2, width: 16, heads: 2}",
    "unet": "unet: {channels: [8, 16], blocks: 1, head_width: 8, groups: 4, condition: cross}",
}
HEADS = ["flow_matching", "diffusion", "mean_flow", "shortcut", "consistency"]
EACH = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
LAYOUT = Layout((2, 2), channels=4)


def recipe(network: str, head: str = "flow_matching") -> str:
    return RECIPE.replace("NETWORK", network).replace("HEAD", head)


def system(network: str, head: str = "flow_matching") -> System:
    """A generator with initial weights, made large enough that the condition matters."""
    settings, medium = parse(recipe(network, head)), image_medium(3, (8, 8))
    torch.manual_seed(0)
    tokenizer = KL(dim=4, autoencoder=Convolutional(channels=(8,), blocks=(0,))).build(medium, {})
    generator = build_generator(settings, tokenizer, ("red", "blue"))
    for weights in generator.parameters():
        weights.data = weights.data + 0.2 * torch.randn_like(weights)
    return System("toy", settings, tokenizer.eval(), generator.eval())


def model(network: str, head: str = "flow_matching") -> Generator:
    built = system(network, head).generator
    assert built is not None
    return built


def tokens(count: int = 3) -> Tokens:
    return Tokens(torch.randn(count, 4, 4, generator=torch.Generator().manual_seed(1)), LAYOUT)


@EACH
@pytest.mark.parametrize("head", HEADS)
def test_everything_learns(network: str, head: str) -> None:
    generator = model(network, head).train()
    loss = generator.loss(tokens(), generator.condition.prepare(["a cat", "two dogs", "rain"]))  # type: ignore[union-attr]
    loss.backward()
    assert {name for name, parameter in generator.named_parameters() if parameter.grad is None} <= {"condition.null"}


@pytest.mark.parametrize(
    ("network", "reads"), [*((each, True) for each in NETWORKS.values()), ("dit: {layers: 1, width: 16, heads: 2}", False)]
)
@pytest.mark.parametrize("head", HEADS)
def test_texts_of_equal_pooled_vectors_differ_only_by_their_states(network: str, head: str, reads: bool) -> None:
    """Bytes and places of "ab" and "ba" have the same mean, but not the same states."""
    first, second = model(network, head).generate(["ab", "ba"], seed=3, indices=[0, 0]).values
    assert torch.allclose(first, second, rtol=1e-4, atol=1e-4) is not reads


@EACH
@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
def test_samples_do_not_depend_on_batch_or_cache(network: str, guidance: float) -> None:
    generator, texts = model(network), ["a cat", "two dogs and", "rain", "x"]
    request: dict[str, Any] = {"guidance": guidance, "seed": 3}
    together = generator.generate(texts, **request).values
    torch.testing.assert_close(generator.generate(texts, batch=1, **request).values, together, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(generator.generate(texts, cache=False, **request).values, together, rtol=1e-4, atol=1e-4)
    if guidance != 1.0:  # a model that is its own weaker one is not guided
        alone = generator.generate(texts, seed=3).values
        torch.testing.assert_close(generator.generate(texts, weaker=generator, **request).values, alone, rtol=1e-4, atol=1e-4)
    if guidance == 0.0:
        torch.testing.assert_close(generator.generate(count=4, seed=3).values, together, rtol=1e-4, atol=1e-4)


@EACH
def test_a_negative_text_is_what_guidance_compares_with(network: str) -> None:
    built, texts = system(network), ["a cat", "two dogs"]

    def drawn(text: list[str], **options: Any) -> Tensor:
        return built.generate(text, seed=3, **options).tensor

    torch.testing.assert_close(
        drawn(texts, negative_text=["rain", "snow"], guidance=0.0), drawn(["rain", "snow"], guidance=1.0), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(drawn(texts, negative_text=texts, guidance=3.0), drawn(texts, guidance=1.0), atol=1e-3, rtol=0)
    assert not torch.allclose(drawn(texts, negative_text="rain", guidance=3.0), drawn(texts, guidance=3.0), atol=1e-2)


@EACH
def test_a_dropped_condition_is_the_null_in_training(network: str) -> None:
    generator, data = model(network), tokens()
    texts = generator.condition.prepare(["a cat", "two dogs", "rain"])  # type: ignore[union-attr]
    generator.condition.cfg_dropout = 1.0  # type: ignore[union-attr]
    dropped = generator.train().loss(data, texts, PerSampleRNG(5, range(3)))
    generator.condition.cfg_dropout = 0.0  # type: ignore[union-attr]
    kept = generator.loss(data, texts, PerSampleRNG(5, range(3)))
    generator.condition.embed = lambda prepared: generator.condition.unconditional(3)  # type: ignore[method-assign, union-attr]
    torch.testing.assert_close(dropped, generator.loss(data, texts, PerSampleRNG(5, range(3))))
    assert abs(float((dropped - kept).detach())) > 1e-4


@pytest.mark.parametrize("network", [DiT(layers=1, width=16, heads=2, condition="cross"), MMDiT(layers=2, width=16, heads=2)])
def test_the_copies_of_a_loss_and_both_branches_keep_to_their_item(network: Any) -> None:
    """Copies of an item read its condition, and the joint call of both branches gives what two calls give."""
    torch.manual_seed(0)
    head = FlowMatching(network=network, diffusion_batch_mul=3).build(6, LAYOUT, 5).eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    hidden, null, x = torch.randn(2, 4, 6), torch.randn(2, 4, 6), torch.randn(2, 4, 4)
    given = Conditioning(torch.randn(2, 3, 5), torch.tensor([[True, True, True], [True, False, False]]), torch.randn(2, 5))
    other = Conditioning.single(torch.randn(2, 5))
    context = HeadContext(null, 3.0, coords=LAYOUT.coordinates(), condition=given, null_condition=other)
    both = GuidedDenoiser(head.network, hidden, context).branches(x, 0.3)
    for found, states, condition in zip(both, (hidden, null), (given, other), strict=True):
        alone = GuidedDenoiser(head.network, states, HeadContext(coords=context.coords, condition=condition))
        torch.testing.assert_close(found, alone.branches(x, 0.3)[0])
    first, where = slice(0, 1), context.coords
    whole, alone_loss = (
        head.loss(
            hidden[items], x[items], HeadContext(coords=where, condition=given.rows(items), draws=PerSampleRNG(2, rows).draws("head"))
        )
        for items, rows in ((slice(0, 2), [0, 1]), (first, [0]))
    )
    torch.testing.assert_close(whole[first], alone_loss)


@EACH
def test_without_a_condition_it_is_refused_by_name(network: str) -> None:
    without = parse(recipe(network).replace("condition: {text", "# {text"))
    tokenizer = KL(dim=4, autoencoder=Convolutional(channels=(8,), blocks=(0,))).build(image_medium(3, (8, 8)), {})
    with pytest.raises(ValueError, match=rf"network.{network.split(':')[0].replace('cross', 'dit')}: .*add `condition`"):
        build_generator(without, tokenizer, ())
