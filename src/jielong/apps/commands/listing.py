"""``jielong list``: recipes, models, data sets and parts. Does not import torch, to start quickly."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jielong.apps.commands.screen import results, table
from jielong.config.recipe import built_in, headline
from jielong.config.registry import FAMILIES
from jielong.config.zoo import card_line, zoo

SETS = {
    "emoji": "drawings of emoji with captions, 64 x 64, in two styles; ships with jielong-zoo",
    "emoji-full": "the same with two more styles; build it once by: jielong data build emoji-full",
    "faces": "24,000 drawings of people from attributes, in five styles, with captions, 64 x 64; ships with jielong-zoo",
    "faces-edits": "pairs of faces that differ in one attribute, and the instruction between them; ships with jielong-zoo",
    "icons": "1,276 icons of a desktop by name and context, 64 x 64; build it once by: jielong data build icons",
    "prompts": "two hours of spoken prompts with transcripts, five languages and voices; build it once by: jielong data build prompts",
    "sounds": "short synthesiser, drum and instrument samples by name; ships with jielong-zoo",
    "spoken-words": "three hours of words by volunteers in nine languages and more; build it once by: jielong data build spoken-words",
    "synthetic-speech": "sentences by speech synthesizers, of any amount; build it by: jielong data build synthetic-speech",
    "fashion-mnist": "clothes in ten classes, 28 x 28, grey; on Debian: apt install dataset-fashion-mnist",
}
"""Built-in data sets (:data:`jielong.data.opening.BUILT_IN`)."""


class Description(NamedTuple):
    """A part and the first paragraph of its docstring."""

    name: str
    summary: str


def list_all() -> None:
    """List recipes, shipped models, data sets and the parts of recipes."""
    recipes = [(name, headline(text)) for name, text in sorted(built_in().items())]
    results.print(table("Recipes  (jielong train RECIPE)", ("name", "what it is"), recipes))
    models = [(folder.name, *_model(folder)) for folder in zoo().values()]
    if models:
        results.print(table("Shipped models  (jielong generate MODEL)", ("name", "size", "what it is"), models))
    else:
        results.print("Shipped models: none are installed; pip install jielong-zoo\n", markup=False)
    results.print(table("Data sets  (jielong train RECIPE --data SET-OR-PATH)", ("name", "what it is"), SETS.items()))
    parts = [(family if first else "", *part) for family in FAMILIES for first, part in _marked(parts_of(family))]
    results.print(table("Parts of a recipe", ("family", "name", "what it is"), parts))


def _marked(parts: list[Description]) -> Iterator[tuple[bool, Description]]:
    return ((place == 0, part) for place, part in enumerate(parts))


def _model(folder: Path) -> tuple[str, str]:
    weights = folder / "model.safetensors"
    size = f"{weights.stat().st_size / 1e6:.1f} MB" if weights.exists() else "no weights"
    return size, card_line(folder) or _kind(folder)


def _kind(folder: Path) -> str:
    """Kind of a checkpoint without a model card."""
    try:
        described = json.loads((folder / "model.json").read_text("utf-8"))
        size = " x ".join(map(str, described["media"]["size"]))
        return f"{'tokenizer' if described['tokenizer_sha256'] is None else 'generator'} of {size} pictures"
    except (OSError, ValueError, KeyError):
        return ""


def parts_of(family: str) -> list[Description]:
    """Parts of a family, read from source, since importing the package imports torch."""
    spec = importlib.util.find_spec(FAMILIES[family])
    places = spec.submodule_search_locations if spec is not None else None
    files = [file for place in places or () for file in sorted(Path(place).glob("*.py"))]
    return sorted(part for file in files for part in _declared(ast.parse(file.read_text("utf-8")), family))


def _declared(module: ast.Module, family: str) -> list[Description]:
    """Parts declared in a module; the module's docstring describes a single part."""
    found = []
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            keywords = {word.arg: word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)}
            if keywords.get("family") == family and "name" in keywords:
                found.append((str(keywords["name"]), ast.get_docstring(node) or ""))
    about = ast.get_docstring(module) or ""
    alone = len(found) == 1 and not about.startswith("Settings")
    return [Description(name, " ".join((about if alone else text).split("\n\n")[0].replace("``", "").split())) for name, text in found]
