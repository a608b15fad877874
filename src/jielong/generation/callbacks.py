"""Events of sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from jielong.generation.sampler import Sampler
    from jielong.generation.state import SamplerState


@dataclass(frozen=True)
class StepEvent:
    """The state after a step; before it, each state (but the last) of a joint head that draws in several steps.

    Attributes:
        step: Its number in the batch, from 1.
        values: Tokens so far, ``(B, N, C)``; those of a block that a head is drawing are its noisy state.
        known: Which of them are known, ``(B, N)``.
        new: Which became known since the event before, ``(B, N)``.
        shown: Known tokens and those being drawn, ``(B, N)``.
        guidance: Guidance scale.
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
    """Consecutive tokens of a stream.

    Attributes:
        start: Their first position.
        values: The tokens, ``(B, n, C)``; zeros behind an item's end.
        lengths: Tokens of each item, ``(B,)``; the greatest possible number of items that have not ended.
    """

    start: int
    values: Tensor
    lengths: Tensor


StepCallback = Callable[[StepEvent], None]


class EventEmitter:
    """Builds step events and calls the callback.

    Args:
        sampler: The sampler.
        state: Its state; what is known already is not new.
        on_step: The callback.
    """

    def __init__(self, sampler: Sampler, state: SamplerState, on_step: StepCallback) -> None:
        self.sampler, self.sampled, self.on_step = sampler, state, on_step
        self.count, self.known = 0, sampler.tokens(state)[1].clone()
        self.held: tuple[Tensor, Tensor, float] | None = None  # an intermediate state; the last of a block is reported by the step

    def step(self, guidance: float) -> None:
        """A step is done."""
        values, known = self.sampler.tokens(self.sampled)
        self.held = None
        self._emit(values, known, known, guidance)

    def state(self, span: slice, guidance: float, block: Tensor) -> None:
        """A head that draws the block ``span`` has reached the state ``(B, n, C)``."""
        if self.held is not None:
            values, shown, scale = self.held
            self._emit(values, self.known, shown, scale)
        values, shown = self.sampler.tokens_with(self.sampled, span, block)
        self.held = values.clone(), shown, guidance

    def _emit(self, values: Tensor, known: Tensor, shown: Tensor, guidance: float) -> None:
        self.count += 1
        before, self.known = self.known, known.clone()
        self.on_step(StepEvent(self.count, values.clone(), self.known, known & ~before, shown.clone(), guidance, self.sampler.rows))
