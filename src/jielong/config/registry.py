"""Typed settings of parts, which a recipe names by one word.

A part's settings are a subclass of :class:`Part`, declared beside the part. Declaring it registers it::

    class Softmax(Part, family="head", name="softmax"):
        label_smoothing: float = 0.0

A field that holds a part is marked with its family (:class:`OfFamily`); it is written, checked and extended as a part of the recipe is::

    class VQ(Part, family="tokenizer", name="vq"):
        quantizer: Annotated[SerializeAsAny[Part], OfFamily("quantizer")] = Vector()
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, Unpack, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, SerializerFunctionWrapHandler, ValidationError, model_serializer
from pydantic_core import CoreSchema, ErrorDetails, core_schema, to_jsonable_python

from jielong.core.json import JSON
from jielong.core.medium import Axes
from jielong.core.modules import import_modules
from jielong.core.text import shown

FAMILIES = {
    # family -> the package whose modules declare its parts
    "tokenizer": "jielong.tokenizers",
    "autoencoder": "jielong.autoencoders",
    "quantizer": "jielong.quantizers",
    "order": "jielong.orders",
    "backbone": "jielong.backbones",
    "head": "jielong.heads",
    "condition": "jielong.conditions",
    "loss": "jielong.losses",
    "discriminator": "jielong.losses",
    "network": "jielong.networks",
    "vector_decoder": "jielong.networks",
    "vector_encoder": "jielong.networks",
}

_parts: dict[str, dict[str, type[Part]]] = {family: {} for family in FAMILIES}


class RecipeError(ValueError):
    """A recipe or a part's settings are wrong; the text says what is wrong and what would be right."""


class Faults(RecipeError):  # noqa: N818 - named for what it holds
    """Everything that is wrong with some settings.

    Attributes:
        problems: One a fault, as pydantic describes it: ``loc`` (the keys that lead to it), ``type``, ``msg`` and ``input``.
    """

    def __init__(self, problems: Iterable[ErrorDetails]) -> None:
        self.problems = [problem.copy() for problem in problems]
        messages = (".".join(map(str, problem["loc"])) + ": " * bool(problem["loc"]) + problem["msg"] for problem in self.problems)
        super().__init__("; ".join(messages))

    @classmethod
    def of(cls, message: str) -> Faults:
        """One fault."""
        return cls([{"type": "part", "loc": (), "msg": message, "input": {}}])

    def under(self, *keys: str) -> list[ErrorDetails]:
        """The problems as seen from further out, where these settings stand under ``keys``."""
        return [{**problem, "loc": (*keys, *problem["loc"])} for problem in self.problems]


class Config(BaseModel):
    """Settings that refuse unknown keys and cannot change after they were checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=False)


class Part(Config):
    """Settings of one part, written in a recipe as ``{name: {key: value}}``, or just ``name``."""

    family: ClassVar[str] = ""
    name: ClassVar[str] = ""
    axes: ClassVar[Axes | None] = None  # axes of the media it is for; None for any

    def __init_subclass__(cls, family: str = "", name: str = "", **kwargs: Unpack[ConfigDict]) -> None:
        super().__init_subclass__(**kwargs)
        if name:
            cls.family, cls.name = family, name
            register(cls)

    @model_serializer(mode="wrap")
    def _with_its_name(self, handler: SerializerFunctionWrapHandler) -> JSON:
        return {self.name: handler(self)} if self.name else handler(self)


def plain(settings: Config) -> dict[str, Any]:
    """Settings as plain values for a recipe, with the parts' names, and without ``None`` where that is the default."""
    return _plain_fields(settings, settings.model_dump(mode="json"))


def plain_values(value: object) -> Any:
    """Plain values of a field's value for a recipe, as :func:`plain`."""
    return _plain(value, to_jsonable_python(value))


def _plain(value: object, dumped: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item, inner) for item, inner in zip(value, dumped, strict=True)]
    if isinstance(value, Part) and value.name:
        return {value.name: _plain_fields(value, dumped[value.name])}
    return _plain_fields(value, dumped) if isinstance(value, BaseModel) else dumped


def _plain_fields(settings: BaseModel, dumped: JSON) -> JSON:
    fields = type(settings).model_fields
    return {
        name: _plain(getattr(settings, name), inner)
        for name, inner in dumped.items()
        if inner is not None or fields[name].get_default() is not None
    }


class Mark(ABC):
    """Marks a field whose value is read before pydantic checks it."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Read the recipe's value first."""
        return core_schema.no_info_before_validator_function(self.read, handler(source))

    @abstractmethod
    def read(self, value: object) -> object:
        """The settings that a recipe's value describes; raises :class:`Faults` with all that is wrong."""

    @abstractmethod
    def below(self, key: str) -> Schema:
        """What may be under a key of the value."""

    @abstractmethod
    def keys(self) -> list[str]:
        """Keys that the value may have."""


@dataclass(frozen=True)
class OfFamily(Mark):
    """Marks a field that holds a part: ``Annotated[SerializeAsAny[Part], OfFamily("head")]``.

    Attributes:
        family: The family it is chosen from.
        many: It holds a tuple of parts, written as a list or as one mapping, from which ``null`` removes a part.
        instead: Settings allowed in place of a part, recognised by their keys.
    """

    family: str
    many: bool = False
    instead: type[Config] | None = None

    def below(self, key: str) -> Schema:
        """The settings of a part."""
        return parts_of(self.family).get(key)

    def keys(self) -> list[str]:
        """Names of parts, and keys of what may stand in a part's place."""
        return [*parts_of(self.family), *(self.instead.model_fields if self.instead is not None else ())]

    def is_instead(self, value: object) -> bool:
        """Whether a recipe's ``value`` describes what stands in a part's place: it has the keys that this must have."""
        fields = {} if self.instead is None else self.instead.model_fields
        must = {name for name, field in fields.items() if field.is_required()}
        return bool(must) and isinstance(value, Mapping) and must <= set(value)

    def read(self, value: object) -> object:
        """The part, parts, or settings that a recipe's ``value`` describes.

        Raises:
            Faults: with all that is wrong.
        """
        if self.many:
            return self._each(value)
        if self.instead is not None:
            if isinstance(value, self.instead):
                return value
            if self.is_instead(value):
                return read_settings(self.instead, value)
        return parse_part(self.family, value)

    def _each(self, value: object) -> tuple[Part, ...]:
        if value is None or isinstance(value, Mapping):
            items: list[object] = [{name: settings} for name, settings in (value or {}).items() if settings is not None]
        elif isinstance(value, str | list | tuple):
            items = [value] if isinstance(value, str) else list(value)
        else:
            raise Faults.of(f"parts of the family {self.family} are written as {{name: {{key: value}}, ...}}, not {shown(value)}")
        parts, problems = [], []
        for item in items:
            try:
                parts.append(parse_part(self.family, item))
            except Faults as faults:
                problems += faults.problems
        if problems:
            raise Faults(problems)
        return tuple(parts)


Settings = TypeVar("Settings", bound=BaseModel)
Schema = type[BaseModel] | Mark | None
"""What may stand at a place of a recipe: settings, parts of a family, or a plain value."""


def register(part: type[Part]) -> None:
    """Make a part known to recipes by its family and name; declaring it does so."""
    _parts[part.family][part.name] = part


def parts_of(family: str) -> dict[str, type[Part]]:
    """All parts of a family by name; imports the family's package so that they have registered themselves."""
    import_modules(FAMILIES[family])
    return dict(sorted(_parts[family].items()))


LISTED = 60
"""Most choices that a hint lists."""


def nearest(word: str, choices: Mapping[str, object] | list[str]) -> str:
    """A hint for a misspelt word: the nearest valid choice, or all of them; of many names the most similar."""
    names = sorted(set(choices))
    if close := difflib.get_close_matches(word[:200], names, n=1, cutoff=0.5):
        return f"did you mean {close[0]!r}?"
    if len(names) <= LISTED:
        return "choose one of " + ", ".join(names)
    similar = difflib.get_close_matches(word[:200], names, n=5, cutoff=0.0)
    return f"the most similar of {len(names)} names are {', '.join(similar)}; jielong list leads to all"


def parse_part(family: str, value: object) -> Part:
    """Read ``name`` or ``{name: {key: value}}`` into the settings of that part.

    Raises:
        Faults: if the part does not exist, is not written as one name, or its settings are wrong.
    """
    if isinstance(value, Part) and value.family == family:
        return value
    if isinstance(value, str):
        value = {value: {}}
    if not isinstance(value, Mapping) or len(value) != 1:
        raise Faults.of(f"{family} must be one name with its settings, such as {{name: {{key: value}}}}, not {shown(value)}")
    ((name, settings),) = value.items()
    known = parts_of(family)
    if name not in known:
        raise Faults.of(f"there is no {family} called {shown(name)}; {nearest(str(name), known)}")
    if not isinstance(settings, Mapping):
        right = f"write {name} or {{{name}: {{}}}} for its defaults" if settings is None else f"write {{{name}: {{key: value}}}}"
        raise Faults.of(f"{shown(settings)} is not the settings of the {family} {name}: {right}".replace("None", "null"))
    try:
        return read_settings(known[name], settings)
    except Faults as faults:
        raise Faults(faults.under(name)) from None


def read_settings(model: type[Settings], data: object) -> Settings:
    """Check settings and, however deep, the parts in them.

    Raises:
        Faults: with all that is wrong, each fault under the keys that lead to it.
    """
    problems: list[ErrorDetails] = []
    if isinstance(data, Mapping):
        data = dict(data)
        for key, mark in marks(model).items():
            if data.get(key) is None:
                continue
            try:
                data[key] = mark.read(data[key])
            except Faults as faults:
                problems += faults.under(key)
    reported = {problem["loc"][0] for problem in problems}
    try:
        settings = model.model_validate(data)
    except ValidationError as error:
        problems += [item for item in error.errors(include_url=False) if not reported.intersection(item["loc"][:1])]
    if problems:
        raise Faults(problems)
    return settings


def marks(model: type[BaseModel]) -> dict[str, Mark]:
    """The fields of some settings that hold parts, by name, and what they hold."""

    def find(annotation: object, metadata: Iterable[object] = ()) -> Mark | None:
        own = [item for item in (*metadata, *getattr(annotation, "__metadata__", ())) if isinstance(item, Mark)]
        return own[0] if own else next(filter(None, map(find, get_args(annotation))), None)

    found = {name: find(field.annotation, field.metadata) for name, field in model.model_fields.items()}
    return {name: mark for name, mark in found.items() if mark is not None}


def below(schema: Schema, key: str) -> Schema:
    """What may stand under a key of a place."""
    if isinstance(schema, Mark):
        return schema.below(key)
    if schema is None or key not in schema.model_fields:
        return None
    return marks(schema).get(key) or settings_in(schema.model_fields[key].annotation)


def settings_in(annotation: object) -> type[BaseModel] | None:
    """The settings that a field's annotation holds, such as ``Lazy`` of ``Lazy | None``; ``None`` for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(settings_in, get_args(annotation))), None)


def keys_of(schema: Schema) -> list[str]:
    """The keys that may stand at a place."""
    if isinstance(schema, Mark):
        return schema.keys()
    return list(schema.model_fields) if schema is not None else []
