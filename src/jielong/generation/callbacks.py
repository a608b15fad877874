"""What is seen of a chain on its way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from jielong.generation.sampler import Chain


@dataclass(frozen=True)
class StepEvent:
    """What ``watch`` sees: after every step, and before it each state (but the last) of a head that takes a block from noise to tokens.

    Attributes:
        step: Its number in the batch, from 1.
        values: Tokens so far, ``(B, N, C)``; those of a block that a head is drawing are its state, with noise in it.
        known: Which of them are known, ``(B, N)``.
        new: Which became known since the moment before, ``(B, N)``.
        shown: Of which there is something to show, ``(B, N)``: known tokens, and those being drawn.
        guidance: Guidance scale used.
        rows: The number of each item among all that are generated.
    """

    step: int
    values: Tensor
    known: Tensor
    new: Tensor
    shown: Tensor
    guidance: float
    rows: Sequence[int]


@dataclass(frozen=True)
class TokenChunk:
    """A piece of what a stream draws.

    Attributes:
        start: Its first position.
        values: The tokens there, ``(B, n, C)``; zeros behind an item's end.
        lengths: Tokens of each item, ``(B,)``, as far as that is known: as many as can be of items that did not end yet.
    """

    start: int
    values: Tensor
    lengths: Tensor


StepCallback = Callable[[StepEvent], None]


class EventEmitter:
    """Makes moments of what a chain does, and tells ``watch`` of them."""

    def __init__(self, chain: Chain, on_step: StepCallback) -> None:
        """Begin where the chain stands: what it knows already is not new."""
        self.chain, self.on_step = chain, on_step
        self.count, self.known = 0, chain.tokens()[1].clone()
        self.held: tuple[Tensor, Tensor, float] | None = None  # a state: the last of a block is what the step then tells of

    def step(self, guidance: float) -> None:
        """A step is done."""
        values, known = self.chain.tokens()
        self.held = None
        self._tell(values, known, known, guidance)

    def state(self, span: slice, guidance: float, state: Tensor) -> None:
        """A head that draws the block ``span`` has reached ``(B, n, C)`` on the way."""
        self._tell_held()
        values, shown = self.chain.tokens_with(span, state)
        self.held = values.clone(), shown, guidance

    def _tell_held(self) -> None:
        if self.held is not None:
            values, shown, guidance = self.held
            self._tell(values, self.known, shown, guidance)

    def _tell(self, values: Tensor, known: Tensor, shown: Tensor, guidance: float) -> None:
        self.count += 1
        before, self.known = self.known, known.clone()
        self.on_step(StepEvent(self.count, values.clone(), self.known, known & ~before, shown.clone(), guidance, self.chain.rows))
