"""Residual quantization: every codebook quantizes the remainder of those before it (SoundStream, arXiv 2107.03312; EnCodec, 2210.13438)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal, cast

import torch
from pydantic import Field, SerializeAsAny, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from jielong.config.registry import OfFamily
from jielong.core.rng import PerSampleRNG
from jielong.core.whole_batch import at_start, at_step_end
from jielong.quantizers.base import Quantized, Quantizer, QuantizerSettings
from jielong.quantizers.checks import check_indices, checked, generator_or_seeded, refuse_repetition
from jielong.quantizers.estimators import ESTIMATORS, Estimator
from jielong.quantizers.implicit import ImplicitSettings, by_codebook
from jielong.quantizers.kmeans import kmeans
from jielong.quantizers.parallel import from_first, pick_rows
from jielong.quantizers.precision import KeepsPrecision
from jielong.quantizers.projected import Projected
from jielong.quantizers.vector import Vector, VectorQuantizer


class ResidualQuantizer(KeepsPrecision, Quantizer):
    r"""``r_0 = z``, ``q_k = Q_k(r_(k-1) / s_k) s_k``, ``r_k = r_(k-1) - sg(q_k)`` with ``s_k = shrink^(k-1)``; the value is ``sum_k q_k``.

    One estimator is around the sum, so the encoder receives the gradient once, and every level's commitment reaches it through its
    residual. Losses are summed (EnCodec's ``l_w``) or averaged over the levels used. Codebooks that start from k-means start one after
    the other, each from the residuals of the first batch that reaches it.

    With ``dropout`` a training batch uses only its first ``n`` levels, ``n`` uniform over the multiples of ``dropout_multiple``; the others
    neither learn nor cost, and the indices are ``(..., n)``. :meth:`decode` takes any number of leading levels, so one model serves all
    rates.

    Stages that project (:mod:`jielong.quantizers.projected`) have an estimator each, and their maps get gradients from the sum and the
    residuals: nothing is constant then (DAC, 2306.06546, section 3.2). A shared codebook is updated once per batch, from the residuals of
    all levels.

    Args:
        settings: The stages, their number, and the rest.
        dim: Width ``D`` of the vectors; linear maps bridge it and the stages' width where they differ.
    """

    progressive = True
    updates: Tensor

    def __init__(self, settings: Residual, dim: int) -> None:
        super().__init__()
        self.settings, inner = settings, settings.quantizer
        width = inner.width if isinstance(inner, ImplicitSettings) and inner.project else dim
        stages = [inner.build(width) for _ in range(1 if settings.shared else settings.num_codebooks)]
        self.shared = settings.shared and settings.num_codebooks > 1
        self.dim, self.codebook_size, self.num_codebooks = dim, stages[0].codebook_size, settings.num_codebooks
        self.estimate = ESTIMATORS[settings.estimator]
        self.stages = nn.ModuleList(stages)
        self.inward: nn.Module = nn.Identity() if dim == width else nn.Linear(dim, width)
        self.outward: nn.Module = nn.Identity() if dim == width else nn.Linear(width, dim)
        self.register_buffer("updates", torch.tensor(0))

    def extra_repr(self) -> str:
        """The sizes, for printing."""
        return f"num_codebooks={self.num_codebooks}, codebook_size={self.codebook_size}, dim={self.dim}, shared={self.shared}"

    def _stage(self, level: int) -> Quantizer:
        return cast("Quantizer", self.stages[0 if self.shared else level])

    def forward(
        self,
        vectors: Tensor,
        *,
        generator: Generator | None = None,
        update: bool = True,
        samples_seen: int = 0,
        rng: PerSampleRNG | None = None,
    ) -> Quantized:
        """See :meth:`Quantizer.forward`.

        Indices are ``(..., n)`` of the levels used, losses those of the levels; statistics are ``error``, the mean square of the last
        residual, and every level's under its number.
        """
        if self.training:
            refuse_repetition("a residual quantizer")
        update = update and self.training and torch.is_grad_enabled()
        generator = generator_or_seeded(generator, self.updates)
        with torch.autocast(vectors.device.type, enabled=False):
            start = self.inward(checked(vectors, self.dim, together=update))
            if self.shared and update and not bool(self._codebook.initialised):
                at_start(self._start, generator, start.detach())
            count = self._draw(generator, vectors.device)
            parts: list[Quantized] = []
            residuals, total, first = [start], torch.zeros_like(start), start
            for level in range(count):
                stage, scale = self._stage(level), self.settings.shrink**level
                scaled = _scaled(residuals[-1], 1 / scale)
                parts.append(stage(scaled, generator=generator, update=update and not self.shared, samples_seen=samples_seen, rng=rng))
                code = _scaled(parts[-1].values if stage.mapped else parts[-1].values.detach(), scale)
                total = total + code
                first = code if level == 0 else first
                residuals.append(residuals[-1] - code)
            if update:
                if self.shared:
                    indices = torch.stack([part.indices.flatten() for part in parts], dim=1).flatten()
                    at_step_end(self._follow, generator, self._compared(residuals[:-1]), indices)
                at_step_end(self._count, None)
            if not self._stage(0).mapped:
                total, first = self.estimate(start, total), self.estimate(start, first)
            values = self.outward(total)
            first = values if count == 1 else self.outward(first)
        error = residuals[-1].square().mean()
        losses = {name: torch.stack([part.losses[name] for part in parts]).sum() for name in parts[0].losses}
        if self.settings.reduction == "mean":
            losses = {name: loss / count for name, loss in losses.items()}
        if self.settings.commitment > 0:
            losses["commitment"] = losses.get("commitment", 0.0) + self.settings.commitment * error
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
        """Indices of the first ``num_codebooks`` levels, or of all, ``(..., D) -> (..., K)``. Raises ``ValueError`` if there are fewer."""
        count = self.num_codebooks if num_codebooks is None else num_codebooks
        if not 1 <= count <= self.num_codebooks:
            raise ValueError(f"this quantizer has codebooks 1 to {self.num_codebooks}; it cannot encode with {count}")
        found = []
        with torch.autocast(vectors.device.type, enabled=False):
            residual = self.inward(checked(vectors, self.dim))
            for level in range(count):
                stage, scale = self._stage(level), self.settings.shrink**level
                found.append(stage.encode(_scaled(residual, 1 / scale)))
                if level + 1 < count:
                    residual = residual - _scaled(stage.decode(found[-1]), scale)
        return torch.cat(found, dim=-1).view(*vectors.shape[:-1], count)

    def decode(self, indices: Tensor) -> Tensor:
        """The sum of the codes at ``indices``, ``(..., n) -> (..., D)`` float32, of the first ``n <= K`` levels."""
        count = min(indices.shape[-1], self.num_codebooks) if indices.ndim else self.num_codebooks
        check_indices(indices, self.codebook_size, max(1, count))
        with torch.autocast(indices.device.type, enabled=False):
            total = self._stage(0).decode(indices[..., :1])
            for level in range(1, count):
                total = total + _scaled(self._stage(level).decode(indices[..., level : level + 1]), self.settings.shrink**level)
            return self.outward(total)

    def figures(self) -> dict[str, float]:
        """The levels' figures: their means, and each under its number."""
        return by_codebook([self._stage(level).figures() for level in range(len(self.stages))])

    def advice(self) -> str | None:
        """The advice of the first level that has any, with the numbers of all that have."""
        advice = {level: text for level in range(len(self.stages)) if (text := self._stage(level).advice())}
        if not advice:
            return None
        codebooks = "the shared codebook" if self.shared else "level " + ", ".join(str(level + 1) for level in advice)
        return f"{codebooks}: {next(iter(advice.values()))}"

    def _draw(self, generator: Generator, device: torch.device) -> int:
        """Number of levels that this batch uses."""
        if not self.training or self.settings.dropout == 0:
            return self.num_codebooks
        drawn = from_first(torch.rand(2, generator=generator, device=generator.device).to(device)).tolist()
        if drawn[0] >= self.settings.dropout:
            return self.num_codebooks
        multiple = self.settings.dropout_multiple
        choices = -(-self.num_codebooks // multiple)
        return min(self.num_codebooks, (int(drawn[1] * choices) + 1) * multiple)

    @torch.no_grad()
    def residuals(self, vectors: Tensor) -> Tensor:
        """Mean ``|x - x_k|^2 / |x|^2`` of vectors ``(..., D)`` after each level, ``(K,)``."""
        indices = self.encode(vectors)
        targets = vectors.float()
        left = torch.stack([(targets - self.decode(indices[..., : level + 1])).square().mean() for level in range(self.num_codebooks)])
        return left / targets.square().mean().clamp_min(1e-12)

    @torch.no_grad()
    def _start(self, generator: Generator, vectors: Tensor) -> None:
        """K-means of the shared codebook: of the first batch, then of the batch and its residuals by those codes."""
        codebook = self._codebook
        pool = [vectors]
        for _ in range(2):
            iterations = codebook.settings.kmeans_iterations
            codebook.begin(*kmeans(self._compared(pool), codebook.codebook_size, iterations, generator, codebook.normalize))
            pool.append(vectors - codebook.decode(codebook.encode(vectors)))

    @torch.no_grad()
    def _follow(self, generator: Generator, vectors: Tensor, indices: Tensor) -> None:
        """One step of the shared codebook, from the residuals of all levels."""
        self._codebook.follow(vectors, indices, partial(pick_rows, vectors, generator=generator))

    def _count(self, _: Generator | None) -> None:
        self.updates += 1

    def _compared(self, pool: Sequence[Tensor]) -> Tensor:
        """Vectors as the shared codebook compares them, item by item, so that the processes' tables concatenate to the batch's."""
        vectors = torch.stack([each.detach() for each in pool], dim=1).flatten(0, 1)
        return F.normalize(vectors, dim=-1) if self._codebook.normalize else vectors

    @property
    def _codebook(self) -> VectorQuantizer:
        return cast("VectorQuantizer", self.stages[0])


def _scaled(vectors: Tensor, scale: float) -> Tensor:
    return vectors if scale == 1 else vectors * scale


class Residual(QuantizerSettings, family="quantizer", name="residual"):
    """Settings of :class:`ResidualQuantizer`: ``num_codebooks`` quantizers of one index per vector.

    Rounding quantizers need a finer grid in every level: ``shrink: 0.5`` for ``lookup_free``, whose levels are then the digits of a binary
    number, and about ``1 / (levels - 1)`` with a ``commitment`` for ``finite_scalar``.

    Attributes:
        quantizer: Quantizer of each level.
    """

    quantizer: Annotated[SerializeAsAny[QuantizerSettings], OfFamily("quantizer")] = Vector()
    num_codebooks: int = Field(default=8, ge=1, description="K, coarse to fine")
    shared: bool = Field(default=False, description="one codebook for all levels")
    dropout: float = Field(default=0.0, ge=0, le=1, description="probability that a training batch uses a random number of levels")
    dropout_multiple: int = Field(default=1, ge=1, description="random numbers of levels are multiples of it")
    reduction: Literal["sum", "mean"] = Field(default="sum", description="of the levels' losses")
    shrink: float = Field(default=1.0, gt=0, le=1, description="magnitude of a level's codes over those of the level before")
    commitment: float = Field(default=0.0, ge=0, description="weight of |r_K|^2, for levels without a commitment loss")
    estimator: Estimator = Field(default="straight-through", description="gradient through the sum of codes")

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
        return ResidualQuantizer(self, dim)
