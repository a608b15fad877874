"""How much of a codebook is in use, over a window long enough to tell, and what to try when it is too little."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Below this fraction of its codes a codebook wastes a tenth of a bit or more a token; healthy runs stay above it.
LOW_USAGE = 0.8


class CodebookUsage(nn.Module):
    """Counts of the codes assigned lately.

    The window slides by halves: figures cover the running half and the one before it, that is between ``window`` and ``2 window``
    assignments once that many were seen. The counts are buffers, so a resumed run reports what an uninterrupted one would.

    Args:
        codebook_size: Size of the codebook ``V``.
        window: Least number of assignments behind a figure; 65,536 or eight a code, whichever is more, when not given.
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
        """Add a batch's assignments, given as counts a code ``(V,)``."""
        self.recent += counts.to(self.recent.dtype)
        full = self.recent.sum() >= self.window  # stays on the device: no waiting for it
        self.before.copy_(torch.where(full, self.recent, self.before))
        self.recent.masked_fill_(full, 0)

    def add(self, indices: Tensor) -> None:
        """Add a batch's assignments, given as indices of any shape."""
        self.update(torch.bincount(indices.flatten(), minlength=self.codebook_size))

    def clear(self) -> None:
        """Forget everything seen."""
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
        """``exp`` of the entropy of the assignments: ``V`` when all codes are equally frequent, 1 when only one is used."""
        counts = (self.recent + self.before).float()
        return torch.special.entr(counts / counts.sum().clamp_min(1)).sum().exp()

    def figures(self) -> dict[str, float]:
        """Usage and perplexity, by the names they are logged under."""
        return {"codebook_usage": float(self.usage), "codebook_perplexity": float(self.perplexity)}

    def advice(self, remedies: Sequence[str]) -> str | None:
        """A sentence on what to try when codes lie idle; ``None`` when they do not, or when too little was assigned to tell.

        Args:
            remedies: What the quantizer could still switch on, best first; fewer codes is always the last.
        """
        usage, perplexity = float(self.usage), float(self.perplexity)
        if int(self.assignments) < self.window or usage >= LOW_USAGE:
            return None
        fewer = f"use fewer codes (about {max(2, round(perplexity))} carry the information now)"
        return (
            f"only {usage:.0%} of the {self.codebook_size:,} codes are in use (perplexity {perplexity:,.0f}); in this order: "
            + "; ".join((*remedies, fewer))
        )
