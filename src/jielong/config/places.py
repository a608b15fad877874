"""Places of a recipe by name: `head.mean_flow`, `train`, `sampling.guidance`, `head.mean_flow.times.mean`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from pydantic import BaseModel

from jielong.config.catalogue import models, parts, parts_of, recipes
from jielong.config.data import DataSection, media_kinds
from jielong.config.registry import FAMILIES, Mark, OfFamily, RecipeError, below, keys_of
from jielong.config.schema import Recipe

ROOTS = ("recipe", *dict.fromkeys((*FAMILIES, *Recipe.model_fields)))
"""Names that a place begins with: families, and the keys of a recipe."""


@dataclass(frozen=True)
class Place:
    """A place of a recipe.

    Attributes:
        name: Its name.
        schema: What may stand there.
        key: The one key of the settings that is meant; all where empty.
    """

    name: str
    schema: type[BaseModel] | Mark
    key: str = ""

    @property
    def path(self) -> tuple[str, ...]:
        """The keys that lead to it, in a recipe or, for a family that stands inside other parts, in their settings."""
        first, *rest = self.name.split(".")
        if first == "data":
            return ("data",)
        return () if first == "recipe" else ("losses" if first == "loss" else first, *rest)

    @property
    def in_recipe(self) -> bool:
        """Whether its first key is one of a recipe, and not of another part."""
        return self.path[0] in Recipe.model_fields

    @property
    def written(self) -> str:
        """How it is written: ``head: {mean_flow: {KEY: VALUE}}``."""
        keys = (*self.path, "NAME") if isinstance(self.schema, OfFamily) else self.path
        return ": {".join((*keys, "KEY: VALUE")) + "}" * len(keys)


def find_place(name: str) -> Place:
    """The place of a name.

    Raises:
        RecipeError: if there is none, with the nearest names.
    """
    first, *rest = name.split(".")
    schema: type[BaseModel] | Mark | None = root(first)
    if schema is None and name in Recipe.model_fields:
        return Place("recipe", Recipe, name)
    if schema is None:
        raise unknown(name)
    for depth, key in enumerate(rest):
        before, schema = schema, _below(schema, key)
        if schema is not None:
            continue
        inner = ".".join((first, *rest[:depth]))
        if key in keys_of(before) and depth == len(rest) - 1 and not isinstance(before, Mark):
            return Place(inner, before, key)
        raise unknown(name, [f"{inner}.{each}" for each in _names_below(before)])
    return Place(name, schema)


def root(name: str) -> type[BaseModel] | Mark | None:
    """What may stand at a family or a key of a recipe."""
    if name == "recipe":
        return Recipe
    if name in FAMILIES and name not in Recipe.model_fields:
        return OfFamily(name)
    return below(Recipe, name)


def _below(schema: type[BaseModel] | Mark, key: str) -> type[BaseModel] | Mark | None:
    if isinstance(schema, DataSection):
        return media_kinds()[key].settings if key in media_kinds() else None
    if isinstance(schema, OfFamily) and key not in {part.name for part in parts_of(schema.family)}:
        return None
    return below(schema, key)


def _names_below(schema: type[BaseModel] | Mark) -> list[str]:
    if isinstance(schema, OfFamily):
        return [part.name for part in parts_of(schema.family)]
    return [*media_kinds(), *schema.keys()] if isinstance(schema, DataSection) else keys_of(schema)


def unknown(name: str, known: list[str] | None = None) -> RecipeError:
    """The error of a name that is no recipe, model, part or section, with the nearest ones; ``known`` are those that it can be."""
    names = known if known is not None else [*(each.name for each in (*recipes(), *models(), *parts())), *ROOTS]
    last = {each.rpartition(".")[2]: each for each in names}
    near = [last[name]] if name in last else difflib.get_close_matches(name[:200], names, n=3, cutoff=0.6)
    near = near or [last[each] for each in difflib.get_close_matches(name[:200], list(last), n=3, cutoff=0.6)]
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    else:
        hint = "choose one of " + ", ".join(names) if known else "jielong list shows what there is"
    return RecipeError(f"there is no recipe, model, part or section called {name!r}, nor such a file; {hint}")
