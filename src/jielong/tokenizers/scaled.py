"""Continuous tokens of one grid at several scales: each the average of the finest over areas (FlowAR, arXiv 2412.15205)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.quantizers.scales import Pyramid, Scale, check_scales, shrink
from jielong.tokenizers.base import Tokenizer


class ScaledTokenizer(Tokenizer):
    """Another tokenizer's tokens ``s_S`` with ``s_i = Down(s_S)`` before them, coarse to fine: ``(B, N, D)``.

    Scales are not summands: the finest alone is decoded. What is stored of a data set is what the other tokenizer stores.

    Args:
        source: A tokenizer of continuous tokens along rows and columns.
        scales: Rows and columns of each scale; the last is the tokenizer's grid.

    Raises:
        ValueError: if the tokens are codes or lie on another grid, or the scales do not grow to it.
    """

    def __init__(self, source: Tokenizer, scales: Sequence[Scale]) -> None:
        super().__init__()
        layout = source.layout
        if layout.discrete or layout.scales or layout.axes != ("rows", "columns"):
            what = "are codes" if layout.discrete else f"have {layout.describe()}"
            raise ValueError(f"averages over areas are of numbers on a grid of rows and columns, and this tokenizer's tokens {what}")
        self.source, self.media, self.levels = source, source.media, source.levels
        self.pyramid = Pyramid(check_scales(scales))
        self.layout = replace(layout, scales=self.pyramid.scales)

    def extra_repr(self) -> str:
        """The scales, for printing."""
        return f"scales={self.pyramid.scales}"

    @property
    def no_likelihood(self) -> str | None:
        """It has none: coarse scales are averages of the finest, so that tokens of all scales have no density."""
        return "its coarse scales are averages of its finest, so its tokens have no density of pictures"

    @property
    def cached_layout(self) -> Layout:
        """That of the other tokenizer."""
        return self.source.cached_layout

    @property
    def stored_by(self) -> Tokenizer:
        """The other tokenizer."""
        return self.source.stored_by

    def scaled(self, tokens: Tokens) -> Tokens:
        """Tokens ``(B, n, D)`` of the finest scale with all coarser ones before them, ``(B, N, D)``."""
        finest = tokens.values.mT.unflatten(2, self.pyramid.grid)
        parts = [shrink(finest, size).flatten(2).mT for size in self.pyramid.scales[:-1]]
        return Tokens(torch.cat([*parts, tokens.values], dim=1), self.layout)

    def finest(self, tokens: Tokens) -> Tokens:
        """The inverse of :meth:`scaled`: what is decoded."""
        return Tokens(tokens.values[:, self.pyramid.spans[-1][0] :], self.source.layout)

    def encode(self, media: Tensor) -> Tokens:
        """``(B, C, H, W)`` in [-1, 1] to tokens of all scales."""
        return self.scaled(self.source.encode(media))

    def decode(self, tokens: Tokens) -> Tensor:
        """Tokens of all scales, or of :meth:`encode_to_cache`, to ``(B, C, H, W)``."""
        tokens = self.mean_cached(tokens)
        self.check_tokens(tokens)
        return self.source.decode(self.finest(tokens))

    def encode_to_cache(self, media: Tensor) -> Tokens:
        """What the other tokenizer stores."""
        return self.source.encode_to_cache(media)

    def sample_cached(self, cached: Tokens, rng: PerSampleRNG) -> Tokens:
        """The scales of one sample of the other tokenizer."""
        return self.scaled(self.source.sample_cached(cached, rng))

    def mean_cached(self, tokens: Tokens) -> Tokens:
        """The scales of the other tokenizer's means."""
        return tokens if tokens.layout == self.layout else self.scaled(self.source.mean_cached(tokens))

    def decode_known(self, tokens: Tokens, known: Tensor) -> Tensor:
        """Pictures of the finest scale, where it is not known of the finest known one above it (:meth:`Tokenizer.decode_known`)."""
        tokens, known = self.mean_cached(tokens), known.to(tokens.values.device)
        total = self.finest(Tokens(self.silence_tokens.to(known.device), self.layout)).values.mT.unflatten(2, self.pyramid.grid)
        for (start, stop), size in zip(self.pyramid.spans, self.pyramid.scales, strict=True):
            maps, shown = tokens.values[:, start:stop].mT.unflatten(2, size), known[:, None, start:stop].float().unflatten(2, size)
            maps, shown = (F.interpolate(each, size=self.pyramid.grid, mode="nearest") for each in (maps, shown))
            total = torch.where(shown > 0, maps, total)
        return self.source.decode(Tokens(total.flatten(2).mT, self.source.layout))
