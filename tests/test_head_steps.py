"""How many evaluations a head takes, from a recipe or a command down to the network."""

from __future__ import annotations

import pytest
import torch

from jielong.backbones.transformer import Transformer
from jielong.config.recipe import RecipeError, parse
from jielong.config.sampling import SamplingConfig
from jielong.config.schema import Recipe
from jielong.core.tokens import Layout
from jielong.evaluation.context import DrawSettings, drawing
from jielong.generation.generator import Generator
from jielong.heads.diffusion import Diffusion
from jielong.media.kinds.image import image_medium
from jielong.networks.denoiser import MLP
from jielong.orders.masked import Masked
from jielong.system import System, build_generator, build_tokenizer
from jielong.tokenizers.base import Tokenizer

LAYOUT = Layout((2, 4), channels=2)
RECIPE = """\
data: {size: 8}
tokenizer: {pixels: {}}
order: {masked: {choose: random}}
backbone: {transformer: {layers: 1, width: 8, heads: 2}}
head: HEAD
sampling: SAMPLING
train: {samples: 8}
"""


def recipe(head: str = "{diffusion: {steps: 9}}", sampling: str = "{}") -> Recipe:
    return parse(RECIPE.replace("HEAD", head).replace("SAMPLING", sampling))


def chain() -> Generator:
    torch.manual_seed(0)
    head = Diffusion(network=MLP(layers=1, width=8), steps=9).build(8, LAYOUT)
    backbone = Transformer(layers=1, width=8, heads=2).build(LAYOUT, None)
    return Generator(LAYOUT, Masked(steps=4, choose="random").build(), backbone, head).eval()


def evaluations(sampling: SamplingConfig) -> list[int]:
    """Of each of the chain's four steps, over eight tokens."""
    model, counts = chain(), []
    network, sample = model.head.network, model.head.sample
    predict = network.predict  # type: ignore[union-attr]

    def counting(*given: object) -> torch.Tensor:
        counts[-1] += 1
        return predict(*given)  # type: ignore[operator]

    def beginning(*given: object, **more: object) -> object:
        counts.append(0)
        return sample(*given, **more)  # type: ignore[arg-type]

    network.predict, model.head.sample = counting, beginning  # type: ignore[union-attr, assignment, method-assign]
    assert model.generate(count=2, sampling=sampling).values.shape == (2, 8, 2)
    return counts


def test_sampling_takes_the_requested_evaluations() -> None:
    assert evaluations(SamplingConfig()) == [9] * 4
    assert evaluations(SamplingConfig(num_inference_steps=5)) == [5] * 4
    falling = evaluations(SamplingConfig(num_inference_steps=12, final_inference_steps=2))
    assert falling[0] == 12
    assert falling == sorted(falling, reverse=True)
    assert 2 <= falling[-1] < 9
    assert evaluations(SamplingConfig(final_inference_steps=1))[0] == 9


def test_arguments_override_the_recipe() -> None:
    parsed = recipe(sampling="{num_inference_steps: 20, final_inference_steps: 4}")
    assert parse(parsed.to_yaml()) == parsed
    system = System("here", parsed, torch.nn.Identity(), chain())  # type: ignore[arg-type]
    given = system.default_sampling(conditioned=False)
    assert given == SamplingConfig(num_inference_steps=20, final_inference_steps=4)
    assert given.override(num_inference_steps=7, temperature=None) == SamplingConfig(num_inference_steps=7, final_inference_steps=4)
    options = drawing(system, DrawSettings(sampling=given.override(num_inference_steps=7)))
    assert (options["num_inference_steps"], options["final_inference_steps"]) == (7, 4)
    assert drawing(System("here", recipe(), torch.nn.Identity(), chain()), DrawSettings())["num_inference_steps"] == 9  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [0, -3])
def test_too_few_are_refused(steps: int) -> None:
    with pytest.raises(RecipeError, match=rf"line 6: sampling.num_inference_steps: num_inference_steps must be 1 or more, not {steps}"):
        recipe(sampling=f"{{num_inference_steps: {steps}}}")
    with pytest.raises(ValueError, match=f"num_inference_steps must be 1 or more, not {steps}"):
        SamplingConfig(num_inference_steps=steps)


def test_discrete_head_rejects_inference_steps_before_training() -> None:
    parsed = recipe("softmax", "{num_inference_steps: 5}")
    tokenizer: Tokenizer = build_tokenizer(parsed, image_medium(3, (8, 8)))
    with pytest.raises(
        ValueError,
        match="SoftmaxHead draws a token in one evaluation; num_inference_steps and final_inference_steps are for iterative",
    ):
        build_generator(parsed, tokenizer, [])
    model = build_generator(recipe("softmax"), tokenizer, []).eval()
    with pytest.raises(ValueError, match="SoftmaxHead draws a token in one evaluation"):
        model.generate(count=1, sampling=SamplingConfig(num_inference_steps=5))
