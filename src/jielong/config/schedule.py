"""Settings counted in samples of the training budget: warm-up, starts of losses and stages, annealing, intervals.

A recipe writes each as a number of samples, or as a share of ``train.samples`` between 0 and 1, which is resolved when it is read. With
another budget all of them scale by the ratio of the budgets (:func:`rescaled`), so the shape of every schedule is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal, TypeGuard, TypeVar

from pydantic import BaseModel, BeforeValidator, Field

from jielong.config.registry import Part
from jielong.config.yaml_text import Value

Path = tuple[str, ...]
Settings = TypeVar("Settings", bound=BaseModel)
_BUDGET: ContextVar[int | None] = ContextVar("samples of the recipe that is read", default=None)


def is_share(value: object) -> bool:
    """Whether a value is a share of the budget, not a number of samples."""
    return isinstance(value, float) and 0 < value < 1


def samples_of(recipe: object) -> int | None:
    """``train.samples`` of a recipe's values; ``None`` if it is missing or no number of samples."""
    train = recipe.get("train") if isinstance(recipe, Mapping) else None
    samples = train.get("samples") if isinstance(train, Mapping) else None
    return int(samples) if _is_number(samples) and samples >= 1 else None


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


@contextmanager
def budget_of(recipe: object) -> Iterator[None]:
    """Resolve shares by the ``train.samples`` of a recipe's values, which are read meanwhile."""
    token = _BUDGET.set(samples_of(recipe))
    try:
        yield
    finally:
        _BUDGET.reset(token)


def _resolved(value: object) -> object:
    """A share of the budget as a number of samples; other values unchanged."""
    if isinstance(value, float) and value == 1:
        raise ValueError("must be a number of samples, or a share of train.samples above 0 and below 1")
    if not isinstance(value, float) or not is_share(value):
        return value
    samples = _BUDGET.get()
    if samples is None:
        raise ValueError("is a share of the budget, which needs a recipe with train.samples; give a number of samples")
    return max(1, round(value * samples))


@dataclass(frozen=True)
class Scheduled:
    """Marks a setting counted in samples: something starts or ends there, or repeats at this interval."""

    what: Literal["start", "end", "interval"]


_Samples = Annotated[int, Field(ge=0), BeforeValidator(_resolved)]
Start = Annotated[_Samples, Scheduled("start")]
"""Samples seen when something begins, or a share of the budget."""
End = Annotated[_Samples, Scheduled("end")]
"""Samples seen when a warm-up or an annealing ends, or a share of the budget."""
Interval = Annotated[_Samples, Field(gt=0), Scheduled("interval")]
"""Samples between two events, or a share of the budget."""


@dataclass(frozen=True)
class ScheduledSetting:
    """A setting of a recipe that is counted in samples; ``path`` is that in the recipe, such as ``("train", "warmup")``."""

    path: Path
    samples: int
    what: Literal["start", "end", "interval"]

    @property
    def name(self) -> str:
        """Its path with dots."""
        return ".".join(self.path)


def scheduled(settings: BaseModel) -> list[ScheduledSetting]:
    """The settings of a recipe that are counted in samples and set."""
    found: list[ScheduledSetting] = []

    def note(path: Path, samples: int, mark: Scheduled) -> int:
        found.append(ScheduledSetting(path, samples, mark.what))
        return samples

    _changed(settings, note, ())
    return found


def _nothing(path: Path) -> bool:
    return False


def rescaled(settings: Settings, ratio: Fraction, kept: Callable[[Path], bool] = _nothing) -> Settings:
    """Settings with every number of samples multiplied by ``ratio`` and rounded down, except those at ``kept`` paths."""

    def change(path: Path, samples: int, mark: Scheduled) -> int:
        return samples if kept(path) else _scaled(samples, ratio, mark)

    return _changed(settings, change, ())


def _changed(settings: Settings, change: Callable[[Path, int, Scheduled], int], path: Path) -> Settings:
    if isinstance(settings, Part) and settings.name and path:
        path = (*path, settings.name)
    update: dict[str, object] = {}
    for key, field in type(settings).model_fields.items():
        value = getattr(settings, key)
        mark = _mark(field.annotation, field.metadata)
        new: object = value
        if mark is not None:
            new = change((*path, key), value, mark) if isinstance(value, int) else value
        elif isinstance(value, BaseModel):
            new = _changed(value, change, (*path, key))
        elif isinstance(value, tuple) and any(isinstance(item, BaseModel) for item in value):
            new = tuple(_changed(item, change, (*path, key)) if isinstance(item, BaseModel) else item for item in value)
            new = value if all(one is other for one, other in zip(new, value, strict=True)) else new
        if new is not value and new != value:
            update[key] = new
    return settings.model_copy(update=update) if update else settings


def _mark(annotation: object, metadata: Iterable[object] = ()) -> Scheduled | None:
    """The mark of a field, also in ``Start | None``."""
    own = [item for item in (*metadata, *getattr(annotation, "__metadata__", ())) if isinstance(item, Scheduled)]
    return own[0] if own else next((found for part in getattr(annotation, "__args__", ()) if (found := _mark(part)) is not None), None)


def of_train(recipe: dict[str, Value], train: type[BaseModel], ratio: Fraction, kept: Callable[[Path], bool]) -> dict[str, Value]:
    """A recipe's values with the numbers of samples in its section ``train`` multiplied by ``ratio``, except at ``kept`` paths."""
    section = recipe.get("train")
    if ratio == 1 or not isinstance(section, dict):
        return recipe
    moved = dict(section)
    for key, field in train.model_fields.items():
        mark, value = _mark(field.annotation, field.metadata), section.get(key)
        if mark is not None and _is_number(value) and not kept(("train", key)):
            moved[key] = _scaled(value, ratio, mark)
    return {**recipe, "train": moved}


def _scaled(samples: float, ratio: Fraction, mark: Scheduled) -> int:
    return max(math.floor(samples * ratio), int(mark.what == "interval"))
