"""A condition's output: a padded sequence of states with its mask, and one pooled vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Alignment = Literal["even", "search"]
"""How aligned states are mapped to positions: evenly, or by durations that monotonic alignment search finds in training."""


@dataclass(frozen=True)
class AlignedStates:
    """States in the order of the medium, such as the symbols of a transcript."""

    states: Tensor  # (B, L, W); padding may hold anything
    mask: Tensor  # (B, L) bool: true at states, false at padding; there is at least one state

    @property
    def real(self) -> Tensor:
        """The states, with zeros as padding."""
        return self.states.masked_fill(~self.mask[..., None], 0)

    def padded(self, length: int) -> AlignedStates:
        """The same, padded to ``length`` states."""
        missing = max(length - self.states.shape[1], 0)
        return AlignedStates(F.pad(self.states, (0, 0, 0, missing)), F.pad(self.mask, (0, missing))) if missing else self


@dataclass(frozen=True)
class References:
    """Tokens of reference pictures, which stand in one sequence with those that are drawn (FLUX.2)."""

    states: Tensor  # (B, R, W); those without a picture may hold anything
    mask: Tensor  # (B, R) bool: false where an item has no picture
    coords: Tensor  # (R, 3) time above 0, row and column, equal for all items, on the CPU

    def change(self, states: Callable[[Tensor], Tensor]) -> References:
        """The same with changed states and mask."""
        return References(states(self.states), states(self.mask), self.coords)

    def without(self, items: Tensor) -> References:
        """The same for all but some items, ``(B,)`` bool."""
        return References(self.states, self.mask & ~items[:, None], self.coords)

    def of_none(self, batch: int) -> References:
        """As many tokens for items without a picture."""
        shape = (batch, *self.states.shape[1:])
        return References(self.states.new_zeros(shape), self.mask.new_zeros(shape[:2]), self.coords)


@dataclass(frozen=True)
class Conditioning:
    """A batch of conditions; a backbone uses what its way of conditioning needs."""

    states: Tensor  # (B, L, W): a sequence of states, such as the token states of a text; padding may hold anything
    mask: Tensor  # (B, L) bool: true at states, false at padding
    pooled: Tensor  # (B, W): one vector of the whole condition
    aligned_states: AlignedStates | None = None  # states that are also added to the inputs position by position
    references: References | None = None  # tokens of reference pictures, for networks that read them beside the states
    positions: Tensor | None = None  # (B, N, W): vectors that are added to the inputs at the tokenizer's positions; zeros for none
    causal: bool = False  # whether a state sees only states before it, where they stand in the chain before the tokens

    def __post_init__(self) -> None:
        if self.states.ndim != 3:
            raise ValueError(f"condition states must be (batch, length, width), not {tuple(self.states.shape)}")
        batch, length, width = self.states.shape
        if self.mask.dtype != torch.bool or tuple(self.mask.shape) != (batch, length):
            raise ValueError(f"the condition mask must be bool ({batch}, {length}), not {self.mask.dtype} {tuple(self.mask.shape)}")
        if tuple(self.pooled.shape) != (batch, width):
            raise ValueError(f"the pooled condition must be ({batch}, {width}), not {tuple(self.pooled.shape)}")

    @staticmethod
    def single(vectors: Tensor) -> Conditioning:
        """One state per item, which is also the pooled vector, from ``(B, W)``."""
        return Conditioning(vectors[:, None], torch.ones(len(vectors), 1, dtype=torch.bool, device=vectors.device), vectors)

    def __len__(self) -> int:
        return self.states.shape[0]

    @property
    def padding_mask(self) -> Tensor | None:
        """:attr:`mask`, or ``None`` where nothing is padding."""
        return None if bool(self.mask.all()) else self.mask

    def positioned(self, vectors: Tensor | None) -> Conditioning:
        """The same with :attr:`positions`."""
        return replace(self, positions=vectors)

    def rows(self, index: slice | Tensor) -> Conditioning:
        """Some items of the batch: a slice, or their numbers ``(n,)``."""
        aligned = self.aligned_states and AlignedStates(self.aligned_states.states[index], self.aligned_states.mask[index])
        positions = None if self.positions is None else self.positions[index]
        references = self.references and self.references.change(lambda each: each[index])
        return Conditioning(self.states[index], self.mask[index], self.pooled[index], aligned, references, positions, self.causal)

    def to(self, device: torch.device | str) -> Conditioning:
        """The same on another device."""
        aligned = self.aligned_states and AlignedStates(self.aligned_states.states.to(device), self.aligned_states.mask.to(device))
        positions = None if self.positions is None else self.positions.to(device)
        states, mask, pooled = (each.to(device) for each in (self.states, self.mask, self.pooled))
        references = self.references and self.references.change(lambda each: each.to(device))
        return Conditioning(states, mask, pooled, aligned, references, positions, self.causal)

    def padded(self, length: int) -> Conditioning:
        """The same, padded to ``length`` states; unchanged if they are that long already."""
        missing = max(length - self.states.shape[1], 0)
        if missing == 0:
            return self
        return replace(self, states=F.pad(self.states, (0, 0, 0, missing)), mask=F.pad(self.mask, (0, missing)))

    def ending(self) -> Conditioning:
        """The same with padding before the states of each item, so that the last one is real."""
        return self._ordered(self.mask)

    def compact(self) -> Conditioning:
        """The same with padding behind the states of each item, for networks that number states: between those of two conditions too."""
        return self._ordered(~self.mask)

    def _ordered(self, last: Tensor) -> Conditioning:
        """The same with the states of each item where ``last``, ``(B, L)`` bool, is false, then the others."""
        if self.padding_mask is None:
            return self
        order = last.long().argsort(dim=1, stable=True)
        states = self.states.gather(1, order[..., None].expand_as(self.states))
        return replace(self, states=states, mask=self.mask.gather(1, order))

    @staticmethod
    def cat(*parts: Conditioning) -> Conditioning:
        """Concatenate batches, padded to the longest. Raises ``ValueError`` without a batch."""
        if not parts:
            raise ValueError("nothing to concatenate: give at least one Conditioning")
        length = max(part.states.shape[1] for part in parts)
        parts = tuple(part.padded(length) for part in parts)
        return Conditioning(
            torch.cat([part.states for part in parts]),
            torch.cat([part.mask for part in parts]),
            torch.cat([part.pooled for part in parts]),
            _cat_aligned([part.aligned_states for part in parts]),
            _cat_references(parts),
            _cat_positions(parts),
            any(part.causal for part in parts),
        )


def _cat_references(parts: Sequence[Conditioning]) -> References | None:
    """None of the items of a part without."""
    first = next((part.references for part in parts if part.references is not None), None)
    if first is None:
        return None
    given = [first.of_none(len(part)) if part.references is None else part.references for part in parts]
    return References(torch.cat([each.states for each in given]), torch.cat([each.mask for each in given]), first.coords)


def _cat_positions(parts: Sequence[Conditioning]) -> Tensor | None:
    """Zeros where a part has none."""
    first = next((part.positions for part in parts if part.positions is not None), None)
    if first is None:
        return None
    return torch.cat([first.new_zeros(len(part), *first.shape[1:]) if part.positions is None else part.positions for part in parts])


def _cat_aligned(parts: list[AlignedStates | None]) -> AlignedStates | None:
    given = [part for part in parts if part is not None]
    if len(given) < len(parts):
        return None
    length = max(part.states.shape[1] for part in given)
    given = [part.padded(length) for part in given]
    return AlignedStates(torch.cat([part.states for part in given]), torch.cat([part.mask for part in given]))
