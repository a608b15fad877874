"""What a generator is told: raw conditions (captions, class numbers) become feature vectors that a backbone attends to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from jielong.config.registry import Part
from jielong.core.rng import PerSampleRNG
from jielong.networks.conditioning import AlignedStates, Alignment, Conditioning

if TYPE_CHECKING:
    from jielong.data.sets import Batch


class Condition(nn.Module, ABC):
    """Turns raw conditions into :class:`Conditioning` in two steps.

    ``prepare`` does what needs no gradient (tokenising, frozen encoders, look-ups) and may be cached; ``forward`` does
    the rest. A dropped condition is replaced by a learned null, which classifier-free guidance (arXiv 2207.12598) needs.
    """

    width: int
    """Channels of the feature vectors."""
    aligned: Alignment | None = None
    """How its states are told position by position (:attr:`Conditioning.along`), if they are."""

    def __init__(self, width: int, cfg_dropout: float) -> None:
        super().__init__()
        if not 0.0 <= cfg_dropout < 1.0:
            raise ValueError(f"the share of dropped conditions must be in [0, 1), not {cfg_dropout}")
        self.width = width
        self.cfg_dropout = cfg_dropout
        self.null = nn.Parameter(torch.randn(width) * 0.02)

    @abstractmethod
    def prepare(self, values: Sequence[Any]) -> Any:
        """Raw values to what ``forward`` takes. Raises ``ValueError`` for a value it cannot read."""

    def resolve(self, value: Any) -> Any:
        """A raw value in the form that is prepared soonest: itself, unless it must be read or heard."""
        return value

    @abstractmethod
    def embed(self, prepared: Any) -> Conditioning:
        """Prepared values to feature vectors."""

    def drops(self, rng: PerSampleRNG) -> Tensor:
        """Which items are told nothing in a step of training, ``(B,)`` bool."""
        return rng.uniform() < self.cfg_dropout

    def forward(self, prepared: Any, dropped: Tensor | None = None) -> Conditioning:
        """Feature vectors, with the null vector where ``dropped`` (``(B,)`` bool) is true."""
        return self.without(self.embed(prepared), dropped)

    def without(self, given: Conditioning, dropped: Tensor | None) -> Conditioning:
        """Feature vectors, with the null vector in the place of those ``dropped``, ``(B,)`` bool."""
        if dropped is None:
            return given
        null = self.nothing(len(dropped), given.states.device)
        gone = dropped.to(given.states.device)
        states, mask = _replaced(given.states, given.mask, null.states, gone)
        along = None
        if given.along is not None and null.along is not None:
            along = AlignedStates(*_replaced(given.along.states, given.along.mask, null.along.states, gone))
        return Conditioning(states, mask, torch.where(gone[:, None], null.pooled.to(given.pooled.dtype), given.pooled), along)

    def nothing(self, batch: int, device: torch.device | str | None = None) -> Conditioning:
        """The condition that says nothing, ``(B, 1, width)``."""
        null = self.null.expand(batch, self.width)
        mask = torch.ones(batch, 1, dtype=torch.bool, device=device or null.device)
        return Conditioning(null[:, None], mask, null, AlignedStates(null[:, None], mask) if self.aligned else None)

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What must match for this condition to mean the same elsewhere (encoder, hash, classes)."""


def _replaced(states: Tensor, mask: Tensor, null: Tensor, gone: Tensor) -> tuple[Tensor, Tensor]:
    """States and mask with one null state in the place of those ``gone``."""
    mask = mask.clone()
    mask[:, 1:] &= ~gone[:, None]
    mask[:, 0] |= gone
    return torch.where(gone[:, None, None], null.to(states.dtype), states), mask


class ConditionSettings(Part):
    """Settings of a condition: ``build(classes)`` makes it, and :meth:`raw` finds what it is told in a batch.

    Attributes:
        reads: What it is told: ``text``, ``class``, ``voice``, ``emotion``, ``seconds``, or ``several`` of them.
    """

    reads: ClassVar[str] = ""

    def build(self, classes: Sequence[str] = ()) -> Condition:
        """The condition, of data with these classes."""
        raise NotImplementedError(f"{type(self).__name__} builds no condition")

    def raw(self, batch: Batch, rate: int | None = None) -> Any:
        """The raw values of a batch, one an item; ``None`` where the data have none.

        Args:
            batch: Media with their words.
            rate: Samples a second, for what is told in seconds.
        """
        if self.reads == "text":
            return batch.captions
        if self.reads == "class":
            return batch.labels
        if self.reads in ("voice", "emotion"):
            return batch.keys
        return None if batch.lengths is None or rate is None else (batch.lengths.double() / rate).tolist()
