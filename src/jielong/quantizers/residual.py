"""Residual quantization: every level quantizes what the levels before it left over (SoundStream, arXiv 2107.03312; EnCodec, 2210.13438)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field, SerializeAsAny, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.config.registry import OfFamily
from jielong.quantizers.base import Quantized, Quantizer, QuantizerSettings
from jielong.quantizers.checks import check_indices, drawing, flattened, refuse_repetition
from jielong.quantizers.estimators import rotate, straight_through
from jielong.quantizers.implicit import ImplicitSettings, by_level
from jielong.quantizers.kmeans import kmeans
from jielong.quantizers.parallel import from_first, pick_rows
from jielong.quantizers.precision import KeepsPrecision
from jielong.quantizers.projected import Projected
from jielong.quantizers.vector import Vector, VectorQuantizer

_ESTIMATORS = {"straight-through": straight_through, "rotation": rotate}


class ResidualQuantizer(KeepsPrecision, Quantizer):
    r"""``r_0 = z``, ``q_k = Q_k(r_(k-1) / s_k) s_k``, ``r_k = r_(k-1) - sg(q_k)`` with ``s_k = shrink^(k-1)``; the value is ``sum_k q_k``.

    One estimator stands around the sum, so the encoder receives the gradient once, and every level's commitment reaches it through its
    residual. Losses of the levels are added up (EnCodec's ``l_w``) or averaged over the levels used. Codebooks that start from k-means
    start one after the other, each from what the levels before it leave of the first batch that reaches it.

    With ``dropout`` a training batch uses only its first ``n`` levels, ``n`` uniform over the multiples of ``dropout_multiple``; levels
    left out neither learn nor cost, and the indices then are ``(..., n)``. :meth:`decode` takes any number of leading levels, so one model
    serves all rates.

    Stages that project (:mod:`jielong.quantizers.projected`) have an estimator each, and their maps learn from what becomes of them: then
    nothing is held constant, neither in the sum nor in the residuals (DAC, 2306.06546, section 3.2).

    A shared codebook is looked up by all levels as it is and follows once a batch, from the residuals of all of them.

    Args:
        stages: The quantizers, all of one width and codebook size and with one index each; a single one is shared by all levels.
        num_codebooks: ``K``.
        dim: Width ``D`` of the vectors; linear maps bridge it and the stages' width where they differ.
        dropout: Probability that a training batch uses a drawn number of levels.
        dropout_multiple: Numbers of levels that are drawn are multiples of it, or ``K``.
        reduction: ``sum`` or ``mean`` of the levels' losses.
        shrink: Each level's residual is divided by this more than the one before; for stages whose codes have a size of their own.
        commitment: Weight of ``|r_K|^2``, for stages without such a loss of their own.
        estimator: ``straight-through`` or ``rotation``, around the sum of stages that do not project.

    Raises:
        ValueError: if the stages are neither one nor ``K``, or cannot stand in a chain.
    """

    progressive = True
    updates: Tensor

    def __init__(
        self,
        stages: Sequence[Quantizer],
        *,
        num_codebooks: int,
        dim: int,
        dropout: float = 0.0,
        dropout_multiple: int = 1,
        reduction: Literal["sum", "mean"] = "sum",
        shrink: float = 1.0,
        commitment: float = 0.0,
        estimator: Literal["straight-through", "rotation"] = "straight-through",
    ) -> None:
        super().__init__()
        if len(stages) not in (1, num_codebooks):
            raise ValueError(f"{num_codebooks} codebooks take {num_codebooks} quantizers, or one to share, not {len(stages)}")
        first = stages[0]
        if any((each.dim, each.codebook_size, each.num_codebooks) != (first.dim, first.codebook_size, 1) for each in stages):
            raise ValueError("the quantizers of all levels must have one width and codebook size and give one index a vector")
        self.shared = num_codebooks > 1 and len(stages) == 1
        if self.shared and not isinstance(first, VectorQuantizer):
            raise ValueError(f"only vector quantizers have a codebook that levels can share, {type(first).__name__} has none")
        self.dim, self.codebook_size, self.num_codebooks = dim, first.codebook_size, num_codebooks
        self.dropout, self.dropout_multiple, self.reduction = dropout, dropout_multiple, reduction
        self.shrink, self.commitment, self.estimate = shrink, commitment, _ESTIMATORS[estimator]
        self.stages = nn.ModuleList(stages)
        self.inward: nn.Module = nn.Identity() if dim == first.dim else nn.Linear(dim, first.dim)
        self.outward: nn.Module = nn.Identity() if dim == first.dim else nn.Linear(first.dim, dim)
        self.register_buffer("updates", torch.tensor(0))

    def extra_repr(self) -> str:
        """The sizes, for printing."""
        return f"num_codebooks={self.num_codebooks}, codebook_size={self.codebook_size}, dim={self.dim}, shared={self.shared}"

    def _stage(self, level: int) -> Quantizer:
        return self.stages[0 if self.shared else level]  # type: ignore[return-value]

    def forward(
        self, vectors: Tensor, *, generator: torch.Generator | None = None, update: bool = True, samples_seen: int = 0
    ) -> Quantized:
        """Quantize ``(..., D)`` level by level.

        Args:
            vectors: ``(..., D)``.
            generator: Draws the number of levels and what the levels need; under data parallelism the first process's decides. When not
                given, draws are seeded by the number of updates so far.
            update: Whether training may change the levels' state now.
            samples_seen: Handed to the levels.

        Returns:
            The sum of codes; indices ``(..., n)`` of the levels used; the levels' losses, and ``error``, the mean square of what is left
            a component, with every level's own statistics under its number; and ``first``, the first level's code alone.

        Raises:
            ValueError: if the last axis is not ``D``.
            NonFiniteVectors: if a number is NaN or infinite.
            RuntimeError: if activation checkpointing runs it again within a backward pass.
        """
        if self.training:
            refuse_repetition("a residual quantizer")
        update = update and self.training and torch.is_grad_enabled()
        draw = drawing(generator, self.updates)
        with torch.autocast(vectors.device.type, enabled=False):
            start = self.inward(flattened(vectors, self.dim, together=update))
            if self.shared and update:
                self._start(start.detach(), draw)
            count = self._draw(draw, vectors.device)
            parts: list[Quantized] = []
            residuals, total, first = [start], torch.zeros_like(start), start
            for level in range(count):
                stage, scale = self._stage(level), self.shrink**level
                learn = update and not self.shared
                parts.append(stage(_scaled(residuals[-1], 1 / scale), generator=draw, update=learn, samples_seen=samples_seen))
                code = _scaled(parts[-1].values if stage.mapped else parts[-1].values.detach(), scale)
                total = total + code
                first = code if level == 0 else first
                residuals.append(residuals[-1] - code)
            if update:
                if self.shared:
                    self._follow(residuals[:-1], parts, draw)
                self.updates += 1
            if not self._stage(0).mapped:
                total, first = self.estimate(start, total), self.estimate(start, first)
            values = self.outward(total)
            first = values if count == 1 else self.outward(first)
        error = residuals[-1].square().mean()
        losses = {name: torch.stack([part.losses[name] for part in parts]).sum() for name in parts[0].losses}
        if self.reduction == "mean":
            losses = {name: loss / count for name, loss in losses.items()}
        if self.commitment > 0:
            losses["commitment"] = losses.get("commitment", 0.0) + self.commitment * error
        statistics = {f"{name}_{level}": value for level, part in enumerate(parts, 1) for name, value in part.statistics.items()}
        return Quantized(
            values.to(vectors.dtype).view(vectors.shape),
            torch.cat([part.indices for part in parts], dim=-1).view(*vectors.shape[:-1], count),
            losses,
            {"error": error.detach()} | statistics,
            first=first.to(vectors.dtype).view(vectors.shape),
        )

    @torch.no_grad()
    def encode(self, vectors: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Indices of the first ``num_codebooks`` levels, all of them when not given, ``(..., D) -> (..., K)``; changes nothing.

        Raises:
            ValueError: if the last axis is not ``D`` or there are not so many levels.
            NonFiniteVectors: if a number is NaN or infinite.
        """
        count = self.num_codebooks if num_codebooks is None else num_codebooks
        if not 1 <= count <= self.num_codebooks:
            raise ValueError(f"this quantizer has codebooks 1 to {self.num_codebooks}; it cannot encode with {count}")
        found = []
        with torch.autocast(vectors.device.type, enabled=False):
            residual = self.inward(flattened(vectors, self.dim))
            for level in range(count):
                stage, scale = self._stage(level), self.shrink**level
                found.append(stage.encode(_scaled(residual, 1 / scale)))
                if level + 1 < count:
                    residual = residual - _scaled(stage.decode(found[-1]), scale)
        return torch.cat(found, dim=-1).view(*vectors.shape[:-1], count)

    def decode(self, indices: Tensor) -> Tensor:
        """The sum of the codes at ``indices``, ``(..., n) -> (..., D)`` float32, ``n <= K`` being the first levels.

        Raises:
            ValueError: if there are more than ``K`` levels, or an index is outside ``[0, V)``.
        """
        count = min(indices.shape[-1], self.num_codebooks) if indices.ndim else self.num_codebooks
        check_indices(indices, self.codebook_size, max(1, count))
        with torch.autocast(indices.device.type, enabled=False):
            total = self._stage(0).decode(indices[..., :1])
            for level in range(1, count):
                total = total + _scaled(self._stage(level).decode(indices[..., level : level + 1]), self.shrink**level)
            return self.outward(total)

    def figures(self) -> dict[str, float]:
        """The levels' figures: their means, and each under its level's number."""
        return by_level([self._stage(level).figures() for level in range(len(self.stages))])

    def advice(self) -> str | None:
        """What to try when codes of some levels lie idle."""
        told = {level: said for level in range(len(self.stages)) if (said := self._stage(level).advice())}
        if not told:
            return None
        where = "the shared codebook" if self.shared else "level " + ", ".join(str(level + 1) for level in told)
        return f"{where}: {next(iter(told.values()))}"

    # --- learning -----------------------------------------------------------------------------------------------------------------

    def _draw(self, generator: torch.Generator, device: torch.device) -> int:
        """How many levels this batch uses."""
        if not self.training or self.dropout == 0:
            return self.num_codebooks
        drawn = from_first(torch.rand(2, generator=generator, device=generator.device).to(device)).tolist()
        if drawn[0] >= self.dropout:
            return self.num_codebooks
        choices = -(-self.num_codebooks // self.dropout_multiple)
        return min(self.num_codebooks, (int(drawn[1] * choices) + 1) * self.dropout_multiple)

    @torch.no_grad()
    def residuals(self, vectors: Tensor) -> Tensor:
        """What is left of vectors ``(..., D)`` after each level: mean ``|x - x_k|^2 / |x|^2``, ``(K,)``."""
        indices = self.encode(vectors)
        wanted = vectors.float()
        left = torch.stack([(wanted - self.decode(indices[..., : level + 1])).square().mean() for level in range(self.num_codebooks)])
        return left / wanted.square().mean().clamp_min(1e-12)

    @torch.no_grad()
    def _start(self, vectors: Tensor, generator: torch.Generator) -> None:
        """The shared codebook's k-means: of the first batch, then of the batch and what those codes leave of it, as both are looked up."""
        codebook = self._codebook
        if bool(codebook.initialised):
            return
        pool = [vectors]
        for _ in range(2):
            some = self._compared(pool)
            codebook.begin(*kmeans(some, codebook.codebook_size, codebook.kmeans_iterations, generator, codebook.normalize))
            pool.append(vectors - codebook.decode(codebook.encode(vectors)))

    @torch.no_grad()
    def _follow(self, residuals: Sequence[Tensor], parts: Sequence[Quantized], generator: torch.Generator) -> None:
        """One step of the shared codebook, from the residuals of all levels."""
        vectors = self._compared(residuals)
        indices = torch.stack([part.indices.flatten() for part in parts], dim=1).flatten()
        self._codebook.follow(vectors, indices, partial(pick_rows, vectors, generator=generator))

    def _compared(self, pool: Sequence[Tensor]) -> Tensor:
        """Vectors as the shared codebook compares them, in one table, item by item, so that the processes' tables make up the batch's."""
        vectors = torch.stack([each.detach() for each in pool], dim=1).flatten(0, 1)
        return F.normalize(vectors, dim=-1) if self._codebook.normalize else vectors

    @property
    def _codebook(self) -> VectorQuantizer:
        return self.stages[0]  # type: ignore[return-value]


def _scaled(vectors: Tensor, scale: float) -> Tensor:
    return vectors if scale == 1 else vectors * scale


class Residual(QuantizerSettings, family="quantizer", name="residual"):
    """Settings of :class:`ResidualQuantizer`: ``num_codebooks`` of any quantizer that gives one index a vector.

    Rounding quantizers need to know how much finer a level is than the one before it: ``shrink: 0.5`` for ``lookup_free``, whose levels
    then are the digits of a binary number, and about ``1 / (levels - 1)`` with a ``commitment`` for ``finite_scalar``.
    """

    quantizer: Annotated[SerializeAsAny[QuantizerSettings], OfFamily("quantizer")] = Vector.model_validate({})
    num_codebooks: int = Field(8, ge=1, description="K, coarse to fine")
    shared: bool = Field(False, description="one codebook for all levels")
    dropout: float = Field(0.0, ge=0, le=1, description="probability that a training batch uses a drawn number of levels; 1 as published")
    dropout_multiple: int = Field(1, ge=1, description="drawn numbers of levels are multiples of it")
    reduction: Literal["sum", "mean"] = Field("sum", description="of the levels' losses")
    shrink: float = Field(1.0, gt=0, le=1, description="size of a level's codes against those of the level before")
    commitment: float = Field(0.0, ge=0, description="weight of the whole error, for levels without a commitment loss of their own")
    estimator: Literal["straight-through", "rotation"] = Field("straight-through", description="gradient through the sum of codes")

    @model_validator(mode="after")
    def _chain(self) -> Residual:
        inner = self.quantizer
        looked_up = inner.quantizer if isinstance(inner, Projected) else inner
        if not isinstance(looked_up, Vector | ImplicitSettings) or getattr(looked_up, "groups", 1) > 1:
            raise ValueError(
                "the levels of a residual quantizer are vector, finite_scalar, lookup_free or binary_spherical quantizers "
                f"that give one index a vector, projected or not; they are not {looked_up.name} with {dict(looked_up)}"
            )
        if self.shared and not isinstance(inner, Vector):
            raise ValueError(f"only vector quantizers have a codebook that levels can share, {inner.name} has none; leave shared out")
        if isinstance(inner, Projected) and self.estimator != "straight-through":
            raise ValueError("projected levels have an estimator each; set estimator inside their quantizer, not beside num_codebooks")
        if isinstance(inner, Vector) and inner.estimator != "straight-through":
            raise ValueError("one estimator is around the sum of all levels; set estimator beside num_codebooks, not inside the quantizer")
        return self

    def build(self, dim: int) -> ResidualQuantizer:
        """The quantizer for vectors of width ``dim``."""
        own = {name: value for name, value in dict(self).items() if name not in ("quantizer", "shared")}
        width = self.quantizer.width if isinstance(self.quantizer, ImplicitSettings) else dim
        if isinstance(self.quantizer, ImplicitSettings) and not self.quantizer.project and width != dim:
            self.quantizer.build(dim)  # says what does not fit
        return ResidualQuantizer([self.quantizer.build(width) for _ in range(1 if self.shared else self.num_codebooks)], dim=dim, **own)
