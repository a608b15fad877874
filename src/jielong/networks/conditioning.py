"""What a condition hands to a backbone: a padded sequence of states, which of them are real, and one vector for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Alignment = Literal["even", "search"]
"""How states that go along with a medium are stretched over it: evenly, or by durations searched for in training."""


@dataclass(frozen=True)
class AlignedStates:
    """States that go along with the medium, in its order: symbols of what is said.

    Attributes:
        states: ``(B, L, W)``; padding may hold anything.
        mask: ``(B, L)`` bool: true where a state is real; one is, at least.
    """

    states: Tensor
    mask: Tensor

    @property
    def real(self) -> Tensor:
        """The states, and zeros where there are none."""
        return self.states.masked_fill(~self.mask[..., None], 0)

    def padded(self, length: int) -> AlignedStates:
        """The same with padding up to ``length`` states."""
        missing = max(length - self.states.shape[1], 0)
        return AlignedStates(F.pad(self.states, (0, 0, 0, missing)), F.pad(self.mask, (0, missing))) if missing else self


@dataclass(frozen=True)
class Conditioning:
    """A batch of conditions; a backbone takes what its condition path needs.

    Attributes:
        states: ``(B, L, W)``: a sequence of states, such as the token states of a text; padding may hold anything.
        mask: ``(B, L)`` bool: true where a state is real.
        pooled: ``(B, W)``: one vector for the whole condition.
        along: States that are told position by position as well, of a condition that is aligned with the medium.
    """

    states: Tensor
    mask: Tensor
    pooled: Tensor
    along: AlignedStates | None = None

    def __post_init__(self) -> None:
        if self.states.ndim != 3:
            raise ValueError(f"condition states must be (batch, length, width), not {tuple(self.states.shape)}")
        batch, length, width = self.states.shape
        if self.mask.dtype != torch.bool or tuple(self.mask.shape) != (batch, length):
            raise ValueError(f"the condition mask must be bool ({batch}, {length}), not {self.mask.dtype} {tuple(self.mask.shape)}")
        if tuple(self.pooled.shape) != (batch, width):
            raise ValueError(f"the pooled condition must be ({batch}, {width}), not {tuple(self.pooled.shape)}")

    def __len__(self) -> int:
        return self.states.shape[0]

    def rows(self, index: slice) -> Conditioning:
        """The conditions of some items of the batch."""
        along = self.along and AlignedStates(self.along.states[index], self.along.mask[index])
        return Conditioning(self.states[index], self.mask[index], self.pooled[index], along)

    def to(self, device: torch.device | str) -> Conditioning:
        """The same conditions on another device."""
        along = self.along and AlignedStates(self.along.states.to(device), self.along.mask.to(device))
        return Conditioning(self.states.to(device), self.mask.to(device), self.pooled.to(device), along)

    def padded(self, length: int) -> Conditioning:
        """The same conditions with padding up to ``length`` states; unchanged if they are that long already."""
        missing = max(length - self.states.shape[1], 0)
        if missing == 0:
            return self
        return Conditioning(F.pad(self.states, (0, 0, 0, missing)), F.pad(self.mask, (0, missing)), self.pooled, self.along)

    @staticmethod
    def cat(*parts: Conditioning) -> Conditioning:
        """One batch after the other (for guidance: the conditional and the unconditional half), padded to the longest.

        Raises:
            ValueError: if nothing is given.
        """
        if not parts:
            raise ValueError("there is nothing to join: give at least one Conditioning")
        length = max(part.states.shape[1] for part in parts)
        parts = tuple(part.padded(length) for part in parts)
        return Conditioning(
            torch.cat([part.states for part in parts]),
            torch.cat([part.mask for part in parts]),
            torch.cat([part.pooled for part in parts]),
            _cat_along([part.along for part in parts]),
        )


def _cat_along(parts: list[AlignedStates | None]) -> AlignedStates | None:
    given = [part for part in parts if part is not None]
    if len(given) < len(parts):
        return None
    length = max(part.states.shape[1] for part in given)
    given = [part.padded(length) for part in given]
    return AlignedStates(torch.cat([part.states for part in given]), torch.cat([part.mask for part in given]))
