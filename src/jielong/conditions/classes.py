"""Class conditions: one learned vector a class."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from jielong.conditions.base import Condition, ConditionSettings
from jielong.networks.conditioning import Conditioning


class ClassCondition(Condition):
    """A table of ``len(names)`` vectors; values are class numbers or names."""

    def __init__(self, names: Sequence[str], width: int, cfg_dropout: float) -> None:
        super().__init__(width, cfg_dropout)
        if not names:
            raise ValueError("a class condition needs a data set with classes: put pictures in one sub-folder a class, or use text")
        self.names = list(names)
        self.table = nn.Embedding(len(self.names), width)
        nn.init.normal_(self.table.weight, std=0.02)

    def prepare(self, values: Sequence[int | str] | Tensor | None) -> Tensor:
        """Class numbers or names to numbers, ``(B,)``."""
        if values is None:
            raise ValueError("a class condition needs a class of every picture, but these have none")
        if isinstance(values, Tensor):
            values = values.tolist()
        return torch.tensor([self._number(value) for value in values], dtype=torch.long)

    def _number(self, value: int | str) -> int:
        if isinstance(value, str) and value in self.names:
            return self.names.index(value)
        if isinstance(value, int) or (isinstance(value, str) and value.isdecimal()):
            if 0 <= int(value) < len(self.names):
                return int(value)
            raise ValueError(f"class {value} does not exist: classes run from 0 to {len(self.names) - 1}")
        close = difflib.get_close_matches(str(value), self.names, n=1)
        raise ValueError(
            f"there is no class {value!r}; " + (f"did you mean {close[0]!r}?" if close else f"classes are {', '.join(self.names[:20])}")
        )

    def embed(self, prepared: Tensor) -> Conditioning:
        """``(B,)`` numbers to one state each, ``(B, 1, width)``."""
        vectors = self.table(prepared.to(self.table.weight.device))
        return Conditioning(vectors[:, None], torch.ones(len(vectors), 1, dtype=torch.bool, device=vectors.device), vectors)

    def describe(self) -> dict[str, Any]:
        """The class names."""
        return {"classes": self.names}


class Class(ConditionSettings, family="condition", name="class"):
    """Settings: ``width`` of the class vectors, ``cfg_dropout`` share of conditions replaced by the null in training."""

    reads: ClassVar[str] = "class"
    width: int = Field(default=256, ge=1)
    cfg_dropout: float = Field(default=0.1, ge=0, lt=1)

    def build(self, classes: Sequence[str] = ()) -> ClassCondition:
        """The condition for these classes."""
        return ClassCondition(classes, self.width, self.cfg_dropout)
