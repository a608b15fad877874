"""Calls with a cache for networks that cannot be fused: every call passes all positions so far through the modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass
class ReplayCache:
    """The embeddings and the condition of all positions so far."""

    batch: int
    capacity: int  # positions it may hold
    started: bool = False  # whether the first call, which takes the condition in, has been made
    embeddings: Tensor | None = None  # (B, n, D); None before the first call
    pooled: Tensor | None = None  # the pooled condition, (B, W)

    @property
    def length(self) -> int:
        """Positions so far."""
        return 0 if self.embeddings is None else self.embeddings.shape[1]

    @torch.no_grad()
    def extend(self, x: Tensor, pooled: Tensor | None, network: Callable[[Tensor, Tensor | None], Tensor], commit: bool) -> Tensor:
        """Hidden vectors of the next positions ``x``, ``(B, n, D)``, by ``network(embeddings, pooled)``."""
        if not self.started:
            self.started, self.pooled = True, pooled
        embeddings = x if self.embeddings is None else torch.cat((self.embeddings, x), dim=1)
        hidden = network(embeddings, self.pooled)[:, self.length :]
        if commit:
            self.embeddings = embeddings
        return hidden

    def rows(self, index: slice) -> ReplayCache:
        """The cache of some items."""
        return replace(
            self,
            batch=len(range(*index.indices(self.batch))),
            embeddings=None if self.embeddings is None else self.embeddings[index],
            pooled=None if self.pooled is None else self.pooled[index],
        )
