"""What `jielong show` prints of parts and sections of a recipe."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from itertools import chain

from pydantic import BaseModel

from jielong.apps.commands.screen import columns, results, show_lines, wrap
from jielong.config.catalogue import parts_of
from jielong.config.data import DataSection, media_kinds
from jielong.config.described import Key, fragment, keys, plain_text
from jielong.config.places import Place
from jielong.config.registry import Mark, OfFamily, Part, RecipeError
from jielong.config.schema import Recipe


def show_place(place: Place) -> None:
    """Print what may stand at a place of a recipe: every key with its type, default and description, or every part."""
    if isinstance(place.schema, OfFamily):
        family = place.schema.family
        show_lines(wrap(f"{place.name}: one of the family {family}, written {place.written}; jielong show {family}.NAME", results.width))
        show_lines(chain.from_iterable(columns([(f"{family}.{part.name}", part.about) for part in parts_of(family)])))
        if place.schema.instead is not None:
            show_lines(wrap(f"or, instead: {plain_text(_paragraphs(place.schema.instead)[0])}", results.width))
            show_lines(_lines(list(keys(place.schema.instead))))
        return
    show_lines(line for text in _about(place) for line in wrap(text, results.width))
    show_lines(_lines([key for key in settings_keys(place.schema) if not place.key or f"{key.path}.".startswith(f"{place.key}.")]))


def yaml_of(place: Place) -> str:
    """A place's settings with their defaults, as a fragment of a recipe.

    Raises:
        RecipeError: for a family, from which a part is to be chosen.
    """
    schema = place.schema
    if isinstance(schema, OfFamily):
        raise RecipeError(f"--yaml prints the settings of one part, such as {place.name}.{parts_of(schema.family)[0].name}")
    model = next(iter(media_kinds().values())).settings if isinstance(schema, Mark) else schema
    return fragment(model, place.path, only=place.key)


def settings_keys(schema: type[BaseModel] | Mark) -> list[Key]:
    """The keys of settings; of all kinds of media for the section ``data``."""
    if not isinstance(schema, DataSection):
        return [] if isinstance(schema, Mark) else list(keys(schema))
    found: dict[str, Key] = {}
    for kind in media_kinds().values():
        found = {key.path: key for key in keys(kind.settings)} | found
    return list(found.values())


def _about(place: Place) -> Iterator[str]:
    """What a place is, how it is written in a recipe, and notes of its docstring."""
    schema = place.schema
    if isinstance(schema, Mark):  # the section of data
        yield f"{place.name}: a set, and how its items are read; keys of each kind: " + ", ".join(f"data.{kind}" for kind in media_kinds())
    else:
        part = next((each for each in parts_of(schema.family) if each.name == schema.name), None) if issubclass(schema, Part) else None
        first, *notes = _paragraphs(schema)
        yield f"{place.name}: {first if part is None else part.about}"
        yield from notes
    if schema is not Recipe:
        yield f"in a recipe: {place.written}" if place.in_recipe else f"in the settings of another part: {place.written}"


def _paragraphs(schema: type[BaseModel]) -> list[str]:
    """The paragraphs of a class's docstring before its attributes, without examples."""
    text = inspect.cleandoc(schema.__doc__ or schema.__name__).partition("\n\nAttributes:")[0]
    return [plain_text(each) for each in text.split("\n\n") if not each.startswith((" ", "::"))]


def _lines(found: Sequence[Key]) -> Iterator[str]:
    """A line for every key with its type and default, and its description below."""
    if not found:
        yield "no settings"
        return
    header, *blocks = columns([("key", "takes", "default"), *((key.path, key.takes, key.default) for key in found)])
    yield from header
    for key, lines in zip(found, blocks, strict=True):
        choices = f" One of {', '.join(part.name for part in parts_of(key.family))}." if key.family else ""
        yield from (*lines, *("    " + line for line in wrap(key.about.rstrip(".") + "." + choices, results.width - 4)))
