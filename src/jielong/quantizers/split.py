"""A split quantizer: a semantic code and residual acoustic codes of one vector (Mimi; Moshi, arXiv 2410.00037)."""

from __future__ import annotations

from typing import Annotated, cast

import torch
from pydantic import Field, SerializeAsAny, model_validator
from torch import Generator, Tensor, nn

from jielong.config.registry import OfFamily
from jielong.core.rng import PerSampleRNG, seed_of
from jielong.core.whole_batch import at_step_end
from jielong.quantizers.base import Quantized, Quantizer, QuantizerSettings
from jielong.quantizers.checks import check_indices, checked, generator_or_seeded, item_draws, refuse_repetition
from jielong.quantizers.implicit import by_codebook
from jielong.quantizers.precision import KeepsPrecision
from jielong.quantizers.residual import Residual, ResidualQuantizer
from jielong.quantizers.vector import Vector


class Branch(nn.Module):
    """A quantizer of width ``W`` between two linear maps without bias, ``D -> W -> D``."""

    def __init__(self, dim: int, quantizer: Quantizer) -> None:
        super().__init__()
        self.inward = nn.Linear(dim, quantizer.dim, bias=False)
        self.quantizer = quantizer
        self.outward = nn.Linear(quantizer.dim, dim, bias=False)


class SplitQuantizer(KeepsPrecision, Quantizer):
    r"""``q(z) = P'_s Q_s(P_s z) + P'_a Q_a(P_a z)``: both quantizers read ``z`` itself, not the other's residual (section 3.3.3).

    So a loss on the semantic code (:mod:`jielong.losses.distillation`) costs the acoustic codes nothing. On the last axis of the indices
    the semantic code is first, the acoustic ones follow, coarse to fine. Quantizer dropout is the acoustic quantizer's. Losses of the two
    are summed, or, where the acoustic quantizer averages its own, averaged over all codebooks used. Raises ``ValueError`` if the codebooks
    differ in size.

    With probability ``unquantized`` an item of a training batch (its first axis) gets its projected vectors instead of codes; its codes
    learn all the same.
    """

    progressive = True
    updates: Tensor

    def __init__(self, settings: Split, dim: int) -> None:
        super().__init__()
        width = settings.width or dim
        semantic, acoustic = settings.semantic.build(width), settings.acoustic.build(width)
        if semantic.codebook_size != acoustic.codebook_size:
            raise ValueError(
                f"the codebooks of a split quantizer must be equally large, not {semantic.codebook_size} (semantic) "
                f"and {acoustic.codebook_size} (acoustic)"
            )
        self.settings, self.dim, self.codebook_size = settings, dim, semantic.codebook_size
        self.num_codebooks = semantic.num_codebooks + acoustic.num_codebooks
        self.semantic, self.acoustic = Branch(dim, semantic), Branch(dim, acoustic)
        self.register_buffer("updates", torch.tensor(0))

    def extra_repr(self) -> str:
        """The sizes, for printing."""
        sizes = f"num_codebooks={self.num_codebooks}, codebook_size={self.codebook_size}"
        return f"{sizes}, dim={self.dim}, unquantized={self.settings.unquantized}"

    def forward(
        self,
        vectors: Tensor,
        *,
        generator: Generator | None = None,
        update: bool = True,
        samples_seen: int = 0,
        rng: PerSampleRNG | None = None,
    ) -> Quantized:
        """See :meth:`Quantizer.forward`; statistics are the two quantizers' under ``semantic_`` and ``acoustic_``."""
        if self.training:
            refuse_repetition("a split quantizer")
        update = update and self.training and torch.is_grad_enabled()
        generator = generator_or_seeded(generator, self.updates)
        with torch.autocast(vectors.device.type, enabled=False):
            flat = checked(vectors, self.dim, together=update).view(vectors.shape)
            plain = self._unquantized(flat, generator, rng)
            values, parts = [], []
            # What one draws must not depend on whether the other starts in this pass.
            other = Generator().manual_seed(seed_of(generator.initial_seed(), "acoustic"))
            for branch, stream in ((self.semantic, generator), (self.acoustic, other)):
                narrow = branch.inward(flat)
                part = branch.quantizer(narrow, generator=stream, update=update, samples_seen=samples_seen, rng=rng)
                values.append(branch.outward(part.values if plain is None else torch.where(plain, narrow, part.values)))
                parts.append(part)
            first = values[0] if plain is None else self.semantic.outward(parts[0].values)
            if update:
                at_step_end(self._count, None)
        named = zip(("semantic", "acoustic"), parts, strict=True)
        return Quantized(
            (values[0] + values[1]).to(vectors.dtype),
            torch.cat([part.indices for part in parts], dim=-1),
            self._losses(parts),
            {f"{name}_{key}": value for name, part in named for key, value in part.statistics.items()},
            first=first.to(vectors.dtype),
        )

    def _unquantized(self, vectors: Tensor, generator: Generator, rng: PerSampleRNG | None) -> Tensor | None:
        """Items that are not quantized, ``(B, 1, ..., 1)`` bool; ``None`` for none."""
        if not self.training or self.settings.unquantized == 0:
            return None
        return (item_draws(rng, generator, vectors).uniform() < self.settings.unquantized).view(-1, *[1] * (vectors.ndim - 1))

    def _count(self, _: Generator | None) -> None:
        self.updates += 1

    def _losses(self, parts: list[Quantized]) -> dict[str, Tensor]:
        counts = [part.indices.shape[-1] for part in parts]
        mean = self._acoustic.settings.reduction == "mean"
        losses: dict[str, Tensor] = {}
        for part, count in zip(parts, counts, strict=True):
            weight = count / sum(counts) if mean else 1.0
            for name, loss in part.losses.items():
                losses[name] = losses[name] + weight * loss if name in losses else weight * loss
        return losses

    @torch.no_grad()
    def encode(self, vectors: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Indices of the first ``num_codebooks``, or of all, ``(..., D) -> (..., K)``. Raises ``ValueError`` if there are fewer."""
        count = self.num_codebooks if num_codebooks is None else num_codebooks
        semantic = self.semantic.quantizer.num_codebooks
        if not semantic <= count <= self.num_codebooks:
            raise ValueError(f"this quantizer has codebooks {semantic} to {self.num_codebooks}; it cannot encode with {count}")
        with torch.autocast(vectors.device.type, enabled=False):
            flat = checked(vectors, self.dim).view(vectors.shape)
            found = [self.semantic.quantizer.encode(self.semantic.inward(flat))]
            if count > semantic:
                found.append(self._acoustic.encode(self.acoustic.inward(flat), num_codebooks=count - semantic))
        return torch.cat(found, dim=-1)

    def decode(self, indices: Tensor) -> Tensor:
        """The sum of both branches at ``indices``, ``(..., n) -> (..., D)`` float32, of the first ``n <= K`` codebooks."""
        semantic = self.semantic.quantizer.num_codebooks
        count = min(indices.shape[-1], self.num_codebooks) if indices.ndim else self.num_codebooks
        check_indices(indices, self.codebook_size, max(semantic, count))
        with torch.autocast(indices.device.type, enabled=False):
            total = self.semantic.outward(self.semantic.quantizer.decode(indices[..., :semantic]))
            if count > semantic:
                total = total + self.acoustic.outward(self.acoustic.quantizer.decode(indices[..., semantic:]))
            return total

    @property
    def _acoustic(self) -> ResidualQuantizer:
        return cast("ResidualQuantizer", self.acoustic.quantizer)

    def figures(self) -> dict[str, float]:
        """The codebooks' figures: their means, and each under its number; 1 is the semantic code, a shared codebook counts once."""
        stages = [cast("Quantizer", stage) for stage in self._acoustic.stages]
        return by_codebook([each.figures() for each in (self.semantic.quantizer, *stages)])

    def advice(self) -> str | None:
        """The semantic quantizer's advice, or the acoustic one's."""
        if advice := self.semantic.quantizer.advice():
            return f"the semantic code: {advice}"
        advice = self.acoustic.quantizer.advice()
        return f"the acoustic codes: {advice}" if advice else None


class Split(QuantizerSettings, family="quantizer", name="split"):
    """Settings of :class:`SplitQuantizer`.

    Attributes:
        semantic: Quantizer of the semantic code, with one index per vector.
        acoustic: Quantizer of the acoustic codes.
    """

    semantic: Annotated[SerializeAsAny[QuantizerSettings], OfFamily("quantizer")] = Vector()
    acoustic: Annotated[SerializeAsAny[QuantizerSettings], OfFamily("quantizer")] = Residual(num_codebooks=7)
    width: int | None = Field(default=None, ge=1, description="of the vectors looked up, between linear maps; dim if not given")
    unquantized: float = Field(default=0.0, ge=0, le=1, description="probability that a training item is not quantized; 0.5 as published")

    @model_validator(mode="after")
    def _of_one_index(self) -> Split:
        if not isinstance(self.acoustic, Residual):
            raise ValueError(
                f"the acoustic part of a split quantizer is residual, not {self.acoustic.name}: "
                "acoustic: {residual: {num_codebooks: 7}}"
            )
        try:
            Residual(num_codebooks=1, quantizer=self.semantic)
        except ValueError:
            raise ValueError(
                "the semantic part of a split quantizer is a vector, finite_scalar, lookup_free or binary_spherical quantizer that gives "
                f"one index a vector with a straight-through estimator, not {self.semantic.name} with {dict(self.semantic)}"
            ) from None
        return self

    def build(self, dim: int) -> SplitQuantizer:
        """The quantizer for vectors of width ``dim``."""
        return SplitQuantizer(self, dim)
