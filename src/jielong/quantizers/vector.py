"""Vector quantization: the nearest vector of a learned codebook (VQ-VAE, arXiv 1711.00937), with remedies against unused codes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from jielong.core.rng import PerSampleRNG
from jielong.core.whole_batch import at_start, at_step_end
from jielong.quantizers.base import Quantized, Quantizer, QuantizerSettings
from jielong.quantizers.checks import check_finite, check_indices, flattened, generator_or_seeded, refuse_repetition
from jielong.quantizers.estimators import ESTIMATORS, Estimator
from jielong.quantizers.kmeans import kmeans
from jielong.quantizers.lookup import nearest, sums_by_code
from jielong.quantizers.parallel import pick_rows, sum_over_processes, world
from jielong.quantizers.precision import KeepsPrecision
from jielong.quantizers.usage import CodebookUsage

Metric = Literal["euclidean", "cosine"]


class CodebookSettings(QuantizerSettings):
    """Settings of a learned codebook."""

    codebook_size: int = Field(default=1024, ge=2, description="V")
    codebook: Literal["ema", "gradient"] = Field(default="ema", description="codes follow averages of their vectors, or a loss term")
    decay: float = Field(default=0.99, ge=0, lt=1, description="of the averages, per step")
    commitment: float = Field(default=0.25, ge=0, description="weight beta of the loss that keeps the encoder near its codes")
    kmeans_iterations: int = Field(default=10, ge=0, description="of k-means on the first training batch; 0 starts from random codes")
    restart_below: float = Field(default=0.1, ge=0, lt=1, description="a code used less than this fraction of the mean restarts; 0 never")
    restart_every: int = Field(default=5, ge=1, description="training steps between two checks for unused codes")


class Vector(CodebookSettings, family="quantizer", name="vector"):
    """Settings of :class:`VectorQuantizer`."""

    normalize: bool = Field(default=False, description="vectors and codes on the unit sphere")
    metric: Metric = Field(default="euclidean", description="cosine compares directions only, and keeps the codes' lengths")
    estimator: Estimator = Field(default="straight-through", description="gradient through the lookup")
    restart_distance: float = Field(default=1.0, gt=0, le=1, description="restart position from a vector's code (0) to the vector (1)")

    def build(self, dim: int) -> VectorQuantizer:
        """The quantizer for vectors of width ``dim``."""
        return VectorQuantizer(self, dim)


class VectorQuantizer(KeepsPrecision, Quantizer):
    r"""Replaces every vector ``z`` by the nearest of ``V`` codes, ``q = e_i`` with ``i = argmin_v |z - e_v|^2``.

    With ``metric: cosine`` it is ``i = argmin_v |z / |z| - e_v / |e_v||^2``, while code and losses keep their length (DAC, arXiv
    2306.06546, section 3.2); with ``normalize`` vectors, codes and values are unit vectors (ViT-VQGAN, 2110.04627, section 3.2).

    Losses, as means over all components: ``commitment |z - sg(q)|^2``, and ``|sg(z) - q|^2`` when the codebook learns by gradient.
    An ``ema`` codebook follows, with ``n_v`` the number and ``m_v`` the sum of all processes' vectors of code ``v``,
    ``N <- g N + (1 - g) n``, ``M <- g M + (1 - g) m`` and ``e_v = M_v / N'_v`` where ``N' = (N + eps) sum(N) / (sum(N) + V eps)``.

    A code is dead when its averaged count is below ``restart_below`` of the mean; it is then replaced by a random vector of the batch, or,
    with ``restart_distance`` below 1, by a point between that vector and its code: in many dimensions nothing is close to a single vector,
    and a code at it stays unused, while one a quarter of the way takes its share of a crowded cell.

    The codebook changes only in training mode with gradients enabled, after the lookup: once a forward, or once a step however many
    micro-batches it has (:mod:`jielong.core.whole_batch`); all processes must then call forward together. All state is in the state
    dict, so a resumed run continues bit for bit.
    """

    counts: Tensor
    sums: Tensor
    initialised: Tensor
    updates: Tensor
    codebook: Tensor
    epsilon = 1e-5
    """``eps`` above."""

    def __init__(self, settings: Vector, dim: int) -> None:
        super().__init__()
        self.settings, self.dim, self.codebook_size = settings, dim, settings.codebook_size
        self.learned, self.normalize = settings.codebook == "gradient", settings.normalize
        start = torch.randn(self.codebook_size, dim) * dim**-0.5
        start = F.normalize(start, dim=-1) if self.normalize else start
        if self.learned:
            self.codebook = nn.Parameter(start)
        else:
            self.register_buffer("codebook", start)
            self.register_buffer("sums", start.clone())
        self.register_buffer("counts", torch.ones(self.codebook_size))
        self.register_buffer("initialised", torch.tensor(settings.kmeans_iterations == 0))
        self.register_buffer("updates", torch.tensor(0))
        self.usage = CodebookUsage(self.codebook_size)

    def extra_repr(self) -> str:
        """The sizes, for printing and for the identity of token files."""
        settings, metric = self.settings, ", metric=cosine" * (self.settings.metric == "cosine")
        return f"codebook_size={self.codebook_size}, dim={self.dim}, codebook={settings.codebook}, normalize={self.normalize}{metric}"

    def _flat(self, vectors: Tensor) -> Tensor:
        flat = flattened(vectors, self.dim)
        return F.normalize(flat, dim=-1) if self.normalize else flat

    @property
    def current(self) -> Tensor:
        """The codes as they are compared and returned, ``(V, D)``."""
        if not (self.normalize and self.learned):
            return self.codebook
        return F.normalize(self.codebook.clone(), dim=-1)  # a copy, so that a restart may write to what autograd has saved

    @property
    def smoothed_counts(self) -> Tensor:
        """``N' = (N + eps) sum(N) / (sum(N) + V eps)`` of every code, ``(V,)``."""
        total = self.counts.sum()
        smoothed: Tensor = (self.counts + self.epsilon) / (total + self.codebook_size * self.epsilon) * total
        return smoothed

    def _nearest(self, vectors: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """:func:`jielong.quantizers.lookup.nearest`, by the metric."""
        if self.settings.metric == "cosine":
            vectors, codes = F.normalize(vectors, dim=-1), F.normalize(codes, dim=-1)
        return nearest(vectors, codes)

    def forward(
        self,
        vectors: Tensor,
        *,
        generator: Generator | None = None,
        update: bool = True,
        samples_seen: int = 0,
        rng: PerSampleRNG | None = None,
    ) -> Quantized:
        """See :meth:`Quantizer.forward`; the generator draws the k-means start and restarts. Indices are ``(..., 1)``."""
        update = update and self.training and torch.is_grad_enabled()
        if update:
            refuse_repetition("a vector quantizer")
        with torch.autocast(vectors.device.type, enabled=False):
            flat = self._flat(vectors)
            constant = flat.detach()
            generator = generator_or_seeded(generator, self.updates)
            if update and not bool(self.initialised):
                at_start(self._start, generator, constant)
            codes = self.current
            indices, best = self._nearest(constant, codes.detach())
            check_finite(best, together=update)
            picked = F.embedding(indices, codes)
            error = F.mse_loss(flat, picked.detach())
            losses = {"commitment": self.settings.commitment * error}
            if self.learned:
                losses["codebook"] = F.mse_loss(picked, constant)
            values = ESTIMATORS[self.settings.estimator](flat, picked)
            if update:
                at_step_end(self._absorb, generator, constant, indices)
        statistics = {"error": error.detach(), "usage": self.usage.usage, "perplexity": self.usage.perplexity}
        return Quantized(values.to(vectors.dtype).view(vectors.shape), indices.view(*vectors.shape[:-1], 1), losses, statistics)

    @torch.no_grad()
    def encode(self, vectors: Tensor) -> Tensor:
        """Indices of the nearest codes, ``(..., D) -> (..., 1)``."""
        with torch.autocast(vectors.device.type, enabled=False):
            indices, best = self._nearest(self._flat(vectors), self.current)
        check_finite(best)
        return indices.view(*vectors.shape[:-1], 1)

    def decode(self, indices: Tensor) -> Tensor:
        """The codes at ``indices``, ``(..., 1) -> (..., D)`` float32."""
        check_indices(indices, self.codebook_size, 1)
        return F.embedding(indices[..., 0], self.current)

    def figures(self) -> dict[str, float]:
        """Share of codes in use and perplexity."""
        return self.usage.figures()

    def advice(self) -> str | None:
        """Remedies that are not on yet, when few codes are used."""
        settings = self.settings
        remedies = {
            "switch the restart of dead codes on (restart_below: 0.1)": settings.restart_below == 0,
            "start from k-means (kmeans_iterations: 10)": settings.kmeans_iterations == 0,
            "look codes up in a smaller width (8 to 32)": self.dim > 32,
            "compare directions only (normalize: true)": not self.normalize and settings.metric == "euclidean",
            "let the codebook follow averages (codebook: ema)": self.learned,
            "try the rotation trick (estimator: rotation)": settings.estimator != "rotation",
        }
        return self.usage.advice([remedy for remedy, missing in remedies.items() if missing])

    @torch.no_grad()
    def _start(self, generator: Generator, vectors: Tensor) -> None:
        """K-means on the first batch: code, count and sum together.

        A code for every vector would overfit the first batch and leave nothing to later codebooks. A batch with fewer vectors than codes
        starts one code for every four vectors; the others are copies with count 0, which the next check for dead codes replaces.
        """
        check_finite(vectors.sum(dim=-1), together=True)
        size = self.codebook_size
        rows = int(sum_over_processes(torch.tensor(len(vectors), device=vectors.device)))
        started = size if rows >= size or self.settings.restart_below == 0 else max(1, rows // 4)
        centroids, counts = kmeans(vectors, started, self.settings.kmeans_iterations, generator, self.normalize)
        copied = torch.arange(size, device=vectors.device) % started
        self.begin(centroids[copied], torch.cat([counts, counts.new_zeros(size - started)]))

    def _absorb(self, generator: Generator, vectors: Tensor, indices: Tensor) -> None:
        self.follow(vectors, indices, partial(pick_rows, vectors, generator=generator))

    @torch.no_grad()
    def begin(self, codes: Tensor, counts: Tensor) -> None:
        """Start from codes ``(V, D)`` with counts ``(V,)``."""
        self._place(torch.arange(self.codebook_size, device=codes.device), codes, counts)
        self.initialised.fill_(True)

    @torch.no_grad()
    def follow(self, vectors: Tensor, indices: Tensor, fresh: Callable[[int], Tensor], weights: Tensor | None = None) -> None:
        """One step of the averages over all processes' batches, then restarts; quantizers that share the codebook call it themselves.

        Args:
            vectors: ``(M, D)``, float32, of this process.
            indices: Their codes, ``(M,)``.
            fresh: Returns a number of vectors for restarted codes, equal on every process.
            weights: Weight of each vector, ``(M,)``; 1 when not given.
        """
        size = self.codebook_size
        if self.learned:
            counts = sum_over_processes(torch.bincount(indices, weights, minlength=size).float())
        else:
            counts, sums = sums_by_code(vectors, indices, size, weights)
            if world()[1] > 1:
                packed = sum_over_processes(torch.cat([sums, counts[:, None]], dim=1))
                sums, counts = packed[:, :-1], packed[:, -1]
            self.sums.lerp_(sums, 1 - self.settings.decay)
        self.counts.lerp_(counts, 1 - self.settings.decay)
        if not self.learned:
            means = self.sums / self.smoothed_counts[:, None]
            self.codebook.copy_(F.normalize(means, dim=-1) if self.normalize else means)
        self.usage.update(counts if weights is None else sum_over_processes(torch.bincount(indices, minlength=size)))
        self.updates += 1
        if self.settings.restart_below > 0 and int(self.updates) % self.settings.restart_every == 0:
            self._restart(fresh)

    def _restart(self, fresh: Callable[[int], Tensor]) -> None:
        """Give every dead code a fresh vector, or a point between it and its code, and the mean count."""
        mean, distance = self.counts.mean(), self.settings.restart_distance
        dead = (self.counts < self.settings.restart_below * mean).nonzero().flatten()
        if len(dead):
            vectors = fresh(len(dead))
            if distance < 1:
                codes = F.embedding(self._nearest(vectors, self.current)[0], self.current)
                between = codes.lerp(vectors, distance)
                vectors = F.normalize(between, dim=-1) if self.normalize else between
            self._place(dead, vectors, mean.expand(len(dead)))

    def _place(self, places: Tensor, codes: Tensor, counts: Tensor) -> None:
        """Set code, count and sum together: a code alone would be undone by the next step of the averages."""
        self.codebook.data[places] = codes
        self.counts[places] = counts
        if not self.learned:
            self.sums[places] = codes * counts[:, None]
