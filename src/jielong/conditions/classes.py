"""Class conditions: a learned vector per class."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from jielong.conditions.base import NO_CONTEXT, BuildContext, Condition, ConditionSettings
from jielong.conditions.inputs import ConditionInput, HeldoutItems
from jielong.config.registry import RecipeError
from jielong.networks.conditioning import Conditioning

if TYPE_CHECKING:
    from jielong.core.medium import Medium
    from jielong.data.sets import Batch, MediaSet


class ClassInput(ConditionInput):
    """A class by name or number."""

    name = "class"
    noun = "a class"
    help = "Class name or number; repeatable."

    @property
    def keyword(self) -> str:
        """The plural, since ``class`` is reserved in Python."""
        return "classes"

    def from_batch(self, batch: Batch, medium: Medium) -> list[int] | None:
        """Class numbers."""
        return None if batch.labels is None else batch.labels.tolist()

    def from_heldout(self, items: HeldoutItems) -> list[str] | None:
        """Class names, since another set may number them in another order."""
        numbers = self.from_batch(items.batch, items.medium)
        return None if numbers is None else [items.classes[number] for number in numbers]

    def for_samples(self, data: MediaSet, count: int) -> list[int]:
        """All classes in turn."""
        return [index % len(data.classes) for index in range(count)]

    def check(self, data: MediaSet, source: str) -> None:
        """There must be classes."""
        if not data.classes:
            raise RecipeError(
                f"the recipe is conditioned on classes, but {source} has none: use one sub-folder per class, or set condition: text"
            )

    def missing(self, data: MediaSet) -> list[int]:
        """Items without a class."""
        return [row for row, label in enumerate(data.labels) if label is None]

    def from_json(self, value: object) -> object:
        """A name or a number."""
        return value if isinstance(value, int) and not isinstance(value, bool) else super().from_json(value)

    def caption(self, value: object) -> str:
        """The class."""
        return str(value)


class ClassCondition(Condition[int | str, Tensor]):
    """A table of ``len(names)`` vectors; values are class numbers or names."""

    def __init__(self, names: Sequence[str], width: int, cfg_dropout: float) -> None:
        super().__init__(width, cfg_dropout)
        if not names:
            raise ValueError("a class condition needs a data set with classes: put items in one sub-folder per class, or use text")
        self.names = list(names)
        self.table = nn.Embedding(len(self.names), width)
        nn.init.normal_(self.table.weight, std=0.02)

    def prepare(self, values: Sequence[int | str] | Tensor) -> Tensor:
        """Class numbers or names to numbers, ``(B,)``."""
        numbers = values.tolist() if isinstance(values, Tensor) else values
        return torch.tensor([self._number(value) for value in numbers], dtype=torch.long)

    def _number(self, value: int | str) -> int:
        if isinstance(value, str) and value in self.names:
            return self.names.index(value)
        numbered = not all(name.isdecimal() for name in self.names)  # otherwise digits are a name
        if isinstance(value, int) or (isinstance(value, str) and value.isdecimal() and numbered):
            if 0 <= int(value) < len(self.names):
                return int(value)
            raise ValueError(f"class {value} does not exist: classes run from 0 to {len(self.names) - 1}")
        if self.names == [str(number) for number in range(len(self.names))]:
            raise ValueError(f"there is no class {value!r}: this model's classes are the numbers 0 to {len(self.names) - 1}, without names")
        close = difflib.get_close_matches(str(value), self.names, n=1)
        raise ValueError(
            f"there is no class {value!r}; " + (f"did you mean {close[0]!r}?" if close else f"classes are {', '.join(self.names[:20])}")
        )

    def embed(self, prepared: Tensor) -> Conditioning:
        """``(B,)`` numbers to one state each, ``(B, 1, width)``."""
        return Conditioning.single(self.table(prepared.to(self.table.weight.device)))

    def describe(self) -> dict[str, object]:
        """The class names."""
        return {"classes": self.names}


class Class(ConditionSettings, family="condition", name="class"):
    """Settings of :class:`ConditionSettings`."""

    input: ClassVar[ConditionInput] = ClassInput()
    one_vector: ClassVar[bool] = True

    def build(self, context: BuildContext = NO_CONTEXT) -> ClassCondition:
        """The condition for the classes of the data."""
        return ClassCondition(context.classes, self.width, self.cfg_dropout)
