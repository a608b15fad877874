"""Lloyd's k-means over the batch of all processes, as a start for a codebook."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from jielong.quantizers.lookup import nearest, sums_by_code
from jielong.quantizers.parallel import pick_rows, sum_over_processes


@torch.no_grad()
def kmeans(
    vectors: Tensor,
    codebook_size: int,
    iterations: int,
    generator: torch.Generator,
    normalize: bool = False,
    start: Tensor | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Centroids of all processes' vectors and their counts; equal on every process.

    A cluster that loses all its vectors moves to a random one. Returns centroids ``(V, D)`` and counts ``(V,)``, at least 1 so that
    centroid times count is a usable sum.

    Args:
        vectors: This process's ``(M, D)``, float32.
        codebook_size: Number of clusters ``V``.
        iterations: Rounds of assignment and averaging; 0 returns the start.
        generator: Draws starting vectors; the first process's counts.
        normalize: Keep centroids on the unit sphere (spherical k-means).
        start: First centroids ``(V, D)``, equal on every process; random vectors when not given.
        weights: Weight of each vector, ``(M,)``; 1 when not given.
    """
    centroids = pick_rows(vectors, codebook_size, generator) if start is None else start
    counts = vectors.new_ones(codebook_size)
    for _ in range(iterations):
        indices, _ = nearest(vectors, centroids)
        counts, sums = sums_by_code(vectors, indices, codebook_size, weights)
        packed = sum_over_processes(torch.cat([sums, counts[:, None]], dim=1))
        sums, counts = packed[:, :-1], packed[:, -1]
        empty = counts == 0
        centroids = sums / (counts.clamp_min(1) if weights is None else counts.clamp_min(1e-12))[:, None]
        if normalize:
            centroids = F.normalize(centroids, dim=-1)
        if bool(empty.any()):
            centroids[empty] = pick_rows(vectors, int(empty.sum()), generator)
    return centroids, counts.clamp_min(1)
