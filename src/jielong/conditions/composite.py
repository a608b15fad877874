"""Several conditions at once, such as a text, a voice and a duration: states are concatenated, pooled vectors added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, NamedTuple, cast

import torch
from pydantic import SerializeAsAny, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.conditions.base import NO_CONTEXT, BuildContext, Condition, ConditionSettings
from jielong.conditions.inputs import InputError
from jielong.config.registry import OfFamily, nearest
from jielong.core.rng import Draws, PerSampleRNG
from jielong.data.order import spread
from jielong.networks.conditioning import AlignedStates, Alignment, Conditioning

if TYPE_CHECKING:
    from jielong.core.tokens import Tokens
    from jielong.data.sets import MediaSet


class PartInputs(NamedTuple):
    """Inputs of one part for a batch."""

    prepared: object  # its prepared values, of the items that have one; None where none has
    present: Tensor  # (B,) bool: which items have one


class CompositeCondition(Condition[Mapping[str, object], dict[str, PartInputs]]):
    """Each condition through a linear map to one width, plus a learned vector of its own.

    An item's value is a mapping from the conditions' names to their values; a condition that it leaves out is replaced by its null vector,
    if it was trained with one. ``cfg_dropout`` replaces all of them by one null vector, the unconditional case of guidance; each
    condition's ``cfg_dropout`` replaces that condition alone, independently.

    ``cfg_dropout``: fraction of items whose conditions are all dropped in training.
    """

    def __init__(self, parts: Mapping[str, Condition], width: int, cfg_dropout: float) -> None:
        super().__init__(width, cfg_dropout)
        self.parts = nn.ModuleDict(parts)
        self.maps = nn.ModuleDict({name: nn.Linear(part.width, width) for name, part in parts.items()})
        self.alignment = next((part.alignment for part in parts.values() if part.alignment), None)
        self.length = sum(part.length for part in parts.values())
        self.keeps_a_part = any(part.kept_by_guidance for part in parts.values()) and len(parts) > 1
        self.begins = any(part.begins for part in parts.values())
        self.positioned = any(part.positioned for part in parts.values())
        self.kinds = nn.ParameterDict({name: nn.Parameter(torch.randn(width) * 0.02) for name in parts})

    @property
    def _parts(self) -> dict[str, Condition]:
        return {name: part for name, part in self.parts.items() if isinstance(part, Condition)}

    def draw_dropped(self, rng: PerSampleRNG) -> Tensor:
        """Which conditions of each item are dropped, ``(B, 1 + conditions)`` bool; the first column is for all at once."""
        probabilities = torch.tensor([self.cfg_dropout, *(part.cfg_dropout for part in self._parts.values())])
        return rng.uniform(len(probabilities)) < probabilities.to(rng.device)

    def prepare(self, values: Sequence[Mapping[str, object]]) -> dict[str, PartInputs]:
        """A mapping per item to the inputs of each part.

        Raises ``ValueError`` if an item names an unknown condition, lacks one that was never dropped in training, or has a value that
        cannot be read.
        """
        if isinstance(values, Mapping | str):
            raise ValueError(f"a composite condition reads a list of mappings, one per item, such as [{{{', '.join(self._parts)}: ...}}]")
        for value in values:
            if not isinstance(value, Mapping):
                raise ValueError(f"each item is a mapping with {', '.join(self._parts)}, not {value!r}")
            if unknown := [name for name in value if name not in self._parts]:
                raise ValueError(f"there is no condition {unknown[0]!r} here; {nearest(str(unknown[0]), list(self._parts))}")
        return {name: self._inputs_of(name, part, [value.get(name) for value in values]) for name, part in self._parts.items()}

    def resolve(self, value: Mapping[str, object]) -> Mapping[str, object]:
        """Resolves the value of each condition; what cannot be read is left for :meth:`prepare` to refuse."""
        if not isinstance(value, Mapping):
            return value
        parts = self._parts
        return {name: parts[name].resolve(each) if name in parts and each is not None else each for name, each in value.items()}

    def start(self, values: Sequence[Mapping[str, object]]) -> tuple[Tokens, Tensor] | None:
        """That of the part that begins the items. Raises ``ValueError`` if only some of them have its value."""
        for name, part in self._parts.items():
            given = [value.get(name) for value in values]
            if not part.begins or all(value is None for value in given):
                continue
            if any(value is None for value in given):
                raise ValueError(f"some items begin with a {name!r} and others do not: draw them by two calls")
            return part.start(given)
        return None

    def unreadable(self, data: MediaSet) -> dict[int, str]:
        """Those of all conditions."""
        return {row: reason for part in self._parts.values() for row, reason in part.unreadable(data).items()}

    def precompute(self, train: MediaSet, heldout: MediaSet) -> None:
        """That of all conditions."""
        for part in self._parts.values():
            part.precompute(train, heldout)

    def count_aligned(self, values: Sequence[Mapping[str, object]]) -> list[int] | None:
        """That of the condition with an alignment."""
        return next((part.count_aligned([value[name] for value in values]) for name, part in self._parts.items() if part.alignment), None)

    def _inputs_of(self, name: str, part: Condition, values: list[object]) -> PartInputs:
        present = torch.tensor([value is not None for value in values])
        if not present.all() and part.cfg_dropout == 0:
            raise ValueError(f"every item needs a {name!r}, which was never dropped in training (its cfg_dropout is 0)")
        known = [value for value in values if value is not None]
        return PartInputs(part.prepare(known) if known else None, present)

    def noised(self, prepared: dict[str, PartInputs], draws: Draws) -> dict[str, PartInputs]:
        """Those of all conditions, each from streams of its own."""
        parts, streams = self._parts, draws.each(len(self._parts))
        return {
            name: inputs if inputs.prepared is None else PartInputs(parts[name].noised(inputs.prepared, at[inputs.present]), inputs.present)
            for (name, inputs), at in zip(prepared.items(), (streams[:, index] for index in range(len(prepared))), strict=True)
        }

    def forward(self, prepared: dict[str, PartInputs], dropped: Tensor | None = None) -> Conditioning:
        """States; ``dropped`` is ``(B,)`` bool for all conditions at once, or as :meth:`draw_dropped` returns it."""
        if dropped is None or dropped.ndim == 1:
            return self.with_nulls(self.embed(prepared), dropped)
        return self.with_nulls(self.embed(prepared, dropped[:, 1:]), dropped[:, 0])

    def embed(self, prepared: dict[str, PartInputs], dropped: Tensor | None = None) -> Conditioning:
        """States of all conditions, ``(B, L, width)``; those ``dropped``, ``(B, conditions)`` bool, are replaced by null vectors."""
        parts, aligned, positions, references = list[Conditioning](), None, list[Tensor](), None
        for index, (name, part) in enumerate(self._parts.items()):
            found = _embed_part(part, prepared[name], None if dropped is None else dropped[:, index])
            parts.append(Conditioning(self.maps[name](found.states) + self.kinds[name], found.mask, self.maps[name](found.pooled)))
            if found.positions is not None:
                positions.append(F.linear(found.positions, self._map(name).weight))  # without bias: zeros are no vector
            if found.references is not None:  # of one part, since a composite has at most one picture
                states = self.maps[name](found.references.states) + self.kinds[name]
                references = replace(found.references, states=states)
            if found.aligned_states is not None:
                aligned = AlignedStates(self.maps[name](found.aligned_states.states) + self.kinds[name], found.aligned_states.mask)
        return Conditioning(
            torch.cat([part.states for part in parts], 1),
            torch.cat([part.mask for part in parts], 1),
            torch.stack([part.pooled for part in parts]).sum(0),
            aligned,
            references,
            torch.stack(positions).sum(0) if positions else None,
        )

    def _map(self, name: str) -> nn.Linear:
        return cast("nn.Linear", self.maps[name])

    def check_guided(self) -> None:
        """See :meth:`Condition.check_guided`: beside a condition that guidance keeps, all others were dropped at times."""
        kept = [name for name, part in self._parts.items() if part.kept_by_guidance]
        always = [name for name, part in self._parts.items() if part.cfg_dropout == 0 and name not in kept]
        if kept and always:
            raise ValueError(
                f"guidance compares with {' and '.join(kept)} alone, and {' and '.join(always)} would never be left out in training: set "
                f"condition.composite.parts.{always[0]}.cfg_dropout above 0, such as 0.1, or sampling.guidance to 1"
            )

    def compared(self, values: Sequence[Mapping[str, object]], draws: Draws | None = None) -> Conditioning:
        """Items with only the conditions that guidance keeps, where there are any."""
        kept = [name for name, part in self._parts.items() if part.kept_by_guidance]
        rows = [{name: value[name] for name in kept if value.get(name) is not None} for value in values]
        if not any(rows):
            return self.unconditional(len(values))
        prepared = self.prepare(rows)
        prepared = prepared if draws is None else self.noised(prepared, draws)
        with_kept: Conditioning = self(prepared, torch.tensor([not row for row in rows]))
        return with_kept

    def describe(self) -> dict[str, object]:
        """The descriptions of all conditions."""
        return {name: part.describe() for name, part in self._parts.items()}


def _embed_part(part: Condition, inputs: PartInputs, dropped: Tensor | None) -> Conditioning:
    """A condition's states for a whole batch, with its null vector for items without a value."""
    if inputs.prepared is None:
        return part.unconditional(len(inputs.present))
    if bool(inputs.present.all()):
        return part(inputs.prepared, dropped)
    given: Conditioning = part(inputs.prepared, None if dropped is None else dropped[inputs.present.to(dropped.device)])
    null = part.unconditional(len(inputs.present)).padded(given.states.shape[1])
    rows, aligned = inputs.present.nonzero()[:, 0].to(given.states.device), None
    if given.aligned_states is not None and null.aligned_states is not None:
        blank = null.aligned_states.padded(given.aligned_states.states.shape[1])
        states = blank.states.to(given.aligned_states.states.dtype).index_copy(0, rows, given.aligned_states.states)
        aligned = AlignedStates(states, blank.mask.index_copy(0, rows, given.aligned_states.mask))
    references = given.references
    if references is not None:
        none = references.of_none(len(null))
        references = replace(
            none, states=none.states.index_copy(0, rows, references.states), mask=none.mask.index_copy(0, rows, references.mask)
        )
    return Conditioning(
        null.states.to(given.states.dtype).index_copy(0, rows, given.states),
        null.mask.index_copy(0, rows, given.mask),
        null.pooled.to(given.pooled.dtype).index_copy(0, rows, given.pooled),
        aligned,
        references,
        None
        if given.positions is None
        else given.positions.new_zeros(len(null), *given.positions.shape[1:]).index_copy(0, rows, given.positions),
    )


class Composite(ConditionSettings, family="condition", name="composite"):
    """Settings of several conditions.

    ::

        condition: {composite: {parts: {characters: {cfg_dropout: 0}, voice: {cfg_dropout: 0.1}, length: {}}, width: 256, cfg_dropout: 0.1}}

    Attributes:
        parts: The conditions, each with its own settings.
        width: Channels of the states of all conditions.
        cfg_dropout: Fraction of items whose conditions are all replaced by the null vector in training.
    """

    parts: Annotated[tuple[SerializeAsAny[ConditionSettings], ...], OfFamily("condition", many=True)]

    @field_validator("parts")
    @classmethod
    def _check_parts(cls, parts: tuple[ConditionSettings, ...]) -> tuple[ConditionSettings, ...]:
        names = [part.name for part in parts]
        if not names:
            raise ValueError("a composite condition has at least one part: parts: {characters: {}, voice: {}}")
        if len(set(names)) < len(names) or "composite" in names:
            raise ValueError(f"each condition may be a part once, and `composite` may not, but the parts are {', '.join(names)}")
        if alone := [part.name for part in parts if part.in_chain]:
            raise ValueError(
                f"{alone[0]} is a chain with the tokens and stands alone: write condition: {{{alone[0]}: {{}}}}, or take text here"
            )
        inputs = [part.input.name for part in parts]
        if twice := [name for name in inputs if inputs.count(name) > 1]:
            raise ValueError(f"two of {', '.join(names)} have the same input {twice[0]}: keep one of them")
        return parts

    def build(self, context: BuildContext = NO_CONTEXT) -> CompositeCondition:
        """The composite of all conditions."""
        return CompositeCondition({part.name: part.build(context) for part in self.parts}, self.width, self.cfg_dropout)

    @property
    def components(self) -> tuple[ConditionSettings, ...]:
        """The parts."""
        return self.parts

    @property
    def token_states(self) -> bool:
        """See :attr:`ConditionSettings.token_states`: those of its parts."""
        return any(part.token_states for part in self.parts)

    @property
    def gives_references(self) -> bool:
        """See :attr:`ConditionSettings.gives_references`: those of its parts."""
        return any(part.gives_references for part in self.parts)

    @property
    def alignment(self) -> Alignment | None:
        """That of the aligned part, if there is one."""
        return next((part.alignment for part in self.parts if part.alignment), None)

    @property
    def spoken_language(self) -> str | None:
        """That of its parts."""
        return next((part.spoken_language for part in self.parts if part.spoken_language), None)

    def with_words(self, words: Mapping[str, int]) -> Composite:
        """Those of its text."""
        return self.model_copy(update={"parts": tuple(part.with_words(words) for part in self.parts)})

    def values(self, columns: Mapping[str, Sequence[object]]) -> Sequence[object]:
        """A mapping per item, from the names of the parts to their values; see :meth:`ConditionSettings.values`."""
        given = {part.name: columns[part.input.name] for part in self.parts if part.input.name in columns}
        for part in self.parts:
            if part.name not in given and part.cfg_dropout == 0:
                raise InputError(f"this model needs {part.input.noun}: pass {{{part.input.name}}}", [part.input])
        return [dict(zip(given, row, strict=True)) for row in zip(*given.values(), strict=True)]

    def durations(self, values: Sequence[object]) -> list[float] | None:
        """Those of the part that sets durations."""
        each = [value for value in values if isinstance(value, Mapping)]
        return next((part.durations([value.get(part.name) for value in each]) for part in self.parts if part.input.sets_duration), None)

    def for_samples(self, data: MediaSet, count: int) -> Sequence[object]:
        """Values of the same held-out items for all parts."""
        return self.from_batch(data.batch(spread(len(data), count)), data.medium)
