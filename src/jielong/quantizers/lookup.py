"""Nearest-code search and sums over the vectors of each code, without the full vectors-by-codes table in memory."""

from __future__ import annotations

import torch
from torch import Tensor

# Scores are computed and reduced tile by tile. On CPUs 2 MB of float32 stay in the caches, and a thousand codes are cheap to pack for the
# matrix product repeatedly; elsewhere a kernel launch needs more work.
_TILE_CODES = {"cpu": 1 << 10}
_TILE_SCORES = {"cpu": 1 << 19}
_LARGE_CODES, _LARGE_SCORES = 1 << 14, 1 << 26


@torch.no_grad()
def nearest(vectors: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    r"""The nearest code of every vector: ``argmin_v |z - e_v|^2 = argmax_v (z . e_v - |e_v|^2 / 2)``.

    ``vectors``: ``(M, D)``, float32; ``codes``: ``(V, D)``, float32.

    Returns the indices ``(M,)``, the lowest of equally near codes, and their scores ``z . e - |e|^2 / 2``, ``(M,)``, which are not finite
    where a vector is not.
    """
    if torch.compiler.is_exporting():  # the table at once: tiles would be divided by the batch of the example
        scores, indices = (vectors @ codes.t() - 0.5 * codes.square().sum(dim=1)).max(dim=1)
        return indices, scores
    device = vectors.device.type
    width = min(codes.shape[0], _TILE_CODES.get(device, _LARGE_CODES))
    rows = max(1, min(vectors.shape[0], _TILE_SCORES.get(device, _LARGE_SCORES) // width))
    bias, columns = codes.square().sum(dim=1).mul_(-0.5), codes.t()
    tile = vectors.new_empty(rows, width)
    found = []
    for part in vectors.split(rows):
        best = where = None
        for start in range(0, codes.shape[0], width):
            some = slice(start, start + width)
            scores = tile[: len(part), : len(bias[some])]
            torch.addmm(bias[some], part, columns[:, some], out=scores)
            score, index = scores.max(dim=1)
            if best is None or where is None:
                best, where = score, index
            else:
                better = score > best  # strictly, so that the lowest index stays
                best, where = torch.where(better, score, best), torch.where(better, index + start, where)
        found.append((where, best))
    indices, scores = (torch.cat(list(parts)) for parts in zip(*found, strict=True))
    return indices, scores


@torch.no_grad()
def sums_by_code(vectors: Tensor, indices: Tensor, codes: int, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Number of ``vectors`` ``(M, D)`` per code, ``(V,)``, and their sum, ``(V, D)``, float32; ``weights`` are ``(M,)``."""
    counts = torch.bincount(indices, weights, minlength=codes).to(vectors.dtype)
    if weights is not None:
        vectors = vectors * weights[:, None]
    return counts, vectors.new_zeros(codes, vectors.shape[1]).index_add_(0, indices, vectors)
