"""Nearest-code search and sums over the vectors of each code, without ever holding the full vectors-by-codes table."""

from __future__ import annotations

import torch
from torch import Tensor

# Scores that are computed, reduced and forgotten at once: 2 MB of float32 stays inside a core's cache on current processors.
SCORES_AT_ONCE = 1 << 19


@torch.no_grad()
def nearest(vectors: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    r"""The nearest code of every vector: ``argmin_v |z - e_v|^2 = argmax_v (z . e_v - |e_v|^2 / 2)``.

    Args:
        vectors: ``(M, D)``, float32.
        codes: ``(V, D)``, float32.

    Returns:
        The indices ``(M,)``, the lowest one where codes are equally near, and the scores ``z . e - |e|^2 / 2`` they won with ``(M,)``,
        which are not finite wherever a vector is not.
    """
    rows = max(1, SCORES_AT_ONCE // codes.shape[0])
    bias, columns = codes.square().sum(dim=1).mul_(-0.5), codes.t()
    indices = torch.empty(vectors.shape[0], dtype=torch.long, device=vectors.device)
    best = vectors.new_empty(vectors.shape[0])
    for start in range(0, vectors.shape[0], rows):
        part = slice(start, start + rows)
        best[part], indices[part] = torch.addmm(bias, vectors[part], columns).max(dim=1)
    return indices, best


@torch.no_grad()
def sums_by_code(vectors: Tensor, indices: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    """How many of ``vectors`` ``(M, D)`` each code has, ``(V,)``, and their sum, ``(V, D)``, both float32."""
    counts = torch.bincount(indices, minlength=codes).to(vectors.dtype)
    return counts, vectors.new_zeros(codes, vectors.shape[1]).index_add_(0, indices, vectors)
