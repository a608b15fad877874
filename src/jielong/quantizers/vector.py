"""Vector quantization: the nearest vector of a learned codebook (VQ-VAE, arXiv 1711.00937) with the repairs that keep codes alive."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.quantizers.base import Quantized, Quantizer, QuantizerSettings
from jielong.quantizers.estimators import rotate, straight_through
from jielong.quantizers.kmeans import kmeans
from jielong.quantizers.lookup import nearest, sums_by_code
from jielong.quantizers.parallel import pick_rows, sum_over_processes, world
from jielong.quantizers.usage import CodebookUsage

_ESTIMATORS = {"straight-through": straight_through, "rotation": rotate}
Metric = Literal["euclidean", "cosine"]


class NonFiniteVectors(ValueError):  # noqa: N818 - named for what was found
    """The vectors to quantize hold NaN or infinite numbers; raised on every process together, before any state was changed."""


class Vector(QuantizerSettings, family="quantizer", name="vector"):
    """Settings of :class:`VectorQuantizer`."""

    codebook_size: int = Field(1024, ge=2, description="size of the codebook V")
    codebook: Literal["ema", "gradient"] = Field("ema", description="codes follow averages of their vectors, or a loss term")
    decay: float = Field(0.99, ge=0, lt=1, description="of the averages, a step")
    commitment: float = Field(0.25, ge=0, description="weight beta of the loss that keeps the encoder near its codes")
    normalize: bool = Field(False, description="compare directions only: vectors and codes on the unit sphere")
    metric: Metric = Field("euclidean", description="cosine compares directions only, and hands codes out at the length they have")
    estimator: Literal["straight-through", "rotation"] = Field("straight-through", description="gradient through the lookup")
    kmeans_iterations: int = Field(10, ge=0, description="of k-means on the first training batch; 0 starts from random codes")
    restart_below: float = Field(0.1, ge=0, lt=1, description="a code used less than this fraction of the mean starts anew; 0 never")
    restart_every: int = Field(5, ge=1, description="training steps between two looks for dead codes")
    restart_distance: float = Field(1.0, gt=0, le=1, description="where on the way from a vector's code to the vector one starts anew")

    def build(self, dim: int) -> VectorQuantizer:
        """The quantizer for vectors of width ``dim``."""
        return VectorQuantizer(dim=dim, **dict(self))


class VectorQuantizer(Quantizer):
    r"""Replaces every vector ``z`` by the nearest of ``V`` codes, ``q = e_i`` with ``i = argmin_v |z - e_v|^2``.

    With ``metric="cosine"`` it is ``i = argmin_v |z / |z| - e_v / |e_v||^2``, while code and losses keep their length (DAC, arXiv
    2306.06546, section 3.2); with ``normalize`` all is on the sphere, codes that are handed out too (ViT-VQGAN, 2110.04627, section 3.2).

    Losses, as means over all components: ``commitment |z - sg(q)|^2``, and ``|sg(z) - q|^2`` when the codebook learns by gradient.
    An ``ema`` codebook instead follows, with ``n_v`` the number and ``m_v`` the sum of the vectors of all processes that chose code ``v``,
    ``N <- g N + (1 - g) n``, ``M <- g M + (1 - g) m`` and ``e_v = M_v / N'_v`` where ``N' = (N + eps) sum(N) / (sum(N) + V eps)``.

    The codebook changes only in training mode with gradients enabled, once a forward, after the lookup; all processes must then call
    forward together. Everything is float32 whatever the autocast and stays so under ``.to(dtype)``. A state dict holds all there is, so a
    resumed run goes on bit for bit. It must not be re-run by activation checkpointing, which would count the batch twice.

    Args:
        codebook_size: Number of codes ``V``.
        dim: Their width ``D``.
        codebook: ``ema`` (averages, no loss term) or ``gradient`` (a parameter with a loss term).
        decay: ``g``, of the averages.
        commitment: ``beta``, the weight of the commitment loss.
        normalize: Vectors and codes are normalised before everything else, and ``values`` are unit vectors.
        metric: What "nearest" means, ``euclidean`` or ``cosine``.
        estimator: ``straight-through`` or ``rotation``, see :mod:`jielong.quantizers.estimators`.
        kmeans_iterations: Of k-means over the first training batch; 0 keeps the random start.
        restart_below: A code is dead when its averaged count ``N_v`` is below this fraction of the mean count; it is then replaced by a
            random vector of the batch, with the mean count. 0 never restarts. Frozen tokens stay frozen: restarts happen in training only.
        restart_every: Training steps between two looks for dead codes.
        restart_distance: Where it then stands, from the code that the vector had, 0, to the vector, 1. In many dimensions nothing lies
            near a single vector: a code at it draws nobody and dies again; one a quarter of the way takes its share of a crowded cell.
        epsilon: ``eps`` above.
    """

    counts: Tensor
    sums: Tensor
    initialised: Tensor
    updates: Tensor
    codebook: Tensor

    def __init__(
        self,
        *,
        codebook_size: int,
        dim: int,
        codebook: Literal["ema", "gradient"] = "ema",
        decay: float = 0.99,
        commitment: float = 0.25,
        normalize: bool = False,
        metric: Metric = "euclidean",
        estimator: Literal["straight-through", "rotation"] = "straight-through",
        kmeans_iterations: int = 10,
        restart_below: float = 0.1,
        restart_every: int = 5,
        restart_distance: float = 1.0,
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        if estimator not in _ESTIMATORS or codebook not in ("ema", "gradient"):
            raise ValueError(
                f"codebook must be ema or gradient and estimator one of {sorted(_ESTIMATORS)}, not {codebook!r} and {estimator!r}"
            )
        self.codebook_size, self.dim, self.learned, self.normalize, self.metric = (
            codebook_size,
            dim,
            codebook == "gradient",
            normalize,
            metric,
        )
        self.decay, self.commitment, self.epsilon = decay, commitment, epsilon
        self.estimate = _ESTIMATORS[estimator]
        self.kmeans_iterations = kmeans_iterations
        self.restart_below, self.restart_every, self.restart_distance = restart_below, restart_every, restart_distance
        start = torch.randn(codebook_size, dim) * dim**-0.5
        start = F.normalize(start, dim=-1) if normalize else start
        if self.learned:
            self.codebook = nn.Parameter(start)
        else:
            self.register_buffer("codebook", start)
            self.register_buffer("sums", start.clone())
        self.register_buffer("counts", torch.ones(codebook_size))
        self.register_buffer("initialised", torch.tensor(kmeans_iterations == 0))
        self.register_buffer("updates", torch.tensor(0))
        self.usage = CodebookUsage(codebook_size)

    def extra_repr(self) -> str:
        """The sizes, for printing."""
        metric = ", metric=cosine" * (self.metric == "cosine")  # token files are identified by this text
        codebook = "gradient" if self.learned else "ema"
        return f"codebook_size={self.codebook_size}, dim={self.dim}, codebook={codebook}, normalize={self.normalize}{metric}"

    def _apply(self, fn: Any, recurse: bool = True) -> VectorQuantizer:
        # Averages over hundreds of steps lose everything in half precision: follow the device, keep the dtype.
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, recurse)

    def _flat(self, vectors: Tensor) -> Tensor:
        """``(..., D)`` as float32 ``(M, D)``, normalised if so set."""
        if vectors.ndim == 0 or vectors.shape[-1] != self.dim:
            raise ValueError(f"vectors to quantize must be (..., {self.dim}) with the channels last, not {tuple(vectors.shape)}")
        flat = vectors.reshape(-1, self.dim).float()
        return F.normalize(flat, dim=-1) if self.normalize else flat

    @property
    def current(self) -> Tensor:
        """The codes as they are compared and handed out, ``(V, D)``."""
        if not (self.normalize and self.learned):
            return self.codebook
        return F.normalize(self.codebook.clone(), dim=-1)  # a copy, so that a restart may write while autograd remembers

    def _nearest(self, vectors: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """As :func:`jielong.quantizers.lookup.nearest`, by the metric."""
        if self.metric == "cosine":
            vectors, codes = F.normalize(vectors, dim=-1), F.normalize(codes, dim=-1)
        return nearest(vectors, codes)

    def forward(
        self, vectors: Tensor, *, generator: torch.Generator | None = None, update: bool = True, samples_seen: int = 0
    ) -> Quantized:
        """Quantize, and in training let the codebook follow.

        Args:
            vectors: ``(..., D)``.
            generator: Draws the vectors for the k-means start and for restarts; under data parallelism the first process's decides. When
                not given, draws are seeded by the number of updates so far.
            update: Whether training may change the codebook's state now; ``False`` for a second forward within one step.
            samples_seen: Not needed here.

        Returns:
            The codes and their indices ``(..., 1)``; the losses ``commitment``, and ``codebook`` when it learns by gradient; and
            ``error`` (mean square distance a component), ``usage`` and ``perplexity`` over a long window.

        Raises:
            ValueError: if the last axis is not ``D``.
            NonFiniteVectors: if a number is NaN or infinite.
            RuntimeError: if activation checkpointing runs it again within a backward pass.
        """
        update = update and self.training and torch.is_grad_enabled()
        if update and torch._C._current_graph_task_id() != -1:
            raise RuntimeError("a vector quantizer was run inside a backward pass; leave it out of activation checkpointing")
        with torch.autocast(vectors.device.type, enabled=False):
            flat = self._flat(vectors)
            seen = flat.detach()
            draw = generator or torch.Generator().manual_seed(int(self.updates))
            if update:
                self._start(seen, draw)
            codes = self.current
            indices, best = self._nearest(seen, codes.detach())
            self.check_finite(best, together=update)
            picked = F.embedding(indices, codes)
            error = F.mse_loss(flat, picked.detach())
            losses = {"commitment": self.commitment * error}
            if self.learned:
                losses["codebook"] = F.mse_loss(picked, seen)
            values = self.estimate(flat, picked)
            if update:
                self.follow(seen, indices, partial(pick_rows, seen, generator=draw))
        statistics = {"error": error.detach(), "usage": self.usage.usage, "perplexity": self.usage.perplexity}
        return Quantized(values.to(vectors.dtype).view(vectors.shape), indices.view(*vectors.shape[:-1], 1), losses, statistics)

    @torch.no_grad()
    def encode(self, vectors: Tensor) -> Tensor:
        """Indices of the nearest codes, ``(..., D) -> (..., 1)``; changes nothing. Raises as :meth:`forward` does."""
        with torch.autocast(vectors.device.type, enabled=False):
            indices, best = self._nearest(self._flat(vectors), self.current)
        self.check_finite(best)
        return indices.view(*vectors.shape[:-1], 1)

    def decode(self, indices: Tensor) -> Tensor:
        """The codes at ``indices``, ``(..., 1) -> (..., D)`` float32, normalised when the quantizer is.

        Raises:
            ValueError: if the last axis is not 1 or an index is outside ``[0, V)``.
        """
        if indices.ndim == 0 or indices.shape[-1] != 1:
            raise ValueError(f"code indices must be (..., 1), one codebook last, not {tuple(indices.shape)}")
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < self.codebook_size:
            raise ValueError(
                f"code indices must lie in [0, {self.codebook_size}), but these span {int(indices.min())} to {int(indices.max())}"
            )
        return F.embedding(indices[..., 0], self.current)

    def figures(self) -> dict[str, float]:
        """Share of codes in use and perplexity, over the last 65,536 assignments or more."""
        return self.usage.figures()

    def advice(self) -> str | None:
        """What to try when codes lie idle: the repairs that are not switched on yet."""
        repairs = {
            "switch the restart of dead codes on (restart_below: 0.1)": self.restart_below == 0,
            "start from k-means (kmeans_iterations: 10)": self.kmeans_iterations == 0,
            "look codes up in a smaller width (8 to 32)": self.dim > 32,
            "compare directions only (normalize: true)": not self.normalize and self.metric == "euclidean",
            "let the codebook follow averages (codebook: ema)": self.learned,
            "try the rotation trick (estimator: rotation)": self.estimate is not rotate,
        }
        return self.usage.advice([repair for repair, lacking in repairs.items() if lacking])

    def check_finite(self, numbers: Tensor, together: bool = False) -> None:
        """Refuse what is not finite; ``together`` lets every process raise, so that none waits for a process that has stopped."""
        bad = (~torch.isfinite(numbers)).sum()
        bad = sum_over_processes(bad) if together else bad
        if int(bad):
            raise NonFiniteVectors(f"{int(bad)} vectors to quantize hold NaN or infinite numbers; the encoder's last step diverged")

    @torch.no_grad()
    def _start(self, vectors: Tensor, generator: torch.Generator) -> None:
        """K-means on the first batch: code, count and sum together.

        A batch of fewer vectors than codes would be learned by heart, and leave nothing to the levels behind this one. It starts a code for
        every four vectors; the others are copies that nothing counts, so the next look for dead codes gives them vectors of their own.
        """
        if bool(self.initialised):
            return
        self.check_finite(vectors.sum(dim=-1), together=True)
        rows = int(sum_over_processes(torch.tensor(len(vectors), device=vectors.device)))
        started = self.codebook_size if rows >= self.codebook_size or self.restart_below == 0 else max(1, rows // 4)
        centroids, counts = kmeans(vectors, started, self.kmeans_iterations, generator, self.normalize)
        copied = torch.arange(self.codebook_size, device=vectors.device) % started
        self.begin(centroids[copied], torch.cat([counts, counts.new_zeros(self.codebook_size - started)]))

    @torch.no_grad()
    def begin(self, codes: Tensor, counts: Tensor) -> None:
        """Start from codes ``(V, D)`` that have so many vectors each, ``(V,)``."""
        self._place(torch.arange(self.codebook_size, device=codes.device), codes, counts)
        self.initialised.fill_(True)

    @torch.no_grad()
    def follow(self, vectors: Tensor, indices: Tensor, fresh: Callable[[int], Tensor], weights: Tensor | None = None) -> None:
        """One step of the averages over everybody's batch, then restarts; a quantizer that shares its codebook calls it itself.

        Args:
            vectors: ``(M, D)``, float32, of this process.
            indices: Their codes, ``(M,)``.
            fresh: Gives so many vectors, equal on every process, for codes that start anew.
            weights: How much each vector counts, ``(M,)``; 1 when not given.
        """
        if self.learned:
            counts = sum_over_processes(torch.bincount(indices, weights, minlength=self.codebook_size).float())
        else:
            counts, sums = sums_by_code(vectors, indices, self.codebook_size, weights)
            if world()[1] > 1:
                packed = sum_over_processes(torch.cat([sums, counts[:, None]], dim=1))
                sums, counts = packed[:, :-1], packed[:, -1]
            self.sums.lerp_(sums, 1 - self.decay)
        self.counts.lerp_(counts, 1 - self.decay)
        if not self.learned:
            total = self.counts.sum()
            smoothed = (self.counts + self.epsilon) / (total + self.codebook_size * self.epsilon) * total
            means = self.sums / smoothed[:, None]
            self.codebook.copy_(F.normalize(means, dim=-1) if self.normalize else means)
        self.usage.update(counts if weights is None else sum_over_processes(torch.bincount(indices, minlength=self.codebook_size)))
        self.updates += 1
        if self.restart_below > 0 and int(self.updates) % self.restart_every == 0:
            self._restart(fresh)

    def _restart(self, fresh: Callable[[int], Tensor]) -> None:
        """Give every dead code a vector of the batch, or a point on the way there, and the mean count."""
        mean = self.counts.mean()
        dead = (self.counts < self.restart_below * mean).nonzero().flatten()
        if len(dead):
            vectors = fresh(len(dead))
            if self.restart_distance < 1:
                own = F.embedding(self._nearest(vectors, self.current)[0], self.current)
                between = own.lerp(vectors, self.restart_distance)
                vectors = F.normalize(between, dim=-1) if self.normalize else between
            self._place(dead, vectors, mean.expand(len(dead)))

    def _place(self, where: Tensor, codes: Tensor, counts: Tensor) -> None:
        """Set code, count and sum together: setting the code alone would be undone by the next step of the averages."""
        self.codebook.data[where] = codes
        self.counts[where] = counts
        if not self.learned:
            self.sums[where] = codes * counts[:, None]
