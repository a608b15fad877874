"""Sampling parameters that have no effect on what a generator draws are refused by name, in recipes and in calls."""

from __future__ import annotations

from typing import Any

import pytest

from jielong.apps.serving.settings import settings_of
from jielong.config.guidance import Guidance
from jielong.config.recipe import load, parse
from jielong.config.registry import RecipeError
from jielong.media.kinds.image import image_medium
from jielong.system import System, build_generator, build_tokenizer

DIT = "network: {dit: {layers: 1, width: 16, heads: 2}}, steps: 3"
TOKEN = "network: {mlp: {layers: 1, width: 8}}, steps: 3"
PATCHES, PIXELS = "{patches: {patch: 2}}", "{pixels: {levels: 4}}"
CASES = {
    "at once, joint": (PATCHES, "at_once", f"{{flow_matching: {{{DIT}}}}}"),
    "at once, by token": (PATCHES, "at_once", f"{{flow_matching: {{{TOKEN}}}}}"),
    "at once, flow": (PATCHES, "at_once", "{tarflow: {blocks: 2, network: {layers: 1, width: 16, heads: 2}}}"),
    "scales": (PATCHES, "{next_scale: {divide: {scales: auto}}}", f"{{flow_matching: {{{DIT}}}}}"),
    "raster": (PIXELS, "raster", "softmax"),
    "masked": (PIXELS, "{masked: {steps: 3}}", "softmax"),
}
REFUSED: dict[str, tuple[str, ...]] = {
    "at once, joint": ("steps", "schedule", "final_inference_steps", "ramp"),
    "at once, by token": ("steps", "schedule", "final_inference_steps", "ramp", "linear", "interval"),
    "at once, flow": ("steps", "schedule", "final_inference_steps", "ramp"),
    "scales": ("steps", "schedule"),
    "raster": ("steps", "schedule", "final_inference_steps"),
    "masked": ("final_inference_steps",),
}
GIVEN: dict[str, dict[str, Any]] = {
    "steps": {"steps": 2},
    "schedule": {"schedule": "linear"},
    "final_inference_steps": {"final_inference_steps": 2},
    **{kind: {"guidance": Guidance(scale=2.0, kind=kind)} for kind in ("ramp", "linear", "interval")},  # type: ignore[arg-type]
}


def text_of(case: str, sampling: str = "") -> str:
    tokenizer, order, head = CASES[case]
    backbone = "{none: {width: 16}}" if order == "at_once" else "{transformer: {layers: 1, width: 16, heads: 2}}"
    return (
        f"data: {{size: 4}}\ntrain: {{samples: 8}}\ntokenizer: {tokenizer}\norder: {order}\nbackbone: {backbone}\nhead: {head}\n"
        f"condition: class\n{sampling}"
    )


def built(case: str, sampling: str = "") -> System:
    recipe = parse(text_of(case, sampling))
    codec = build_tokenizer(recipe, image_medium(3, (4, 4))).eval()
    return System(case, recipe, codec, build_generator(recipe, codec, ["cat", "dog"]).eval())


@pytest.mark.parametrize("case", CASES)
def test_what_has_no_effect_is_refused_and_what_has_one_changes_the_draw(case: str) -> None:
    system = built(case)
    for name, values in GIVEN.items():
        if name in REFUSED[case]:
            word = "guidance of the kind" if "guidance" in values else name
            with pytest.raises(ValueError, match=word):
                system.generate(classes="cat", **values)
        else:
            system.generate(classes="cat", **values)
    served = {each["name"] for each in settings_of(system)}
    assert not served & set(REFUSED[case])
    assert ("steps" in served) == (case == "masked")


@pytest.mark.parametrize(
    ("case", "sampling", "says"),
    [
        ("at once, joint", "{steps: 20}", r"sampling.steps 20: .* draws each block in one step.*num_inference_steps"),
        ("scales", "{schedule: linear}", r"sampling.schedule linear: .* leave it out"),
        ("at once, joint", "{final_inference_steps: 2}", r"final_inference_steps 2: .* draws all tokens in one step"),
        ("at once, by token", "{guidance: {scale: 2, kind: linear}}", r"guidance of the kind linear follows how many tokens are known"),
        ("at once, joint", "{guidance: {scale: 2, kind: ramp}}", r"guidance of the kind ramp grows from step to step"),
    ],
)
def test_recipes_are_refused_too(case: str, sampling: str, says: str) -> None:
    with pytest.raises((RecipeError, ValueError), match=says):
        built(case, f"sampling: {sampling}")


@pytest.mark.parametrize("head", [f"{{flow_matching: {{{TOKEN}}}}}", "energy", "regression"])
def test_the_most_confident_draws_are_not_kept_where_a_head_gives_no_confidence(head: str) -> None:
    text = text_of("masked").replace(PIXELS, PATCHES).replace("softmax", head)
    with pytest.raises(RecipeError, match=r"order.masked.choose: confidence .* head \w+ gives none .* \{choose: random\}"):
        parse(text)
    parse(text.replace("steps: 3}}\nbackbone", "steps: 3, choose: random}}\nbackbone"))


def test_a_tokenizers_recipe_has_no_sampling() -> None:
    with pytest.raises(RecipeError, match="a tokenizer draws nothing: remove `sampling`"):
        load("kl-tiny", ["sampling.temperature=0.5"])


@pytest.mark.parametrize("network", ["dit: {condition: cross}", "unet: {condition: cross}", "mmdit: {}"])
def test_states_of_a_condition_that_is_one_vector_are_not_attended_to(network: str) -> None:
    text = text_of("at once, joint").replace("dit: {layers: 1, width: 16, heads: 2}", network)
    with pytest.raises(RecipeError, match=r"attends to the states of a condition .* class is one vector an item: take the network dit or"):
        parse(text)
    parse(text.replace("condition: class", "condition: {text: {encoder: bytes}}"))
    parse(text.replace("condition: class", "condition: {composite: {parts: {class: {}, text: {encoder: bytes}}}}"))
