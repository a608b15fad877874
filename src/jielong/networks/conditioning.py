"""What a condition hands to a backbone: a padded sequence of states, which of them are real, and one vector for all of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """A batch of conditions; a backbone takes what its condition path needs.

    Attributes:
        states: ``(B, L, W)``: a sequence of states, such as the token states of a text; padding may hold anything.
        mask: ``(B, L)`` bool: true where a state is real.
        pooled: ``(B, W)``: one vector for the whole condition.
    """

    states: Tensor
    mask: Tensor
    pooled: Tensor

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
        return Conditioning(self.states[index], self.mask[index], self.pooled[index])

    def to(self, device: torch.device | str) -> Conditioning:
        """The same conditions on another device."""
        return Conditioning(self.states.to(device), self.mask.to(device), self.pooled.to(device))

    def padded(self, length: int) -> Conditioning:
        """The same conditions with padding up to ``length`` states; unchanged if they are that long already."""
        missing = max(length - self.states.shape[1], 0)
        if missing == 0:
            return self
        return Conditioning(F.pad(self.states, (0, 0, 0, missing)), F.pad(self.mask, (0, missing)), self.pooled)

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
            torch.cat([part.states for part in parts]), torch.cat([part.mask for part in parts]), torch.cat([part.pooled for part in parts])
        )
