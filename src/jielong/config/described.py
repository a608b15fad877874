"""Every key of some settings with what it takes, its default and its description, read from the settings' classes and their docstrings."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from jielong.config.registry import Mark, OfFamily, Part, marks, plain_values, settings_in
from jielong.config.yaml_text import one_line_yaml, write_yaml

_ROLE = re.compile(r":\w+:`~?([^`]+)`|``([^`]+)``")
_NUMBERS = {"integer": "int", "number": "number"}
REQUIRED = "required"


@dataclass(frozen=True)
class Key:
    """One key of some settings.

    Attributes:
        path: The keys that lead to it, with dots between.
        takes: Its type and bounds.
        default: The default as a recipe writes it, or :data:`REQUIRED`.
        about: Its description.
        family: The family whose parts it takes; empty for other keys.
    """

    path: str
    takes: str
    default: str
    about: str
    family: str = ""


def keys(settings: type[BaseModel], prefix: str = "", default: BaseModel | None = None) -> Iterator[Key]:
    """Every key of some settings, those of settings inside them included, but not those of parts."""
    schema = settings.model_json_schema()
    texts, found = descriptions(settings), marks(settings)
    for name, field in settings.model_fields.items():
        value = getattr(default, name) if default is not None else default_of(field)
        mark, inner = found.get(name), settings_in(field.annotation)
        family = mark.family if isinstance(mark, OfFamily) else ""
        takes = _parts_text(mark) if isinstance(mark, OfFamily) else _type_text(schema["properties"][name])
        yield Key(prefix + name, takes, _default_text(value), texts.get(name, ""), family)
        if mark is None and inner is not None:
            yield from keys(inner, f"{prefix}{name}.", value if isinstance(value, inner) else None)


def default_of(field: FieldInfo) -> object:
    """A field's default; :data:`pydantic_core.PydanticUndefined` where it is required."""
    return field.get_default(call_default_factory=True, validated_data={})


def descriptions(settings: type[BaseModel]) -> dict[str, str]:
    """The description of every key: of the ``Attributes`` of the class and its bases, or of the field."""
    found = {name: field.description for name, field in settings.model_fields.items() if field.description}
    for base in reversed(settings.__mro__):
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        entries = re.search(r"^Attributes:\n((?: {4}.*\n?|\n)*)", text, re.M)
        for name, about in re.findall(r"^ {4}(\w+): (.*(?:\n {6,}.*)*)", entries[1] if entries else "", re.M):
            found[name] = about
    return {name: plain_text(about) for name, about in found.items()}


def plain_text(text: str) -> str:
    """A docstring's text as one line without markup, with the words of YAML."""

    def word(match: re.Match[str]) -> str:
        return match[1].rpartition(".")[2] if match[1] else {"None": "null", "True": "true", "False": "false"}.get(match[2], match[2])

    return " ".join(_ROLE.sub(word, text).split())


def fragment(settings: type[BaseModel], path: tuple[str, ...], only: str = "", width: int = 80) -> str:
    """Settings as YAML under the keys of ``path``, with their defaults, and with their descriptions and what is required as comments.

    Args:
        settings: The settings.
        path: The keys.
        only: The one key that is written; all where empty.
        width: Columns of the comments.
    """
    opening = [f"{'  ' * depth}{key}:" for depth, key in enumerate(path)]
    body = list(_fields(settings, "  " * len(path), only, width, None))
    if opening and not any(line.strip() and not line.lstrip().startswith("#") for line in body):
        opening[-1] += " {}"
    return "\n".join([*opening, *body]) + "\n"


def _fields(settings: type[BaseModel], indent: str, only: str, width: int, default: BaseModel | None) -> Iterator[str]:
    about = {key.path: f"{key.about} ({key.takes})" for key in keys(settings)}
    for name, field in settings.model_fields.items():
        if only not in ("", name):
            continue
        value = getattr(default, name) if default is not None else default_of(field)
        yield from textwrap.wrap(about[name], width, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_on_hyphens=False)
        if value is PydanticUndefined:
            yield f"{indent}# {name}:  # {REQUIRED}"
        elif isinstance(value, BaseModel) and not isinstance(value, Part):
            yield f"{indent}{name}:"
            yield from _fields(type(value), indent + "  ", "", width, value)
        else:
            yield from textwrap.indent(write_yaml({name: plain_values(value)}, width), indent).splitlines()


def _default_text(value: object) -> str:
    if value is PydanticUndefined:
        return REQUIRED
    if isinstance(value, BaseModel) and not isinstance(value, Part):
        return one_line_yaml(value.model_dump(mode="json", exclude_unset=True)) if value.model_fields_set else "its defaults"
    return one_line_yaml(_short(value))


def _short(value: object) -> object:
    """Plain values of a default: parts by their names and what differs from their own defaults."""
    if isinstance(value, Part):
        given = value.model_dump(mode="json", exclude_unset=True)[value.name]
        return {value.name: given} if given else value.name
    return [_short(item) for item in value] if isinstance(value, tuple) else plain_values(value)


def _parts_text(mark: Mark) -> str:
    if not isinstance(mark, OfFamily):
        return "settings"
    instead = f", or {{{', '.join(mark.instead.model_fields)}}}" if mark.instead is not None else ""
    return ("one or several of the family " if mark.many else "a part of the family ") + mark.family + instead


def _type_text(schema: Mapping[str, Any]) -> str:
    """What a JSON schema allows, such as ``int >= 1``, ``cosine | linear`` or ``list of number in [0, 1)``."""
    if "anyOf" in schema:
        return " or ".join(map(_type_text, schema["anyOf"]))
    if "$ref" in schema:
        return "settings"
    if "enum" in schema or "const" in schema:
        return " | ".join(map(str, schema.get("enum", [schema.get("const")])))
    kind = schema["type"]
    if kind in _NUMBERS:
        return f"{_NUMBERS[kind]} {_bounds(schema)}".strip()
    if kind == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(map(_type_text, schema['prefixItems']))}]"
        return f"list of {_type_text(schema['items'])}"
    if kind == "object":
        return f"{{name: {_type_text(schema['additionalProperties'])}, ...}}"
    return {"boolean": "true | false", "string": schema.get("format", "text")}.get(kind, kind)


def _bounds(schema: Mapping[str, Any]) -> str:
    least, most = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum", schema.get("exclusiveMaximum"))
    if least is not None and most is not None:
        return f"in {'[' if 'minimum' in schema else '('}{least}, {most}{']' if 'maximum' in schema else ')'}"
    if least is not None:
        return f"{'>=' if 'minimum' in schema else '>'} {least}"
    return "" if most is None else f"{'<=' if 'maximum' in schema else '<'} {most}"
