"""Multi-scale residual quantization: a feature map as the sum of coarse to fine maps of codes (VAR's tokenizer, arXiv 2404.02905)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import ClassVar, Literal, NamedTuple, cast

import torch
from pydantic import Field, field_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from jielong.core.medium import ALONG_ROWS, Axes
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.core.whole_batch import at_start, at_step_end
from jielong.quantizers.base import Quantized, Quantizer
from jielong.quantizers.checks import check_finite, generator_or_seeded, item_draws
from jielong.quantizers.estimators import straight_through
from jielong.quantizers.kmeans import kmeans
from jielong.quantizers.lookup import nearest
from jielong.quantizers.parallel import pick_rows, sum_over_processes
from jielong.quantizers.scales import Kernel, Pyramid, Scale, check_scales, nearest_ticks, schedule, shares, shrink
from jielong.quantizers.usage import LOW_USAGE, CodebookUsage
from jielong.quantizers.vector import CodebookSettings, Vector

LEAST_POSITIONS = 16
"""Usage of scales with fewer positions raises no advice: an image gives them too few codes."""


class ScaleStep(NamedTuple):
    """One scale of a quantization."""

    vectors: Tensor  # averages of the residual that were looked up, (B, h w, D)
    indices: Tensor  # their codes, (B, h w)
    total: Tensor  # the sum after this scale, (B, D, H, W), with gradients to codes and phi


class MultiScaleQuantizer(Quantizer):
    r"""Quantizes what is left, scale by scale, with one codebook for all of them.

    With ``r_0 = f``: ``z_k = area(r_(k-1), h_k x w_k)``, ``i_k`` the nearest codes, ``u_k = phi_k(bicubic(e[i_k], H x W))``,
    ``f_k = f_(k-1) + u_k`` and ``r_k = f - f_k``; at the last scale nothing is resized. ``phi(x) = (1 - ratio) x + ratio conv3x3(x)``, its
    convolutions shared by neighbouring scales. The value is ``f_K``, with a straight-through gradient.

    Losses, as means over the K scales and all components, of the running sums: ``commitment |f - sg(f_k)|^2`` and ``|sg(f) - f_k|^2``,
    which trains ``phi`` and, unless it follows averages, the codebook.

    A coarse scale has few vectors, so a codebook that counts vectors has next to no codes for them, and the coarse scales of all images
    become equal (collapse). ``balance`` weighs a vector of a scale of ``n`` positions by ``n^-balance`` in the codebook's start, averages
    and restarts: 0 counts vectors; 1 counts scales, which may take codes that the finest scale would use. ``dropout`` decodes some
    training items from their first few scales only, their number drawn uniformly, so that the encoder uses them.

    ``settings``: with scales that end at the feature map's grid, see :meth:`MultiScale.on`.
    """

    def __init__(self, settings: MultiScale, dim: int) -> None:
        super().__init__()
        self.settings, self.dim, self.codebook_size = settings, dim, settings.codebook_size
        scales = check_scales(settings.pairs)
        ticks = nearest_ticks(len(scales), settings.phi)
        used = sorted(set(ticks))  # with few scales some convolutions have none; those would never learn
        self.pyramid = Pyramid(scales, tuple(used.index(tick) for tick in ticks), settings.phi_ratio)
        self.phi = nn.ModuleList(nn.Conv2d(dim, dim, 3, padding=1) for _ in used)
        self.codebook = Vector.model_validate({name: getattr(settings, name) for name in CodebookSettings.model_fields}).build(dim)
        self.usages = nn.ModuleList(CodebookUsage(self.codebook_size, window=8 * self.codebook_size) for _ in scales)

    def extra_repr(self) -> str:
        """The scales, for printing."""
        return f"scales={self.pyramid.scales}, balance={self.settings.balance}, dropout={self.settings.dropout}"

    def layout(self, grid: tuple[int, ...]) -> Layout:
        """All scales of a feature map. Raises ``ValueError`` if the scales end at another grid."""
        if grid != self.pyramid.grid:
            raise ValueError(f"these scales end at {self.pyramid.grid}, but the feature map's grid is {grid}: give scales that end there")
        return Layout(grid, 1, self.codebook_size, self.pyramid.scales)

    @property
    def kernels(self) -> list[Kernel]:
        """Weights and biases of ``phi``."""
        return [(conv.weight.float(), cast("Tensor", conv.bias).float()) for conv in self.phi.children() if isinstance(conv, nn.Conv2d)]

    def run(self, features: Tensor, exact: bool = False) -> Iterator[ScaleStep]:
        """Quantize ``(B, D, H, W)`` float32 scale by scale.

        Args:
            features: The feature map; no gradient reaches it.
            exact: Treat every vector as a code, without indices, before there is a codebook.
        """
        features = features.detach()
        total, codes, kernels = torch.zeros_like(features), self.codebook.current, self.kernels
        for scale, size in enumerate(self.pyramid.scales):
            vectors = shrink(features - total.detach(), size).flatten(2).transpose(1, 2)  # (B, h w, D)
            if exact:
                indices, chosen = vectors.new_zeros(vectors.shape[:2], dtype=torch.long), vectors
            else:
                found, best = nearest(vectors.reshape(-1, self.dim), codes.detach())
                check_finite(best, together=self.training and torch.is_grad_enabled())
                indices = found.view(vectors.shape[:2])
                chosen = F.embedding(indices, codes)
            total = total + self.pyramid.lift(chosen, scale, kernels)
            yield ScaleStep(vectors, indices, total)

    def forward(
        self,
        vectors: Tensor,
        *,
        generator: Generator | None = None,
        update: bool = True,
        samples_seen: int = 0,
        rng: PerSampleRNG | None = None,
    ) -> Quantized:
        """See :meth:`Quantizer.forward`, for feature maps ``(B, H, W, D)``; indices are ``(B, N, 1)``, scale after scale."""
        update = update and self.training and torch.is_grad_enabled()
        with torch.autocast(vectors.device.type, enabled=False):
            features = self._features(vectors)
            generator = generator_or_seeded(generator, self.codebook.updates)
            if update and not bool(self.codebook.initialised):
                at_start(self._start, generator, features)
            steps = list(self.run(features))
            totals = torch.stack([step.total for step in steps])  # (K, B, D, H, W)
            errors = (totals.detach() - features).square().mean(dim=(1, 2, 3, 4))
            losses = {"commitment": self.settings.commitment * errors.mean()}
            if self.codebook.learned or len(self.phi):
                losses["codebook"] = (totals - features.detach()).square().mean()
            values = straight_through(features, self._kept(totals.detach(), vectors, generator, rng) if update else totals[-1])
            if update:
                groups = [step.vectors.reshape(-1, self.dim) for step in steps]
                at_step_end(self._follow, generator, *groups, *(step.indices.flatten() for step in steps))
        statistics = {"error": errors[-1].detach(), "usage": self.codebook.usage.usage, "perplexity": self.codebook.usage.perplexity}
        indices = torch.cat([step.indices for step in steps], dim=1)[..., None]
        return Quantized(values.permute(0, 2, 3, 1).to(vectors.dtype), indices, losses, statistics)

    @torch.no_grad()
    def encode(self, vectors: Tensor) -> Tensor:
        """Indices of feature maps, ``(B, H, W, D) -> (B, N, 1)``."""
        with torch.autocast(vectors.device.type, enabled=False):
            return torch.cat([step.indices for step in self.run(self._features(vectors))], dim=1)[..., None]

    def decode(self, indices: Tensor) -> Tensor:
        """Feature maps of indices, ``(B, N, 1) -> (B, H, W, D)`` float32, equal to those of :meth:`forward` bit for bit."""
        return self.assemble(self.embed(indices))

    def embed(self, indices: Tensor) -> Tensor:
        """The codes at ``indices``, ``(B, n, 1) -> (B, n, D)``."""
        return self.codebook.decode(indices)

    def assemble(self, vectors: Tensor, known: Tensor | None = None) -> Tensor:
        """Feature maps of a vector a position, ``(B, N, D) -> (B, H, W, D)``; a scale without a known position adds nothing."""
        with torch.autocast(vectors.device.type, enabled=False):
            total = vectors.new_zeros(())
            for total in self.pyramid.running(vectors.float(), self.kernels, known):  # noqa: B007 - the last one is wanted
                pass
        return total.permute(0, 2, 3, 1)

    @torch.no_grad()
    def residuals(self, vectors: Tensor) -> Tensor:
        """Mean ``|f - f_k|^2 / |f|^2`` of feature maps ``(B, H, W, D)`` after each scale, ``(K,)``."""
        with torch.autocast(vectors.device.type, enabled=False):
            features = self._features(vectors)
            left = torch.stack([(features - step.total).square().mean() for step in self.run(features)])
        return left / features.square().mean().clamp_min(1e-12)

    def figures(self) -> dict[str, float]:
        """Usage and perplexity of the codebook, and its usage by each scale."""
        scales = zip(self.pyramid.scales, self._usages, strict=True)
        return self.codebook.usage.figures() | {f"codebook_usage_{rows}x{columns}": float(each.usage) for (rows, columns), each in scales}

    def advice(self) -> str | None:
        """Scales that use little of the codebook, and what to try."""
        low = [
            f"{h}x{w}: {float(usage.usage):.0%}"
            for (h, w), usage in zip(self.pyramid.scales, self._usages, strict=True)
            if h * w >= LEAST_POSITIONS and int(usage.assignments) >= usage.window and float(usage.usage) < LOW_USAGE
        ]
        if not low:
            return None
        remedies = [
            *(["count every scale the same (balance: 1)"] if self.settings.balance < 1 else []),
            *(["decode some items from their first few scales (dropout: 0.2)"] if self.settings.dropout == 0 else []),
            *(["restart dead codes (restart_below: 0.1)"] if self.settings.restart_below == 0 else []),
            f"use fewer codes (about {max(2, round(float(self.codebook.usage.perplexity)))} carry the information now)",
        ]
        return f"some scales use little of the {self.codebook_size:,} codes ({', '.join(low)}); in this order: {'; '.join(remedies)}"

    @property
    def _usages(self) -> list[CodebookUsage]:
        return cast("list[CodebookUsage]", list(self.usages))

    def _features(self, vectors: Tensor) -> Tensor:
        if vectors.ndim != 4 or tuple(vectors.shape[1:]) != (*self.pyramid.grid, self.dim):
            shape = ", ".join(map(str, (*self.pyramid.grid, self.dim)))
            raise ValueError(f"feature maps to quantize at several scales must be (batch, {shape}), not {tuple(vectors.shape)}")
        return vectors.float().permute(0, 3, 1, 2).contiguous()

    def _kept(self, totals: Tensor, vectors: Tensor, generator: Generator, rng: PerSampleRNG | None) -> Tensor:
        """The last sum ``(B, D, H, W)``, or for some items an earlier one."""
        if self.settings.dropout == 0 or len(totals) == 1:
            return totals[-1]
        dropped, place = item_draws(rng, generator, vectors).uniform(2).unbind(1)
        last = torch.where(dropped < self.settings.dropout, (place * (len(totals) - 1)).long(), len(totals) - 1)
        return totals[last, torch.arange(totals.shape[1], device=totals.device)]

    def _weights(self, groups: Sequence[Tensor]) -> Tensor | None:
        """Weight of each vector, ``(M,)``, with mean 1."""
        balance = self.settings.balance
        if balance == 0 or len(groups) == 1:
            return None
        positions = [rows * columns for rows, columns in self.pyramid.scales]
        weights = torch.tensor([n**-balance for n in positions])
        weights = weights * sum(positions) / sum(n ** (1 - balance) for n in positions)
        return torch.cat([weight.expand(len(group)) for weight, group in zip(weights, groups, strict=True)]).to(groups[0].device)

    def _fresh(self, groups: Sequence[Tensor], generator: Generator, count: int) -> Tensor:
        """``count`` vectors drawn from the groups ``(M_k, D)`` of all processes, by ``balance``."""
        sizes = sum_over_processes(torch.tensor([len(group) for group in groups], device=groups[0].device)).tolist()
        numbers = shares(count, sizes, [(rows * columns) ** (1 - self.settings.balance) for rows, columns in self.pyramid.scales])
        return torch.cat([pick_rows(group, number, generator) for group, number in zip(groups, numbers, strict=True) if number])

    @torch.no_grad()
    def _start(self, generator: Generator, features: Tensor) -> None:
        """K-means over the vectors of all scales: with exact codes, and once more with the codes found."""
        check_finite(features.sum(), together=True)
        for exact in (True, False)[: len(self.pyramid.scales)]:
            groups = [step.vectors.reshape(-1, self.dim) for step in self.run(features, exact)]
            start = self._fresh(groups, generator, self.codebook_size)
            iterations, weights = self.settings.kmeans_iterations, self._weights(groups)
            self.codebook.begin(*kmeans(torch.cat(groups), self.codebook_size, iterations, generator, start=start, weights=weights))

    @torch.no_grad()
    def _follow(self, generator: Generator, *parts: Tensor) -> None:
        """One step of the codebook; ``parts``: the vectors of each scale, then their indices."""
        groups, indices = parts[: len(parts) // 2], parts[len(parts) // 2 :]
        self.codebook.follow(torch.cat(groups), torch.cat(indices), partial(self._fresh, groups, generator), self._weights(groups))
        counts = torch.stack([torch.bincount(each, minlength=self.codebook_size) for each in indices])
        for usage, count in zip(self._usages, sum_over_processes(counts), strict=True):
            usage.update(count)


class MultiScale(CodebookSettings, family="quantizer", name="multi_scale"):
    """Settings of :class:`MultiScaleQuantizer`.

    ``scales`` is ``auto`` (near-geometric, ending at the feature map's grid) or a list such as ``[1, 2, 3, 4, 6, 8]``, of sides or of
    pairs of rows and columns.
    """

    axes: ClassVar[Axes | None] = ALONG_ROWS
    scales: Literal["auto"] | tuple[int | tuple[int, int], ...] = Field(default="auto", description="coarse to fine, ending at the grid")
    phi: int = Field(default=4, ge=0, description="convolutions shared by the scales; 0 is none")
    phi_ratio: float = Field(default=0.5, ge=0, le=1, description="share of the convolution in what a scale adds")
    balance: float = Field(default=0.5, ge=0, le=1, description="exponent of scales' weights in the codebook: 0 counts vectors, 1 scales")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of training items decoded from their first few scales only")

    @field_validator("scales")
    @classmethod
    def _grow(cls, scales: str | tuple[int | Scale, ...]) -> str | tuple[int | Scale, ...]:
        if not isinstance(scales, str):
            check_scales([(side, side) if isinstance(side, int) else side for side in scales])
        return scales

    def on(self, grid: tuple[int, ...]) -> MultiScale:
        """These settings with the scales of a grid. Raises ``ValueError`` if it has not two axes, or the scales end at another."""
        if len(grid) != 2:
            raise ValueError(f"scales are for tokens in rows and columns, not for a grid of {grid}")
        if self.scales == "auto":
            return self.model_copy(update={"scales": schedule((grid[0], grid[1]))})
        if self.pairs[-1] != grid:
            raise ValueError(f"scales must end at the feature map's grid {grid}, not at {self.pairs[-1]}; or write scales: auto")
        return self

    @property
    def pairs(self) -> tuple[Scale, ...]:
        """The scales as rows and columns."""
        if isinstance(self.scales, str):
            raise ValueError("scales: auto depend on the grid: call on(grid) first")
        return tuple((side, side) if isinstance(side, int) else side for side in self.scales)

    def build(self, dim: int) -> MultiScaleQuantizer:
        """The quantizer for feature maps of width ``dim``, on the grid of :meth:`on`."""
        return MultiScaleQuantizer(self, dim)
