"""The actions between the frames of a clip as a condition (robot actions of the Video Pixel Network, arXiv 1610.00527, section 5.2)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from jielong.conditions.base import NO_CONTEXT, BuildContext
from jielong.conditions.framewise import FramewiseCondition, FramewiseSettings, check_column, zeros_beyond
from jielong.conditions.inputs import ConditionInput, HeldoutItems
from jielong.config.registry import nearest
from jielong.core.text import shown

if TYPE_CHECKING:
    from jielong.core.medium import Medium
    from jielong.data.sets import Batch, MediaSet
    from jielong.tokenizers.base import Tokenizer

COLUMN = "actions"
"""Of a set: for each clip a text of names, a list of them, or a list of vectors."""
Value = str | Sequence[str] | Sequence[Sequence[float]] | Tensor


class ActionsInput(ConditionInput):
    """The actions of a clip, of which the first leads from the first frame to the second: a text of names, or a tensor ``(n, numbers)``."""

    name = "actions"
    noun = "the actions between frames"
    help = "Actions between the frames, such as 'left forward forward'; repeatable."

    def from_batch(self, batch: Batch, medium: Medium) -> list[str]:
        """The items' keys, by which :meth:`ActionsCondition.precompute` stores actions."""
        return batch.keys

    def from_heldout(self, items: HeldoutItems) -> Sequence[object] | None:
        """The column of the set."""
        return items.columns.get(COLUMN)

    def check(self, data: MediaSet, source: str) -> None:
        """There must be the column."""
        check_column(self, COLUMN, "missions", data, source)

    def missing(self, data: MediaSet) -> list[int]:
        """Items without a list or text of actions; none is a list of none."""
        return [row for row, value in enumerate(data.columns.get(COLUMN, [None] * len(data))) if value is None]

    def is_single(self, value: object) -> bool:
        """A text, or a matrix of numbers."""
        return (isinstance(value, Tensor) and value.ndim == 2) or super().is_single(value)

    def from_json(self, value: object) -> object:
        """A text of names, or a list of lists of numbers."""
        if isinstance(value, list) and all(isinstance(row, list) and all(isinstance(x, int | float) for x in row) for row in value):
            return torch.tensor(value, dtype=torch.float32) if value else ""
        return super().from_json(value)


class ActionsCondition(FramewiseCondition[Value]):
    """The vector of a frame is that of the action that leads to it; the first frame has none."""

    def __init__(self, tokenizer: Tokenizer, settings: Actions) -> None:
        super().__init__(tokenizer, settings)
        self.names = () if isinstance(settings.kinds, int) else settings.kinds
        self.numbers = settings.kinds if isinstance(settings.kinds, int) else None
        self.map: nn.Module = (
            nn.Embedding(len(self.names) + 1, settings.width, padding_idx=0)
            if self.numbers is None
            else nn.Linear(self.numbers, settings.width, bias=False)
        )
        self.known = dict[str, Tensor]()

    def precompute(self, train: MediaSet, heldout: MediaSet) -> None:
        """Read the column of both splits; actions beyond the frames of a clip are not used, as its frames are not."""
        for data in (train, heldout):
            for key, value in zip(data.keys, data.columns[COLUMN], strict=True):
                try:
                    self.known[key] = self._read(value)[: self.frames - 1]
                except ValueError as error:
                    raise ValueError(f"{data.name}: {key}: {error}") from error

    def _read(self, value: Value) -> Tensor:
        """Numbers of names from 1, ``(n,)`` long, or ``(n, numbers)`` float."""
        if self.numbers is not None:
            try:
                found = torch.as_tensor(value, dtype=torch.float32)
            except (TypeError, ValueError):
                raise ValueError(f"actions are rows of {self.numbers} numbers, not {shown(value)}") from None
            found = found.reshape(0, self.numbers) if not found.numel() else found
            if found.ndim != 2 or found.shape[1] != self.numbers or not found.isfinite().all():
                raise ValueError(f"actions are rows of {self.numbers} finite numbers, not {tuple(found.shape)}")
            return found
        words = re.split(r"[\s,]+", value.strip()) if isinstance(value, str) else list(value)
        words = [word for word in words if word != ""]
        for word in words:
            if word not in self.names:
                raise ValueError(f"there is no action {word!r}: {nearest(str(word), list(self.names))}")
        return torch.tensor([self.names.index(str(word)) + 1 for word in words], dtype=torch.long)

    def prepare(self, values: Sequence[Value]) -> Tensor:
        """Values, one per item, to ``(B, T)`` long or ``(B, T, numbers)``. Raises ``ValueError`` for more actions than a clip has."""
        found = []
        for value in values:
            read = self.known[value] if isinstance(value, str) and value in self.known else self._read(value)
            if len(read) > self.frames - 1:
                raise ValueError(f"there are {len(read)} actions, and a clip of {self.frames} frames has at most {self.frames - 1}")
            found.append(zeros_beyond(torch.cat([read.new_zeros(1, *read.shape[1:]), read]), self.frames))
        return torch.stack(found)

    def vectors(self, prepared: Tensor) -> Tensor:
        """See :meth:`FramewiseCondition.vectors`."""
        vectors: Tensor = self.map(prepared)
        return vectors

    def describe(self) -> dict[str, object]:
        """The names, or how many numbers."""
        return {"names": list(self.names)} if self.numbers is None else {"numbers": self.numbers}


class Actions(FramewiseSettings, family="condition", name="actions"):
    """Settings of the condition on the actions between frames.

    Attributes:
        kinds: The names of all actions, such as ``[left, right, forward]``, or how many numbers an action is.
    """

    input: ClassVar[ConditionInput] = ActionsInput()
    kinds: tuple[str, ...] | Annotated[int, Field(ge=1)]

    @field_validator("kinds")
    @classmethod
    def _words(cls, value: tuple[str, ...] | int) -> tuple[str, ...] | int:
        names = () if isinstance(value, int) else value
        if faulty := [name for name in names if re.search(r"[\s,]", name) or not name]:
            raise ValueError(f"a name of an action is one word, not {faulty[0]!r}")
        if len(set(names)) < len(names) or value == ():
            raise ValueError("name all actions, each once, such as [left, right, forward]; or give how many numbers an action is")
        return value

    def build(self, context: BuildContext = NO_CONTEXT) -> ActionsCondition:
        """The condition. Raises ``ValueError`` without a tokenizer, or if its tokens do not lie in a clip."""
        return ActionsCondition(self.tokenizer_of(context), self)
