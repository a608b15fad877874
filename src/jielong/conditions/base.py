"""What a generator is told: raw conditions (captions, class numbers) become feature vectors that a backbone attends to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from jielong.networks.conditioning import Conditioning


class Condition(nn.Module, ABC):
    """Turns raw conditions into :class:`Conditioning` in two steps.

    ``prepare`` does what needs no gradient (tokenising, frozen encoders, look-ups) and may be cached; ``forward`` does
    the rest. A dropped condition is replaced by a learned null, which classifier-free guidance (arXiv 2207.12598) needs.
    """

    width: int
    """Channels of the feature vectors."""

    def __init__(self, width: int, drop: float) -> None:
        super().__init__()
        if not 0.0 <= drop < 1.0:
            raise ValueError(f"the share of dropped conditions must be in [0, 1), not {drop}")
        self.width = width
        self.drop = drop
        self.null = nn.Parameter(torch.randn(width) * 0.02)

    @abstractmethod
    def prepare(self, values: Sequence[Any]) -> Any:
        """Raw values to what ``forward`` takes. Raises ``ValueError`` for a value it cannot read."""

    @abstractmethod
    def embed(self, prepared: Any) -> Conditioning:
        """Prepared values to feature vectors."""

    def forward(self, prepared: Any, dropped: Tensor | None = None) -> Conditioning:
        """Feature vectors, with the null vector where ``dropped`` (``(B,)`` bool) is true."""
        given = self.embed(prepared)
        if dropped is None:
            return given
        null = self.nothing(len(dropped), given.states.device)
        gone = dropped.to(given.states.device)
        mask = given.mask.clone()
        mask[:, 1:] &= ~gone[:, None]
        mask[:, 0] |= gone
        return Conditioning(
            states=torch.where(gone[:, None, None], null.states.to(given.states.dtype), given.states),
            mask=mask,
            pooled=torch.where(gone[:, None], null.pooled.to(given.pooled.dtype), given.pooled),
        )

    def nothing(self, batch: int, device: torch.device | str | None = None) -> Conditioning:
        """The condition that says nothing, ``(B, 1, width)``."""
        null = self.null.expand(batch, self.width)
        return Conditioning(null[:, None], torch.ones(batch, 1, dtype=torch.bool, device=device or null.device), null)

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What must match for this condition to mean the same elsewhere (encoder, hash, classes)."""
