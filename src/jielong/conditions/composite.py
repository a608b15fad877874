"""Several conditions at once, such as words, a voice and a length: their states one after the other, their pooled vectors added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from pydantic import Field, SerializeAsAny, field_validator
from torch import Tensor, nn

from jielong.conditions.base import Condition, ConditionSettings
from jielong.config.registry import OfFamily, nearest
from jielong.core.rng import PerSampleRNG
from jielong.networks.conditioning import AlignedStates, Conditioning


class Told(NamedTuple):
    """What one condition is told of a batch.

    Attributes:
        values: Its prepared values, of the items that say something; ``None`` where none does.
        rows: ``(B,)`` bool: which items those are.
    """

    values: Any
    rows: Tensor


class CompositeCondition(Condition):
    """Each condition through a linear map of its own to one width, marked by a learned vector.

    An item's raw value is a mapping from the conditions' names to their values; what it leaves out is replaced by that condition's null,
    if it was trained with one. ``cfg_dropout`` replaces all of them by one null, the unconditional half of guidance; each
    condition's ``cfg_dropout`` replaces that condition alone, independently.

    Args:
        parts: The conditions by name.
        width: Channels of all states.
        cfg_dropout: Share of items that are told nothing, in training.
    """

    def __init__(self, parts: Mapping[str, Condition], width: int, cfg_dropout: float) -> None:
        super().__init__(width, cfg_dropout)
        self.parts = nn.ModuleDict(parts)
        self.maps = nn.ModuleDict({name: nn.Linear(part.width, width) for name, part in parts.items()})
        self.aligned = next((part.aligned for part in parts.values() if part.aligned), None)
        self.kinds = nn.ParameterDict({name: nn.Parameter(torch.randn(width) * 0.02) for name in parts})

    @property
    def length(self) -> int:
        """Most states there can be."""
        return sum(int(getattr(part, "length", 1)) for part in self._parts.values())

    @property
    def _parts(self) -> dict[str, Condition]:
        return {name: part for name, part in self.parts.items() if isinstance(part, Condition)}

    def drops(self, rng: PerSampleRNG) -> Tensor:
        """Which conditions of each item are dropped, ``(B, 1 + conditions)`` bool; the first column says of all at once."""
        shares = torch.tensor([self.cfg_dropout, *(part.cfg_dropout for part in self._parts.values())])
        return rng.uniform(len(shares)) < shares.to(rng.device)

    def prepare(self, values: Sequence[Mapping[str, Any]]) -> dict[str, Told]:
        """A mapping an item to what each condition is told.

        Raises:
            ValueError: if an item names a condition that there is not, leaves out one that it may not, or says what cannot be read.
        """
        if values is None or isinstance(values, Mapping | str):
            raise ValueError(f"several conditions read a list of mappings, one an item, such as [{{{', '.join(self._parts)}: ...}}]")
        for value in values:
            if not isinstance(value, Mapping):
                raise ValueError(f"each item says of {', '.join(self._parts)} in a mapping, not {value!r}")
            if unknown := [name for name in value if name not in self._parts]:
                raise ValueError(f"there is no condition {unknown[0]!r} here; {nearest(str(unknown[0]), list(self._parts))}")
        return {name: self._told(name, part, [value.get(name) for value in values]) for name, part in self._parts.items()}

    def resolve(self, value: Any) -> Any:
        """Each condition's own part, settled; what cannot be read is left for :meth:`prepare` to refuse."""
        if not isinstance(value, Mapping):
            return value
        parts = self._parts
        return {name: parts[name].resolve(own) if name in parts and own is not None else own for name, own in value.items()}

    def _told(self, name: str, part: Condition, values: list[Any]) -> Told:
        rows = torch.tensor([value is not None for value in values])
        if not rows.all() and part.cfg_dropout == 0:
            raise ValueError(f"every item must say its {name}: this model was never trained without (its cfg_dropout is 0)")
        given = [value for value in values if value is not None]
        return Told(part.prepare(given) if given else None, rows)

    def forward(self, prepared: dict[str, Told], dropped: Tensor | None = None) -> Conditioning:
        """Feature vectors; ``dropped`` is ``(B,)`` bool for all at once, or as :meth:`drops` gives it."""
        if dropped is None or dropped.ndim == 1:
            return self.without(self.embed(prepared), dropped)
        return self.without(self.embed(prepared, dropped[:, 1:]), dropped[:, 0])

    def embed(self, prepared: dict[str, Told], dropped: Tensor | None = None) -> Conditioning:
        """States of all conditions, ``(B, L, width)``; ``dropped`` ``(B, conditions)`` bool says which of them are replaced by nulls."""
        said, along = [], None
        for index, (name, part) in enumerate(self._parts.items()):
            own = _spread(part, prepared[name], None if dropped is None else dropped[:, index])
            said.append(Conditioning(self.maps[name](own.states) + self.kinds[name], own.mask, self.maps[name](own.pooled)))
            if own.along is not None:
                along = AlignedStates(self.maps[name](own.along.states) + self.kinds[name], own.along.mask)
        return Conditioning(
            torch.cat([own.states for own in said], 1),
            torch.cat([own.mask for own in said], 1),
            torch.stack([own.pooled for own in said]).sum(0),
            along,
        )

    def describe(self) -> dict[str, Any]:
        """What each condition says of itself."""
        return {name: part.describe() for name, part in self._parts.items()}


def _spread(part: Condition, told: Told, dropped: Tensor | None) -> Conditioning:
    """A condition's vectors for a whole batch, with its null for items that say nothing."""
    if told.values is None:
        return part.nothing(len(told.rows))
    if bool(told.rows.all()):
        return part(told.values, dropped)
    said: Conditioning = part(told.values, None if dropped is None else dropped[told.rows.to(dropped.device)])
    nothing = part.nothing(len(told.rows)).padded(said.states.shape[1])
    where, along = told.rows.nonzero()[:, 0].to(said.states.device), None
    if said.along is not None and nothing.along is not None:
        blank = nothing.along.padded(said.along.states.shape[1])
        states = blank.states.to(said.along.states.dtype).index_copy(0, where, said.along.states)
        along = AlignedStates(states, blank.mask.index_copy(0, where, said.along.mask))
    return Conditioning(
        nothing.states.to(said.states.dtype).index_copy(0, where, said.states),
        nothing.mask.index_copy(0, where, said.mask),
        nothing.pooled.to(said.pooled.dtype).index_copy(0, where, said.pooled),
        along,
    )


class Composite(ConditionSettings, family="condition", name="composite"):
    """Settings: the conditions ``of`` which it is made, the ``width`` of all states, and the ``cfg_dropout`` of all at once.

    ::

        condition: {composite: {parts: {characters: {cfg_dropout: 0}, voice: {cfg_dropout: 0.1}, length: {}}, width: 256, cfg_dropout: 0.1}}
    """

    reads: ClassVar[str] = "composite"
    parts: Annotated[tuple[SerializeAsAny[ConditionSettings], ...], OfFamily("condition", many=True)]
    width: int = Field(default=256, ge=1)
    cfg_dropout: float = Field(default=0.1, ge=0, lt=1)

    @field_validator("parts")
    @classmethod
    def _differ(cls, parts: tuple[ConditionSettings, ...]) -> tuple[ConditionSettings, ...]:
        names = [part.name for part in parts]
        if not names:
            raise ValueError("several conditions are at least one: parts: {characters: {}, voice: {}}")
        if len(set(names)) < len(names) or "composite" in names:
            raise ValueError(
                f"each condition may stand here once, and none of them may be `several` itself, but these are {', '.join(names)}"
            )
        kinds = [part.reads for part in parts]
        if twice := [kind for kind in kinds if kinds.count(kind) > 1]:
            raise ValueError(f"two of {', '.join(names)} read the same {twice[0]}: keep one of them")
        return parts

    def build(self, classes: Sequence[str] = ()) -> CompositeCondition:
        """The conditions together."""
        return CompositeCondition({part.name: part.build(classes) for part in self.parts}, self.width, self.cfg_dropout)

    def raw(self, batch: Any, rate: int | None = None) -> list[dict[str, Any]]:
        """A mapping an item, from what the batch says."""
        columns = {part.name: part.raw(batch, rate) for part in self.parts}
        if missing := [name for name, column in columns.items() if column is None]:
            raise ValueError(f"the condition {missing[0]} has nothing to read in these data")
        columns = {name: column.tolist() if isinstance(column, Tensor) else column for name, column in columns.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
