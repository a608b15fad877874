"""Names and one-line descriptions of recipes, models, parts and data sets. Does not import torch, to start quickly."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jielong.config.described import plain_text
from jielong.config.recipe import built_in, headline
from jielong.config.registry import FAMILIES
from jielong.config.yaml_text import read_mapping
from jielong.config.zoo import card_line, description, kind_text, zoo

SETS = {
    "avatars": ("video", "64 faces that say sentences with their sound, blink and smile, 25 frames of 64 x 64; ships with jielong-zoo"),
    "digits": ("video", "two handwritten digits that bounce, drawn when read, 20 frames of 64 x 64, grey; ships with jielong-zoo"),
    "emoji": ("image", "drawings of emoji with captions, 64 x 64, in two styles; ships with jielong-zoo"),
    "emoji-full": ("image", "the same with two more styles; build it once by: jielong data build emoji-full"),
    "faces": ("image", "24,000 drawings of people from attributes, in five styles, with captions, 64 x 64; ships with jielong-zoo"),
    "faces-edits": ("image", "pairs of faces that differ in one attribute, and the instruction between them; ships with jielong-zoo"),
    "icons": ("image", "1,276 icons of a desktop by name and context, 64 x 64; build it once by: jielong data build icons"),
    "missions": ("video", "5,000 missions done in a grid world, with captions, 17 frames of 64 x 64; ships with jielong-zoo"),
    "prompts": (
        "audio",
        "two hours of spoken prompts with transcripts, five languages and voices; build it once by: jielong data build prompts",
    ),
    "sounds": ("audio", "short synthesiser, drum and instrument samples by name; ships with jielong-zoo"),
    "spoken-words": (
        "audio",
        "three hours of words by volunteers in nine languages and more; build it once by: jielong data build spoken-words",
    ),
    "strokes": ("video", "978 Chinese characters written stroke by stroke, by name and pace, 17 frames of 64 x 64; ships with jielong-zoo"),
    "synthetic-speech": ("audio", "sentences by speech synthesizers, of any amount; build it by: jielong data build synthetic-speech"),
    "fashion-mnist": ("image", "clothes in ten classes, 28 x 28, grey; on Debian: apt install dataset-fashion-mnist"),
}
"""Kind of media and description of the built-in data sets (:data:`jielong.data.opening.BUILT_IN`)."""

MEDIA = {"ALONG_ROWS": "image", "ALONG_TIME": "audio", "ALONG_FRAMES": "video"}
"""Kinds of media by the names of their axes in :mod:`jielong.core.medium`."""


@dataclass(frozen=True, order=True)
class Entry:
    """A recipe, model, part or data set.

    Attributes:
        name: Its name, as `jielong show` takes it.
        about: One sentence.
        medium: Its kind of media; ``None`` for any.
    """

    name: str
    about: str
    medium: str | None = None


def recipes() -> list[Entry]:
    """The built-in recipes, small versions for tests at the end."""
    texts = built_in()
    found = [Entry(name, headline(text), _medium_of(text, texts)) for name, text in texts.items()]
    return sorted(found, key=lambda entry: (entry.name.endswith("-tiny"), entry.name))


def _medium_of(text: str, texts: dict[str, str]) -> str | None:
    """The kind of media of a built-in recipe: that of its set."""
    block = re.search(r"^data:.*\n(?:[ \t]+.*\n)*", text, re.M)
    section = read_mapping(block[0], "data")[0]["data"] if block else None
    name = section.get("set") if isinstance(section, dict) else None
    if name is not None:
        first = name[0] if isinstance(name, list) else name
        return SETS[str(first).partition("?")[0]][0]
    base = re.search(r"^extends: *([\w-]+)", text, re.M)
    return _medium_of(texts[base[1]], texts) if base and base[1] in texts else "image"


def models() -> list[Entry]:
    """The shipped models."""
    found = []
    for name, folder in zoo().items():
        media = description(folder).get("media")
        kind = media.get("kind") if isinstance(media, dict) else None
        found.append(Entry(name, card_line(folder) or kind_text(folder), kind))
    return found


def sets() -> list[Entry]:
    """The built-in data sets."""
    return [Entry(name, about, kind) for name, (kind, about) in SETS.items()]


def parts() -> list[Entry]:
    """The parts of all families, named ``family.part``."""
    return [Entry(f"{family}.{part.name}", part.about, part.medium) for family in FAMILIES for part in parts_of(family)]


@cache
def parts_of(family: str) -> tuple[Entry, ...]:
    """The parts of a family, read from source, since importing the package imports torch."""
    spec = importlib.util.find_spec(FAMILIES[family])
    places = spec.submodule_search_locations if spec is not None else None
    modules = [ast.parse(file.read_text("utf-8")) for place in places or () for file in sorted(Path(place).glob("*.py"))]
    classes = {node.name: node for module in modules for node in module.body if isinstance(node, ast.ClassDef)}
    return tuple(sorted(part for module in modules for part in _declared(module, family, classes)))


def _declared(module: ast.Module, family: str, classes: dict[str, ast.ClassDef]) -> Iterator[Entry]:
    """Parts declared in a module; the module's docstring describes a single part."""
    found = []
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            keywords = {word.arg: word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)}
            if keywords.get("family") == family and "name" in keywords:
                found.append((str(keywords["name"]), ast.get_docstring(node) or "", _axes(node, classes)))
    about = ast.get_docstring(module) or ""
    alone = len(found) == 1 and not about.startswith("Settings")
    for name, text, axes in found:
        yield Entry(name, plain_text((about if alone else text).split("\n\n")[0]), MEDIA.get(axes))


def _axes(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> str:
    """The name that a class, or the first of its bases that does, assigns to ``axes``; empty without one."""
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and ast.unparse(line.target) == "axes" and line.value is not None:
            return ast.unparse(line.value)
    bases = (classes[name] for base in node.bases if (name := ast.unparse(base).rpartition(".")[2]) in classes and name != node.name)
    return next(filter(None, (_axes(base, classes) for base in bases)), "")
