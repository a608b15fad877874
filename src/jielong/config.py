"""Typed configuration: every part declares its settings next to itself, and a recipe names parts by one word.

A part's settings are a subclass of :class:`Part`. Declaring it registers it, so a new part needs no table to be edited::

    class Softmax(Part, family="head", name="softmax"):
        label_smoothing: float = 0.0
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_serializer

FAMILIES = {
    # family -> the package whose modules declare its parts
    "tokenizer": "jielong.tokenizers",
    "order": "jielong.orders",
    "backbone": "jielong.backbones",
    "head": "jielong.heads",
    "condition": "jielong.conditions",
    "loss": "jielong.losses",
}

_parts: dict[str, dict[str, type[Part]]] = {family: {} for family in FAMILIES}


class RecipeError(ValueError):
    """A recipe or a part's settings are wrong; the text says what is wrong and what would be right."""


class Config(BaseModel):
    """Settings that refuse unknown keys and cannot change after they were checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=False)


class Part(Config):
    """Settings of one part, written in a recipe as ``{name: {key: value}}``, or just ``name``."""

    family: ClassVar[str] = ""
    name: ClassVar[str] = ""

    def __init_subclass__(cls, family: str = "", name: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name:
            cls.family, cls.name = family, name
            _parts[family][name] = cls

    @model_serializer(mode="wrap")
    def _with_its_name(self, handler: Any) -> dict[str, Any]:
        return {self.name: handler(self)} if self.name else handler(self)


def parts_of(family: str) -> dict[str, type[Part]]:
    """All parts of a family by name; imports the family's package so that they have registered themselves."""
    package = importlib.import_module(FAMILIES[family])
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_parts[family].items()))


def nearest(word: str, choices: Mapping[str, Any] | list[str]) -> str:
    """A hint for a misspelt word: the nearest valid choice, or all of them."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else "choose one of " + ", ".join(sorted(choices))


def parse_part(family: str, value: Any) -> Part:
    """Read ``name`` or ``{name: {key: value}}`` into the settings of that part.

    Raises:
        RecipeError: if the part does not exist or is not written as one name.
        pydantic.ValidationError: if its settings are wrong.
    """
    if isinstance(value, Part):
        return value
    if isinstance(value, str):
        value = {value: {}}
    if not isinstance(value, Mapping) or len(value) != 1:
        raise RecipeError(f"{family} must be one name with its settings, such as {{name: {{key: value}}}}, not {value!r}")
    ((name, settings),) = value.items()
    known = parts_of(family)
    if name not in known:
        raise RecipeError(f"there is no {family} called {name!r}; {nearest(str(name), known)}")
    return known[name].model_validate(settings or {})
