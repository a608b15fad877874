"""How a condition stands in the chain before the first token: as a prefix of states, and as the start.

The first position reads no token. By default a learned placeholder stands there; the condition can stand in its place (LlamaGen, arXiv
2406.06525), or be added to it (VAR, 2404.02905). The start is the condition's pooled vector, or, behind a prefix, the last of its states,
which then is no part of the prefix: the first token is predicted where the condition ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from jielong.networks.conditioning import Conditioning

Start = Literal["placeholder", "condition", "sum"]
"""What stands at the first position: the learned placeholder, the condition in its place, or their sum."""


@dataclass(frozen=True)
class Beginning:
    """A condition as it stands in the chain."""

    prefix: Tensor | None = None  # (B, P, D): states before all positions
    real: Tensor | None = None  # (B, P) bool, false at their padding
    causal: bool = False  # whether the prefix is read in order
    start: Tensor | None = None  # (B, 1, D): added to the input of the first position

    @property
    def length(self) -> int:
        """Positions of the prefix."""
        return 0 if self.prefix is None else self.prefix.shape[1]

    def begun(self, x: Tensor) -> Tensor:
        """Inputs ``(B, n, D)`` from the first position on, with the start."""
        return x if self.start is None else torch.cat((x[:, :1] + self.start.to(x.dtype), x[:, 1:]), dim=1)


def real_states(conditioning: Conditioning) -> Tensor:
    """The condition's states with zeros at padding, which may hold anything, NaN too."""
    return conditioning.states.masked_fill(~conditioning.mask[..., None], 0)


class ConditionPrefix(nn.Sequential):
    """A condition's states ``(B, L, W)`` as positions ``(B, L, D)`` before all others."""

    def __init__(self, condition_width: int, width: int) -> None:
        super().__init__(nn.Linear(condition_width, width), nn.GELU(approximate="tanh"), nn.Linear(width, width))

    def forward(self, conditioning: Conditioning) -> Tensor:
        """``(B, L, D)``."""
        return cast("Tensor", super().forward(real_states(conditioning)))

    def beginning(self, conditioning: Conditioning, ends_at_start: bool) -> Beginning:
        """All states as a prefix, or all but the last, which is the start. Raises ``ValueError`` if that is padding."""
        states, real, causal = self(conditioning), conditioning.mask, conditioning.causal
        if not ends_at_start:
            return Beginning(states, real, causal)
        if not bool(real[:, -1].all()):
            raise ValueError(
                "the last state of a condition is the chain's start, and here it is padding: pad on the left (a text: {padding: left}), or "
                "take start: placeholder"
            )
        before = states[:, :-1] if states.shape[1] > 1 else None
        return Beginning(before, None if before is None else real[:, :-1], causal, states[:, -1:])


def start_map(condition_width: int, width: int) -> nn.Module:
    """The pooled vector to the start: as it is where it has the channels of a position, otherwise a linear map."""
    return nn.Identity() if condition_width == width else nn.Linear(condition_width, width)
