"""Builds the generator of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jielong.conditions.base import BuildContext
from jielong.config.schema import Recipe
from jielong.generation.generator import Generator
from jielong.generation.plan import SequencePlan
from jielong.generation.request import check_parts
from jielong.tokenizers.base import Tokenizer


def build_generator(
    recipe: Recipe, tokenizer: Tokenizer, classes: Sequence[str], stages: Mapping[str, Tokenizer] | None = None
) -> Generator:
    """The recipe's generator over a tokenizer's tokens; every size comes from the tokenizer.

    Args:
        recipe: The recipe.
        tokenizer: Its tokenizer.
        classes: Classes of the data.
        stages: Tokenizers of the earlier stages by name.

    Raises:
        ValueError: if the parts do not fit each other, or the recipe's ``sampling`` asks of them what they have not.
    """
    if recipe.order is None or recipe.backbone is None or recipe.head is None:
        raise ValueError("this recipe trains a tokenizer: it has no order, backbone and head to build a generator of")
    layout, order = tokenizer.layout, recipe.order.build()
    arranged = SequencePlan.of(order, layout).layout
    condition = recipe.condition.build(BuildContext(classes, stages or {}, tokenizer)) if recipe.condition is not None else None
    condition_width = condition.width if condition else None
    backbone = recipe.backbone.build(arranged, condition_width)
    head = recipe.head.build(backbone.width, layout, condition_width)
    if recipe.stop_head is not None and tokenizer.hop_length is None:
        raise ValueError("stop_head is for tokens along time, as those of sound: remove `stop_head`")
    model = Generator(layout, order, backbone, head, condition, order.embedding(tokenizer, backbone.width), recipe.stop_head)
    check_parts(model, recipe.sampling)
    return model
