"""Network evaluations against their number in closed form: steps, guidance, positions and samplers."""

from __future__ import annotations

import pytest
import torch

from jielong.config.recipe import parse
from jielong.evaluation.network_evaluations import count_evaluations
from jielong.media.kinds.image import image_medium
from jielong.system import System, build_generator, build_tokenizer

DIT, MLP = "network: {dit: {layers: 1, width: 32, heads: 2}}", "network: {mlp: {layers: 1, width: 32}}"
TRANSFORMER = "{transformer: {layers: 1, width: 32, heads: 2}}"
CLASSES = ["one", "two"]


def system(order: str, backbone: str, head: str) -> System:
    recipe = parse(
        "data: {set: faces, size: 16}\ntokenizer: {patches: {patch: 4}}\ncondition: {class: {width: 16}}\ntrain: {samples: 8}\n"
        f"order: {order}\nbackbone: {backbone}\nhead: {head}"
    )
    torch.manual_seed(0)
    tokenizer = build_tokenizer(recipe, image_medium(3, (16, 16)))
    return System("small", recipe, tokenizer, build_generator(recipe, tokenizer, CLASSES).eval())


FLOW = ("at_once", "none", f"{{flow_matching: {{{DIT}, steps: 5}}}}")
MAR = ("{masked: {steps: 4, choose: random}}", TRANSFORMER, f"{{diffusion: {{{MLP}, steps: 900}}}}")
TOKENS = 16


@pytest.mark.parametrize(
    ("parts", "changes", "backbone", "head"),
    [
        (FLOW, {}, 0, 5),
        (FLOW, {"guidance": 3}, 0, 10),
        (FLOW, {"guidance": 3, "num_inference_steps": 7}, 0, 14),
        (FLOW, {"sampler": "midpoint"}, 0, 4),
        # Times 0, 0.2, ..., 0.8, of which 0.4 and 0.6 are guided.
        (FLOW, {"guidance": {"scale": 3, "kind": "interval", "start": 0.3, "stop": 0.7}}, 0, 7),
        (MAR, {"num_inference_steps": 3}, 4, 12),
        (MAR, {"num_inference_steps": 3, "guidance": 2}, 8, 24),
        (MAR, {"num_inference_steps": 3, "guidance": 2, "cache": False}, 8, 24),
        (("raster", TRANSFORMER, f"{{flow_matching: {{{MLP}, steps: 2}}}}"), {"guidance": 2}, 2 * TOKENS, 2 * 2 * TOKENS),
        (("raster", TRANSFORMER, "gaussian_mixture"), {}, TOKENS, 0),
        (("raster", TRANSFORMER, f"{{mean_flow: {{{MLP}}}}}"), {}, TOKENS, TOKENS),
        (("at_once", "none", "gan"), {}, 0, 1),
        (("raster", TRANSFORMER, "energy"), {}, TOKENS, TOKENS),
    ],
)
def test_they_are_the_number_in_closed_form(parts: tuple[str, str, str], changes: dict[str, object], backbone: int, head: int) -> None:
    made = system(*parts)
    sampling = made.recipe.sampling.override(**changes)
    before = {name: vars(module).copy() for name, module in made.generator.named_modules()}  # type: ignore[union-attr]
    found = count_evaluations(made, "one", sampling)
    assert (found.backbone, found.head) == (backbone, head)
    assert {name: vars(module).keys() for name, module in made.generator.named_modules()} == {  # type: ignore[union-attr]
        name: each.keys() for name, each in before.items()
    }


def test_the_drawing_is_the_same_as_without_counting() -> None:
    made = system(*FLOW)
    assert count_evaluations(made, "two").to_json() == {"backbone": 0, "head": 5}
    first = made.generate_tokens(["one"], 1, seed=3).values
    count_evaluations(made, "two")
    assert torch.equal(made.generate_tokens(["one"], 1, seed=3).values, first)
