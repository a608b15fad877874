"""How much of a codebook is in use, over a window long enough to tell, and what to try when it is too little."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from jielong.quantizers.vector import VectorQuantizerSettings

# Below this fraction of its codes a codebook wastes a tenth of a bit or more a token; healthy runs stay above it.
LOW_USAGE = 0.8


class CodebookUsage(nn.Module):
    """Counts of the codes assigned lately.

    The window slides by halves: figures cover the running half and the one before it, that is between ``window`` and ``2 window``
    assignments once that many were seen. The counts are buffers, so a resumed run reports what an uninterrupted one would.

    Args:
        codes: Size of the codebook ``V``.
        window: Least number of assignments behind a figure; 65,536 or eight a code, whichever is more, when not given.
    """

    recent: Tensor
    before: Tensor

    def __init__(self, codes: int, window: int | None = None) -> None:
        super().__init__()
        self.codes = codes
        self.window = max(65_536, 8 * codes) if window is None else window
        self.register_buffer("recent", torch.zeros(codes, dtype=torch.long))
        self.register_buffer("before", torch.zeros(codes, dtype=torch.long))

    @torch.no_grad()
    def update(self, counts: Tensor) -> None:
        """Add a batch's assignments, given as counts a code ``(V,)``."""
        self.recent += counts.to(self.recent.dtype)
        full = self.recent.sum() >= self.window  # stays on the device: no waiting for it
        self.before.copy_(torch.where(full, self.recent, self.before))
        self.recent.masked_fill_(full, 0)

    def add(self, indices: Tensor) -> None:
        """Add a batch's assignments, given as indices of any shape."""
        self.update(torch.bincount(indices.flatten(), minlength=self.codes))

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


def advice(usage: float, perplexity: float, settings: VectorQuantizerSettings, dim: int | None = None) -> str | None:
    """A sentence on what to try when a codebook is poorly used, or ``None`` when it is not.

    Args:
        usage: Fraction of codes in use, over a long window.
        perplexity: ``exp`` of the entropy of the codes.
        settings: The quantizer's settings; what is switched on already is not advised.
        dim: Width of the codes, when known.
    """
    if usage >= LOW_USAGE:
        return None
    remedies = []
    if settings.restart_below == 0:
        remedies.append("switch the restart of dead codes on (restart_below: 0.1)")
    if settings.kmeans_iterations == 0:
        remedies.append("start from k-means (kmeans_iterations: 10)")
    if dim is None or dim > 32:
        remedies.append("look codes up in a smaller width (8 to 32)")
    if not settings.normalize:
        remedies.append("compare directions only (normalize: true)")
    if settings.codebook == "gradient":
        remedies.append("let the codebook follow averages (codebook: ema)")
    if settings.estimator != "rotation":
        remedies.append("try the rotation trick (estimator: rotation)")
    remedies.append(f"use fewer codes (about {max(2, round(perplexity))} carry the information now)")
    return f"only {usage:.0%} of the {settings.codes:,} codes are in use (perplexity {perplexity:,.0f}); in this order: " + "; ".join(
        remedies
    )
