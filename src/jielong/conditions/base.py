"""The interface of conditions: named inputs, such as captions or class names, become states that a backbone attends to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import TypeVar

from jielong.conditions.inputs import ConditionInput, HeldoutItems
from jielong.config.registry import Part, parts_of
from jielong.core.rng import Draws, PerSampleRNG
from jielong.networks.conditioning import AlignedStates, Alignment, Conditioning

if TYPE_CHECKING:
    from jielong.core.medium import Medium
    from jielong.core.tokens import Tokens
    from jielong.data.sets import Batch, MediaSet
    from jielong.tokenizers.base import Tokenizer

Value = TypeVar("Value", default=Any)
Prepared = TypeVar("Prepared", default=Any)


class Condition(nn.Module, ABC, Generic[Value, Prepared]):
    """Turns one value per item into :class:`Conditioning`.

    ``prepare`` does what needs no gradient (tokenising, frozen encoders, look-ups); ``forward`` does the rest. Dropped conditions are
    replaced by a learned null vector, for classifier-free guidance (arXiv 2207.12598).

    ``cfg_dropout``: fraction of conditions replaced by the null vector in training, in [0, 1).
    """

    alignment: Alignment | None = None
    """How :attr:`Conditioning.aligned_states` are mapped to positions, if there are any."""
    length: int = 1
    """Most states per item."""
    positioned: bool = False
    """Whether it has vectors along positions (:attr:`Conditioning.positions`)."""
    begins: bool = False
    """Whether its values are the first tokens of what is generated (:meth:`start`)."""
    kept_by_guidance: bool = False
    """Whether, beside others in a composite, guidance compares with this condition alone, and not with none."""
    loss_weight: float = 0.0
    """Share of the training loss that is :meth:`loss`, the condition's own; the rest is the head's."""

    keeps_a_part: bool = False
    """Whether guidance compares with a part of it, so that this part may have a scale of its own."""

    def __init__(self, width: int, cfg_dropout: float) -> None:
        super().__init__()
        if not 0.0 <= cfg_dropout < 1.0:
            raise ValueError(f"cfg_dropout must be in [0, 1), not {cfg_dropout}")
        self.width = width
        self.cfg_dropout = cfg_dropout
        self.null = nn.Parameter(torch.randn(width) * 0.02)

    @abstractmethod
    def prepare(self, values: Sequence[Value]) -> Prepared:
        """Values, one per item, to the argument of :meth:`forward`. Raises ``ValueError`` if a value cannot be read."""

    def start(self, values: Sequence[Value]) -> tuple[Tokens, Tensor] | None:
        """Tokens with which the items begin, ``(B, n, C)``, and which of them are given, ``(n,)`` bool; where :attr:`begins`."""
        return None

    def resolve(self, value: Value) -> Value:
        """A value in the form that is fastest to prepare: recordings are encoded, everything else is returned as it is."""
        return value

    def noised(self, prepared: Prepared, draws: Draws) -> Prepared:
        """Prepared values with what is random about them, in training and sampling; unchanged by default. ``draws``: a stream an item."""
        return prepared

    @abstractmethod
    def embed(self, prepared: Prepared) -> Conditioning:
        """Prepared values to states."""

    def draw_dropped(self, rng: PerSampleRNG) -> Tensor:
        """Which items' conditions are dropped in a training step, ``(B,)`` bool."""
        return rng.uniform() < self.cfg_dropout

    def forward(self, prepared: Prepared, dropped: Tensor | None = None) -> Conditioning:
        """States, with the null vector where ``dropped``, ``(B,)`` bool, is true."""
        return self.with_nulls(self.embed(prepared), dropped)

    def with_nulls(self, conditioning: Conditioning, dropped: Tensor | None) -> Conditioning:
        """Replace the states of ``dropped`` items, ``(B,)`` bool, by the null vector."""
        if dropped is None:
            return conditioning
        null, states = self.unconditional(len(dropped), conditioning.states.device), conditioning.aligned_states
        dropped = dropped.to(conditioning.states.device)
        aligned = None
        if states is not None and null.aligned_states is not None:
            aligned = AlignedStates(*_replaced(states.states, states.mask, null.aligned_states.states, dropped))
        pooled = torch.where(dropped[:, None], null.pooled.to(conditioning.pooled.dtype), conditioning.pooled)
        positions = None if conditioning.positions is None else conditioning.positions.masked_fill(dropped[:, None, None], 0)
        states_and_mask = _replaced(conditioning.states, conditioning.mask, null.states, dropped)
        references = conditioning.references and conditioning.references.without(dropped)
        return Conditioning(*states_and_mask, pooled, aligned, references, positions, conditioning.causal)

    def unconditional(self, batch: int, device: torch.device | str | None = None) -> Conditioning:
        """The null vector of every item, ``(B, 1, width)``."""
        null = self.null.expand(batch, self.width)
        mask = torch.ones(batch, 1, dtype=torch.bool, device=device or null.device)
        return Conditioning(null[:, None], mask, null, AlignedStates(null[:, None], mask) if self.alignment else None)

    def check_guided(self) -> None:
        """Raise ``ValueError`` if guidance would lead away from what training never saw."""

    def compared(self, values: Sequence[Value], draws: Draws | None = None) -> Conditioning:
        """What guidance leads away from, of items with these values: by default no condition. ``draws``: as of :meth:`noised`."""
        return self.unconditional(len(values))

    def unreadable(self, data: MediaSet) -> dict[int, str]:
        """Indices of the items of a set whose values cannot be read, each with the reason; none by default."""
        return {}

    def precompute(self, train: MediaSet, heldout: MediaSet) -> None:
        """Before training: check all values and cache what :meth:`prepare` computes. Raises ``ValueError`` if they cannot be read."""

    def count_aligned(self, values: Sequence[Value]) -> list[int] | None:
        """Aligned states of each value; ``None`` without alignment."""
        return None

    def add_output(self, width: int) -> None:
        """Build what :meth:`loss` reads hidden vectors of ``width`` channels with; called once, before training."""

    def predict(self, hidden: Tensor) -> Tensor:
        """What :meth:`loss` is computed of, from hidden vectors at all states ``(B, L, D)``."""
        raise NotImplementedError(f"{type(self).__name__} has no loss of its own")

    def loss(self, hidden: Tensor, prepared: Prepared, conditioning: Conditioning) -> Tensor:
        """The condition's own loss of each item, ``(B,)``, where :attr:`loss_weight` is above 0.

        Args:
            hidden: Hidden vectors at the condition's states, which stand in the chain before the tokens, ``(B, L, D)``.
            prepared: What the states were made of.
            conditioning: The states, with the null where they were dropped.
        """
        raise NotImplementedError(f"{type(self).__name__} has no loss of its own")

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """What a checkpoint records: encoder, hash of its weights, classes."""


def _replaced(states: Tensor, mask: Tensor, null: Tensor, dropped: Tensor) -> tuple[Tensor, Tensor]:
    mask = mask.clone()
    mask[:, 1:] &= ~dropped[:, None]
    mask[:, 0] |= dropped
    return torch.where(dropped[:, None, None], null.to(states.dtype), states), mask


@dataclass(frozen=True)
class BuildContext:
    """What a condition may be built from."""

    classes: Sequence[str] = ()  # classes of the data
    stages: Mapping[str, Tokenizer] = field(default_factory=dict)  # tokenizers of the recipe's earlier stages by name
    tokenizer: Tokenizer | None = None  # of the tokens to generate


NO_CONTEXT = BuildContext()


class ConditionSettings(Part):
    """Settings of a condition, which declare its named :attr:`input` and build it.

    Attributes:
        width: Channels of the states.
        cfg_dropout: Fraction of conditions replaced by the null vector in training, for classifier-free guidance.
    """

    input: ClassVar[ConditionInput]  # how its values are supplied
    in_chain: ClassVar[bool] = False  # its states stand in the chain before the tokens and are predicted: it needs a backbone with a prefix
    transcript: ClassVar[bool] = False  # the value is a text that is spoken, not a description
    one_vector: ClassVar[bool] = False  # a value is one vector, without further states
    width: int = Field(default=256, ge=1)
    cfg_dropout: float = Field(default=0.1, ge=0, lt=1)

    def build(self, context: BuildContext = NO_CONTEXT) -> Condition:
        """The condition."""
        raise NotImplementedError(f"{type(self).__name__} builds no condition")

    @property
    def components(self) -> tuple[ConditionSettings, ...]:
        """The conditions with an input each."""
        return (self,)

    @property
    def inputs(self) -> tuple[ConditionInput, ...]:
        """The named inputs."""
        return tuple(part.input for part in self.components)

    @property
    def token_states(self) -> bool:
        """Whether an item has several states, such as those of its text's tokens, and not one vector alone."""
        return not self.one_vector

    @property
    def gives_references(self) -> bool:
        """Whether it has :attr:`Conditioning.references`, which only some networks read."""
        return False

    @property
    def alignment(self) -> Alignment | None:
        """As of :attr:`Condition.alignment`."""
        return None

    @property
    def reads_stage(self) -> str | None:
        """Name of the earlier stage whose output is its value; ``None`` where a call gives the value."""
        return None

    @property
    def spoken_language(self) -> str | None:
        """ISO 639-1 code of the language of its transcripts, if fixed."""
        return None

    def with_words(self, words: Mapping[str, int]) -> ConditionSettings:
        """The settings with new words of texts, each with its number of vectors; unchanged where it reads no words."""
        return self

    def values(self, columns: Mapping[str, Sequence[object]]) -> Sequence[object]:
        """Values of the condition, one per item. Raises ``InputError`` if an input is missing that training never dropped."""
        return columns[self.input.name]

    def durations(self, values: Sequence[object]) -> list[float] | None:
        """Durations in seconds that all values give; ``None`` where they do not."""
        seconds = [value for value in values if isinstance(value, int | float)] if self.input.sets_duration else []
        return seconds if len(seconds) == len(values) else None

    def from_batch(self, batch: Batch, medium: Medium) -> Sequence[object]:
        """Values of a training batch; see :meth:`ConditionInput.from_batch`. Raises ``ValueError`` if the data lack an input."""
        return self._from_data({each: each.from_batch(batch, medium) for each in self.inputs}, "the data set")

    def from_heldout(self, items: HeldoutItems) -> Sequence[object]:
        """Values of held-out items, for evaluation; see :meth:`ConditionInput.from_heldout`."""
        return self._from_data({each: each.from_heldout(items) for each in self.inputs}, items.source)

    def for_samples(self, data: MediaSet, count: int) -> Sequence[object]:
        """Values of the sample grid of training; see :meth:`ConditionInput.for_samples`."""
        return self._from_data({self.input: self.input.for_samples(data, count)}, data.name)

    def _from_data(self, columns: Mapping[ConditionInput, Sequence[object] | None], source: str) -> Sequence[object]:
        found = dict[str, Sequence[object]]()
        for each, column in columns.items():
            if column is None:
                raise ValueError(f"the model needs {each.noun} for every item, but {source} lacks some: choose another set")
            found[each.name] = column
        return self.values(found)


def registered_inputs() -> dict[str, ConditionInput]:
    """The inputs of all known conditions by name."""
    parts = [part for part in parts_of("condition").values() if issubclass(part, ConditionSettings)]
    return {part.input.name: part.input for part in parts if hasattr(part, "input")}
