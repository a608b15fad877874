"""Usage of a codebook over recent assignments, and advice when it is low."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

LOW_USAGE = 0.8
"""Below this fraction of its codes a codebook wastes a tenth of a bit or more per token."""


class CodebookUsage(nn.Module):
    """Counts of recent assignments. ``window``: 65,536 or eight per code, whichever is more, when not given.

    Figures cover between ``window`` and ``2 window`` assignments: the counts since the last ``window`` were complete, and those before.
    Counts are buffers, so a resumed run reports what an uninterrupted one would.
    """

    recent: Tensor
    before: Tensor

    def __init__(self, codebook_size: int, window: int | None = None) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.window = max(65_536, 8 * codebook_size) if window is None else window
        self.register_buffer("recent", torch.zeros(codebook_size, dtype=torch.long))
        self.register_buffer("before", torch.zeros(codebook_size, dtype=torch.long))

    @torch.no_grad()
    def update(self, counts: Tensor) -> None:
        """Add a batch's counts per code, ``(V,)``."""
        self.recent += counts.to(self.recent.dtype)
        full = self.recent.sum() >= self.window  # stays on the device: no waiting for it
        self.before.copy_(torch.where(full, self.recent, self.before))
        self.recent.masked_fill_(full, 0)

    def add(self, indices: Tensor) -> None:
        """Add a batch's indices, of any shape."""
        self.update(torch.bincount(indices.flatten(), minlength=self.codebook_size))

    def clear(self) -> None:
        """Reset the counts."""
        self.recent.zero_()
        self.before.zero_()

    @property
    def assignments(self) -> Tensor:
        """Number of assignments the figures cover, a scalar."""
        return (self.recent + self.before).sum()

    @property
    def usage(self) -> Tensor:
        """Fraction of the codes that were assigned at least once, a scalar in [0, 1]."""
        return ((self.recent + self.before) > 0).float().mean()

    @property
    def perplexity(self) -> Tensor:
        """``exp`` of the entropy of the assignments, from 1 to ``V``."""
        counts = (self.recent + self.before).float()
        return torch.special.entr(counts / counts.sum().clamp_min(1)).sum().exp()

    def figures(self) -> dict[str, float]:
        """Usage and perplexity, by name."""
        return {"codebook_usage": float(self.usage), "codebook_perplexity": float(self.perplexity)}

    def advice(self, remedies: Sequence[str]) -> str | None:
        """What to try when few codes are used; ``None`` when many are, or with fewer assignments than the window.

        Args:
            remedies: Settings to try, best first; fewer codes are added as the last.
        """
        usage, perplexity = float(self.usage), float(self.perplexity)
        if int(self.assignments) < self.window or usage >= LOW_USAGE:
            return None
        fewer = f"use fewer codes (about {max(2, round(perplexity))} carry the information now)"
        return (
            f"only {usage:.0%} of the {self.codebook_size:,} codes are in use (perplexity {perplexity:,.0f}); in this order: "
            + "; ".join((*remedies, fewer))
        )
