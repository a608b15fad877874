"""Who is compared, and what an equal budget means for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jielong.config import recipe as recipes
from jielong.config.registry import RecipeError, nearest
from jielong.config.schema import Recipe
from jielong.system import DESCRIPTION, find, zoo

SCHEDULED = frozenset({"start_samples", "finetune_at", "entropy_samples", "temperature_samples", "kl_samples"})
"""Settings of parts that count samples: when a loss joins, when a stage begins, how long something is annealed."""
ENDLESS = 10**12
"""Samples that no budget of time reaches."""


@dataclass(frozen=True)
class Budget:
    """What every recipe may spend: samples, or seconds of wall time.

    Raises:
        ValueError: unless exactly one is given, and it is positive.
    """

    samples: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.samples is None) == (self.seconds is None):
            raise ValueError("an equal budget is a number of samples or a time: give one of them")
        if (self.samples or self.seconds or 0) <= 0:
            raise ValueError("an equal budget must be more than nothing")

    def __str__(self) -> str:
        return f"{self.samples:,} samples" if self.samples is not None else f"{self.seconds:g} s of training"


@dataclass(frozen=True)
class Contestant:
    """One row of the comparison.

    Attributes:
        label: Its name in the table and of its files.
        recipe: What to train, or what the checkpoint was trained by.
        checkpoint: Name or folder of what is trained already; ``None`` for a recipe.
    """

    label: str
    recipe: Recipe
    checkpoint: str | None = None

    @property
    def kind(self) -> str:
        """``tokenizer`` or ``generator``: they have different figures."""
        return "generator" if self.recipe.trains_generator else "tokenizer"


def contestants(names: Sequence[str], overrides: Sequence[str] = ()) -> list[Contestant]:
    """Read what was named: shipped models, checkpoint folders, recipes' names and files.

    Args:
        names: At least one.
        overrides: ``a.b=c`` changes to every recipe (checkpoints are what they are).

    Raises:
        ValueError: if a name leads to nothing, is given twice, or a recipe builds on a model that is not there.
    """
    found = [_read(name, overrides) for name in names]
    labels = [each.label for each in found]
    for each in found:
        if labels.count(each.label) > 1:
            raise ValueError(f"{each.label!r} is named twice: each row of a comparison needs a name of its own")
        if each.checkpoint is None:
            for model in each.recipe.requires.values():
                find(model)
    return found


def _read(name: str, overrides: Sequence[str]) -> Contestant:
    path = Path(name)
    if name in zoo() or (path / DESCRIPTION).is_file():
        folder = find(name)
        return Contestant(name if name in zoo() else path.resolve().name, recipes.load(str(folder)), name)
    try:
        loaded = recipes.load(name, overrides)
    except RecipeError as error:
        known = [*recipes.built_in(), *zoo()]
        if path.exists() or name in recipes.built_in():
            raise
        raise RecipeError(f"there is no recipe, shipped model or checkpoint called {name!r}; {nearest(name, known)}") from error
    return Contestant(path.stem if path.suffix in (".yaml", ".yml") else path.resolve().name if path.is_dir() else name, loaded)


def at(budget: Budget, recipe: Recipe, seed: int | None = None) -> Recipe:
    """The recipe within the budget.

    A budget of samples scales everything in the recipe that counts samples (warm-up, starts of losses and stages, annealing), so that its
    schedule keeps its shape. A budget of time leaves them, since nobody knows beforehand how many samples it will bring, and lifts the
    recipe's own limit on samples, so that none stops early.

    Args:
        budget: To spend.
        recipe: By which.
        seed: Of the run; the recipe's own if not given.
    """
    own = recipe.train
    warmup = own.warmup if own.warmup is not None else own.samples // 50
    fresh = {"log_every": None, "sample_every": None, "save_every": None, "seed": own.seed if seed is None else seed}
    if budget.samples is None:
        train = own.model_copy(update={**fresh, "samples": ENDLESS, "warmup": warmup})
        return recipe.model_copy(update={"train": train})
    share = budget.samples / own.samples
    page = yaml.safe_load(recipe.to_yaml())
    _scale(page, share)
    page["train"] |= {**fresh, "samples": budget.samples, "warmup": min(round(warmup * share), budget.samples - 1)}
    return recipes.parse(yaml.safe_dump(page, sort_keys=False), "the recipe at the comparison's budget")


def _scale(page: Any, share: float) -> None:
    if isinstance(page, dict):
        for key, value in page.items():
            if key in SCHEDULED and isinstance(value, int) and not isinstance(value, bool):
                page[key] = round(value * share)
            else:
                _scale(value, share)


def unreached(recipe: Recipe, samples: int) -> list[str]:
    """What a run of so many samples never came to, in sentences."""
    page = yaml.safe_load(recipe.to_yaml())
    return [
        f"{path} is {when:,}, and the run saw {samples:,} samples: it never came to it"
        for path, when in _starts(page)
        if when >= samples > 0
    ]


def _starts(page: Any, path: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(page, Mapping):
        for key, value in page.items():
            here = f"{path}.{key}" if path else str(key)
            if key in ("start_samples", "finetune_at") and isinstance(value, int):
                yield here, value
            else:
                yield from _starts(value, here)
