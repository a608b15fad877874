"""``jielong show``: a recipe, a model or a part: settings with their sources or descriptions, and derived sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import BaseModel

from jielong.apps.commands.screen import columns, quantity, results, say, show_lines, wrap
from jielong.apps.commands.showing_models import model_lines
from jielong.apps.commands.showing_parts import show_place, yaml_of
from jielong.config.hub_address import is_address
from jielong.config.places import find_place
from jielong.config.recipe import built_in, load, origins, read_text
from jielong.config.registry import RecipeError
from jielong.config.schema import Recipe
from jielong.config.zoo import zoo

if TYPE_CHECKING:
    from jielong.training.experiment import Experiment

Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change a setting, such as train.lr=1e-3; repeatable.")]
Data = Annotated[str | None, typer.Option(help="A data set's name or a path, or several with commas between, instead of the recipe's.")]
Name = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe's name, a YAML file, or a model: its name, folder or hf://USER/NAME.")
]
What = Annotated[
    str, typer.Argument(metavar="NAME", help="A recipe, a YAML file, a model, a checkpoint folder, or a part such as head.mean_flow.")
]


def folder_of(name: str) -> Path:
    """What a name means, which may not exist; torch is imported for an address of the Hub alone."""
    if not is_address(name):
        return zoo().get(name, Path(name))
    from jielong.system import find

    return find(name)


def source_of(name: str) -> str:
    """What :func:`load` reads a recipe from: a built-in name, a file, or the folder of a model."""
    is_model = name not in built_in() and (is_address(name) or name in zoo())
    return str(folder_of(name)) if is_model else name


def show(
    name: What,
    data: Data = None,
    overrides: Overrides = None,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print YAML: the whole recipe, or a part's settings to start from.")] = False,
) -> None:
    """Print the settings of a recipe, a model or a part; of recipes and models also derived sizes, with the source of each."""
    folder = folder_of(name)
    if name not in built_in() and not folder.exists():
        place = find_place(name)
        if data is not None or overrides:
            raise RecipeError(f"{name} is a part: --data and --set are for recipes and models")
        if as_yaml:
            typer.echo(yaml_of(place), nl=False)
        else:
            show_place(place)
        return
    recipe = name if name in built_in() else str(folder)
    settings = load(recipe, overrides or ())
    if as_yaml:
        typer.echo(with_data(settings, data).to_yaml(), nl=False)
        return
    if recipe != name or folder.is_dir():
        show_lines(model_lines(name, folder, settings))
    print_settings(settings, recipe, overrides or (), data)
    try:
        print_sizes(prepared(settings, data))
    except (ValueError, OSError) as error:
        from jielong.data.source import DataError

        other = "; --data reads another set" if isinstance(error, DataError) and data is None else ""
        say(f"without derived sizes: {error}{other}")


def prepared(settings: Recipe, data: str | None) -> Experiment:
    """The experiment with data and parts."""
    from jielong.training.experiment import prepare

    return prepare(settings, data)


def with_data(recipe: Recipe, data: str | None) -> Recipe:
    """A recipe with another set."""
    return recipe if data is None else recipe.model_copy(update={"data": recipe.data.model_copy(update={"set": data})})


def print_settings(recipe: Recipe, name: str, overrides: Sequence[str], data: str | None) -> None:
    """Print every setting and its source: the recipe or one that it extends, the command line, a default or a rule."""
    text, origin = read_text(name)
    sources = origins(text, origin)
    changed = tuple(override.partition("=")[0] for override in overrides)
    rows = []
    for path, value, explicit in settings_of(with_data(recipe, data)):
        overridden = any(path == each or path.startswith(f"{each}.") for each in changed)
        rows.append((path, value, "--set" if overridden else _source(path, sources, origin) if explicit else "default"))
    resolved = recipe.train.resolved()
    for index, (path, value, _) in enumerate(rows):
        section, _, key = path.partition(".")
        if section == "train" and value == "none" and getattr(resolved, key) is not None:
            rows[index] = (path, _plain(getattr(resolved, key)), "derived")
        elif path == "data.set" and data is not None:
            rows[index] = (path, value, "--data")
    head = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    show_lines(line for each in (origin, *filter(None, head)) for line in wrap(each, results.width))
    show_lines(chain.from_iterable(columns([("setting", "value", "from"), *rows], flexible=1)), "Settings")


def _source(path: str, sources: Mapping[tuple[str, ...], str], own: str) -> str:
    """``recipe`` for a setting that the recipe itself gives; the name of the recipe that it extends for another."""
    keys = tuple(path.split("."))
    given = next((sources[keys[:depth]] for depth in range(len(keys), 0, -1) if keys[:depth] in sources), own)
    return "recipe" if given == own else given


def print_sizes(experiment: Experiment) -> None:
    """Print the derived sizes."""
    from jielong.apps.sizes import sizes

    def value(size: float | str, unit: str) -> str:
        if isinstance(size, str):
            return size
        return quantity(size, unit) if unit or size >= 1e6 else f"{size:,.4g}" if size % 1 else f"{size:,.0f}"

    rows = [(size.name, value(size.value, size.unit), size.source) for size in sizes(experiment)]
    show_lines(chain.from_iterable(columns([("size", "value", "from"), *rows], flexible=1)), "Derived sizes")


def settings_of(value: object, path: str = "", explicit: bool = True) -> Iterator[tuple[str, str, bool]]:
    """Every setting as ``(path, value, explicit)``; settings that are not explicit are defaults."""
    name = getattr(type(value), "name", "") if isinstance(value, BaseModel) else ""
    if isinstance(value, BaseModel):
        prefix = f"{path}.{name}" if name and path else path
        if not type(value).model_fields:
            yield prefix, "(no settings)", explicit
        for key in type(value).model_fields:
            yield from settings_of(getattr(value, key), f"{prefix}.{key}" if prefix else key, explicit and key in value.model_fields_set)
    elif isinstance(value, tuple) and value and all(isinstance(item, BaseModel) for item in value):
        for item in value:
            yield from settings_of(item, path, explicit)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from settings_of(item, f"{path}.{key}", explicit)
    else:
        yield path, _plain(value), explicit


def _plain(value: object) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{value}"
