"""A split quantizer: a code for what is said, residual codes for how it sounds, both of one vector (Mimi; Moshi, arXiv 2410.00037)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, SerializeAsAny, model_validator
from torch import Tensor, nn

from jielong.config.registry import OfFamily
from jielong.quantizers.base import Quantized, Quantizer, QuantizerSettings
from jielong.quantizers.checks import check_indices, drawing, flattened, refuse_repetition
from jielong.quantizers.implicit import by_level
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
    r"""``q(z) = P'_s Q_s(P_s z) + P'_a Q_a(P_a z)``: both quantizers read ``z`` itself, neither what the other leaves (section 3.3.3).

    So the semantic code is free to tell something that says little of the waveform, such as which sound of speech this is, and a loss
    that asks that of it (:mod:`jielong.losses.distillation`) costs the acoustic codes nothing. The semantic code comes first on the last
    axis of the indices, the acoustic levels behind it, coarse to fine. Quantizer dropout is the acoustic quantizer's own, so the semantic
    code is always there.

    Losses of the two are added, or, where the acoustic levels' are averaged, averaged over all levels used.

    Args:
        semantic: Of width ``W``.
        acoustic: Of its own width, with codebooks as large.
        dim: Width ``D`` of the vectors.
        unquantized: Probability that an item of a training batch (its first axis) gets its projected vectors in the place of codes; the
            codes of such an item learn as ever.

    Raises:
        ValueError: if the codebooks differ in size.
    """

    progressive = True
    updates: Tensor

    def __init__(self, semantic: Quantizer, acoustic: ResidualQuantizer, *, dim: int, unquantized: float = 0.0) -> None:
        super().__init__()
        if semantic.codebook_size != acoustic.codebook_size:
            raise ValueError(
                f"the codebooks of a split quantizer must be equally large, not {semantic.codebook_size} (semantic) "
                f"and {acoustic.codebook_size} (acoustic)"
            )
        self.dim, self.codebook_size, self.num_codebooks = dim, semantic.codebook_size, semantic.num_codebooks + acoustic.num_codebooks
        self.unquantized, self.reduction = unquantized, acoustic.reduction
        self.semantic, self.acoustic = Branch(dim, semantic), Branch(dim, acoustic)
        self.register_buffer("updates", torch.tensor(0))

    def extra_repr(self) -> str:
        """The sizes, for printing."""
        return f"num_codebooks={self.num_codebooks}, codebook_size={self.codebook_size}, dim={self.dim}, unquantized={self.unquantized}"

    def forward(
        self, vectors: Tensor, *, generator: torch.Generator | None = None, update: bool = True, samples_seen: int = 0
    ) -> Quantized:
        """Quantize ``(..., D)`` twice, and add.

        Args:
            vectors: ``(..., D)``.
            generator: Draws which items stay unquantized, and what the two quantizers need; when not given, draws are seeded by the number
                of updates so far.
            update: Whether training may change the codebooks now.
            samples_seen: Handed to the quantizers.

        Returns:
            The sum; indices ``(..., n)`` of the levels used; ``first``, what the semantic code gives; and the statistics of
            the two under ``semantic_`` and ``acoustic_``.

        Raises:
            ValueError: if the last axis is not ``D``.
            NonFiniteVectors: if a number is NaN or infinite.
            RuntimeError: if activation checkpointing runs it again within a backward pass.
        """
        if self.training:
            refuse_repetition("a split quantizer")
        update = update and self.training and torch.is_grad_enabled()
        draw = drawing(generator, self.updates)
        with torch.autocast(vectors.device.type, enabled=False):
            flat = flattened(vectors, self.dim, together=update).view(vectors.shape)
            plain = self._unquantized(flat, draw)
            given, parts = [], []
            for branch in (self.semantic, self.acoustic):
                narrow = branch.inward(flat)
                part = branch.quantizer(narrow, generator=draw, update=update, samples_seen=samples_seen)
                given.append(branch.outward(part.values if plain is None else torch.where(plain, narrow, part.values)))
                parts.append(part)
            first = given[0] if plain is None else self.semantic.outward(parts[0].values)
            if update:
                self.updates += 1
        named = zip(("semantic", "acoustic"), parts, strict=True)
        return Quantized(
            (given[0] + given[1]).to(vectors.dtype),
            torch.cat([part.indices for part in parts], dim=-1),
            self._losses(parts),
            {f"{name}_{key}": value for name, part in named for key, value in part.statistics.items()},
            first=first.to(vectors.dtype),
        )

    def _unquantized(self, vectors: Tensor, generator: torch.Generator) -> Tensor | None:
        """Which items stay as they are, ``(B, 1, ..., 1)``; ``None`` where none may."""
        if not self.training or self.unquantized == 0:
            return None
        drawn = torch.rand(len(vectors), generator=generator, device=generator.device).to(vectors.device)
        return (drawn < self.unquantized).view(-1, *[1] * (vectors.ndim - 1))

    def _losses(self, parts: list[Quantized]) -> dict[str, Tensor]:
        counts = [part.indices.shape[-1] for part in parts]
        shares = [count / sum(counts) for count in counts] if self.reduction == "mean" else [1.0, 1.0]
        losses: dict[str, Tensor] = {}
        for part, share in zip(parts, shares, strict=True):
            for name, loss in part.losses.items():
                losses[name] = losses[name] + share * loss if name in losses else share * loss
        return losses

    @torch.no_grad()
    def encode(self, vectors: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Indices of the first ``num_codebooks`` levels, all of them when not given, ``(..., D) -> (..., K)``; changes nothing.

        Raises:
            ValueError: if the last axis is not ``D`` or there are not so many levels.
            NonFiniteVectors: if a number is NaN or infinite.
        """
        count = self.num_codebooks if num_codebooks is None else num_codebooks
        own = self.semantic.quantizer.num_codebooks
        if not own <= count <= self.num_codebooks:
            raise ValueError(f"this quantizer has codebooks {own} to {self.num_codebooks}; it cannot encode with {count}")
        with torch.autocast(vectors.device.type, enabled=False):
            flat = flattened(vectors, self.dim).view(vectors.shape)
            found = [self.semantic.quantizer.encode(self.semantic.inward(flat))]
            if count > own:
                found.append(self._heard.encode(self.acoustic.inward(flat), num_codebooks=count - own))
        return torch.cat(found, dim=-1)

    def decode(self, indices: Tensor) -> Tensor:
        """The sum of both branches at ``indices``, ``(..., n) -> (..., D)`` float32, ``n <= K`` being the first levels.

        Raises:
            ValueError: if there are more than ``K`` levels, or an index is outside ``[0, V)``.
        """
        own = self.semantic.quantizer.num_codebooks
        count = min(indices.shape[-1], self.num_codebooks) if indices.ndim else self.num_codebooks
        check_indices(indices, self.codebook_size, max(own, count))
        with torch.autocast(indices.device.type, enabled=False):
            total = self.semantic.outward(self.semantic.quantizer.decode(indices[..., :own]))
            if count > own:
                total = total + self.acoustic.outward(self.acoustic.quantizer.decode(indices[..., own:]))
            return total

    @property
    def _heard(self) -> ResidualQuantizer:
        return self.acoustic.quantizer  # type: ignore[return-value]

    @property
    def _each(self) -> list[Quantizer]:
        """The quantizer of every level, in the indices' order; one that levels share once."""
        return [self.semantic.quantizer, *self._heard.stages]

    def figures(self) -> dict[str, float]:
        """The levels' figures: their means, and each under its level's number; 1 is the semantic code."""
        return by_level([each.figures() for each in self._each])

    def advice(self) -> str | None:
        """What to try when codes lie idle."""
        said = self.semantic.quantizer.advice()
        if said:
            return f"the semantic code: {said}"
        said = self.acoustic.quantizer.advice()
        return f"the acoustic codes: {said}" if said else None


class Split(QuantizerSettings, family="quantizer", name="split"):
    """Settings of :class:`SplitQuantizer`: a ``semantic`` quantizer of one index and an ``acoustic`` residual quantizer."""

    semantic: Annotated[SerializeAsAny[QuantizerSettings], OfFamily("quantizer")] = Vector.model_validate({})
    acoustic: Annotated[SerializeAsAny[QuantizerSettings], OfFamily("quantizer")] = Residual.model_validate({"num_codebooks": 7})
    width: int | None = Field(None, ge=1, description="of the vectors looked up, between linear maps; that of the input if not given")
    unquantized: float = Field(0.0, ge=0, le=1, description="probability that an item passes as it is in training; 0.5 as published")

    @model_validator(mode="after")
    def _of_one_index(self) -> Split:
        if not isinstance(self.acoustic, Residual):
            raise ValueError(
                f"the acoustic part of a split quantizer is residual, not {self.acoustic.name}: "
                "acoustic: {residual: {num_codebooks: 7}}"
            )
        try:
            Residual.model_validate({"num_codebooks": 1, "quantizer": self.semantic})
        except ValueError:
            raise ValueError(
                "the semantic part of a split quantizer is a vector, finite_scalar, lookup_free or binary_spherical quantizer that gives "
                f"one index a vector with a straight-through estimator, not {self.semantic.name} with {dict(self.semantic)}"
            ) from None
        return self

    def build(self, dim: int) -> SplitQuantizer:
        """The quantizer for vectors of width ``dim``."""
        width = self.width or dim
        semantic, acoustic = self.semantic.build(width), self.acoustic.build(width)
        return SplitQuantizer(semantic, acoustic, dim=dim, unquantized=self.unquantized)  # type: ignore[arg-type]
