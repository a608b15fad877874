"""``jielong list``: recipes, models, parts and data sets, a line each."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from itertools import chain
from typing import Annotated

import typer

from jielong.apps.commands.screen import columns, one_line, say, show_lines
from jielong.config import catalogue
from jielong.config.catalogue import Entry
from jielong.config.registry import RecipeError, nearest
from jielong.config.zoo import file_size, read_json, short_figure, zoo


class Kind(StrEnum):
    """What there is to list."""

    RECIPES = "recipes"
    MODELS = "models"
    PARTS = "parts"
    DATA = "data"


KINDS: dict[Kind, tuple[Callable[[], list[Entry]], str]] = {
    Kind.RECIPES: (catalogue.recipes, "systems to train; -tiny: in seconds, for tests"),
    Kind.MODELS: (catalogue.models, "trained systems, to sample from"),
    Kind.PARTS: (catalogue.parts, "tokenizers, orders, heads and other parts"),
    Kind.DATA: (catalogue.sets, "built-in data sets"),
}

What = Annotated[Kind | None, typer.Argument(metavar="[recipes|models|parts|data]", help="What to list; by default how many there are.")]
Medium = Annotated[str | None, typer.Option(help="Only those for this kind of media: image or audio.")]


def list_all(what: What = None, medium: Medium = None) -> None:
    """List recipes, shipped models, parts or data sets, a line each."""
    media = list(catalogue.MEDIA.values())
    if medium is not None and medium not in media:
        raise RecipeError(f"--medium: there is no kind of media called {medium!r}; {nearest(medium, media)}")
    wanted = list(KINDS) if what is None else [what]
    chosen = {kind: [each for each in KINDS[kind][0]() if medium is None or each.medium in (None, medium)] for kind in wanted}
    rows: list[tuple[str, ...]]
    if what is None:
        only = "" if medium is None else f" --medium {medium}"
        rows = [(str(kind), str(len(found)), f"jielong list {kind}{only}", KINDS[kind][1]) for kind, found in chosen.items()]
    elif what is Kind.MODELS:
        rows = [(each.name, *_measured(each.name), each.about) for each in chosen[what]]
    else:
        rows = [(each.name, each.about) for each in chosen[what]]
    show_lines(chain.from_iterable(columns(rows, fit=one_line)))
    if not rows:
        say("no shipped models are installed: pip install jielong-zoo" if what is Kind.MODELS else f"no {what} for {medium}")


def _measured(name: str) -> tuple[str, str]:
    """The size of a shipped model's file, and one figure."""
    folder = zoo()[name]
    return file_size(folder / "model.safetensors"), short_figure(read_json(folder / "evaluation.json"))
