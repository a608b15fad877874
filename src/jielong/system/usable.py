"""The items of a set that can supply what a recipe's condition reads."""

from __future__ import annotations

from jielong.conditions.base import ConditionSettings
from jielong.config.data import MissingCondition
from jielong.config.registry import RecipeError
from jielong.config.schema import Recipe
from jielong.data.ledger import NAMED, Cause, Ledger
from jielong.data.sets import MediaSet
from jielong.data.source import DataError


def usable(data: MediaSet, recipe: Recipe, missing: MissingCondition | None = None) -> MediaSet:
    """A set without the items that lack a caption or a class that the recipe's condition reads; they are recorded.

    Args:
        data: The set.
        recipe: The recipe.
        missing: Instead of the recipe's ``data.missing_condition``.

    Raises:
        DataError: if items lack one and the recipe refuses that, or no item is left.
        RecipeError: if a transcript may be empty.
    """
    rule, left_out = missing or recipe.data.missing_condition, Ledger()
    lacking: dict[int, str] = {}
    for part in () if recipe.condition is None else recipe.condition.components:
        if rule != "empty" or not _may_be_empty(part):
            lacking |= dict.fromkeys(part.input.missing(data), part.input.noun)
    if not lacking:
        return data
    nouns = " or ".join(dict.fromkeys(lacking.values()))
    if rule == "error":
        first = ", ".join(data.keys[row] for row in list(lacking)[:NAMED])
        raise DataError(
            f"{data.name}: {len(lacking)} of {len(data)} {data.kind.noun[1]} lack {nouns}, the first {first}; "
            "add what is missing, or set data.missing_condition to skip"
        )
    for row, noun in lacking.items():
        left_out.add(Cause.UNCONDITIONED, data.keys[row], f"{data.keys[row]} lacks {noun}, which the recipe's condition reads")
    kept = [row for row in range(len(data)) if row not in lacking]
    if not kept:
        raise DataError(f"the condition needs {nouns} for every item, but {data.name} has none for its {len(data)} {data.kind.noun[1]}")
    return data.restricted(kept, left_out)


def _may_be_empty(part: ConditionSettings) -> bool:
    if part.input.may_be_empty and part.transcript:
        raise RecipeError("data.missing_condition is empty, but a transcript cannot be: set it to skip or error")
    return part.input.may_be_empty
