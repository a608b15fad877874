"""Shipped models by what they do: their data set, inputs, order and head, and figures of their evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from jielong.config import recipe
from jielong.config.schema import Recipe
from jielong.config.zoo import zoo
from jielong.system.checkpoint import find
from jielong.system.inputs import condition_inputs

EVALUATION = "evaluation.json"
ACCURACY = "attribute_accuracy"


def shipped_generators(data: str, inputs: Sequence[str] = ("text",)) -> dict[str, Recipe]:
    """Recipes of the shipped generators of a data set by name.

    Args:
        data: Name of the set.
        inputs: Inputs of their condition, all of them.
    """
    recipes = {name: recipe.load(str(folder)) for name, folder in zoo().items()}
    return {
        name: each
        for name, each in recipes.items()
        if each.order is not None and each.data.set == data and sorted(part.name for part in condition_inputs(each)) == sorted(inputs)
    }


def shipped_figure(name: str, figure: str = ACCURACY) -> float | None:
    """A figure of a model's ``evaluation.json``, such as its held-out attribute accuracy; ``None`` if it has none."""
    file = find(name) / EVALUATION
    value = json.loads(file.read_text("utf-8")).get(figure) if file.exists() else None
    return None if value is None else float(value)


def best_of(recipes: Mapping[str, Recipe], wanted: Callable[[Recipe], bool], figure: str = ACCURACY) -> str | None:
    """The shipped model with the greatest figure of those whose recipe is wanted, the first of equals; ``None`` if there is none.

    A model without the figure comes after all that have it.
    """
    names = [name for name, each in recipes.items() if wanted(each)]
    return max(names, key=lambda name: -1.0 if (value := shipped_figure(name, figure)) is None else value, default=None)
