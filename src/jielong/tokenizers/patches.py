"""Patches of pixels as continuous tokens, without parameters (ViT, arXiv 2010.11929; as targets of a generator, JiT, arXiv 2511.13720).

A token holds the ``p x p x C`` values of a patch in the order row, column, channel, standardised: ``(x - mean) / std``. Of a clip, a patch
is of one frame. With dequantisation ``(u - 1/2) w`` is added to training values, ``u ~ U(0, 1)`` for each and ``w = 2 / 255`` the distance
of two levels: the mean log-density of such tokens is a lower bound on the log-probability of 8-bit pictures (Theis et al., arXiv
1511.01844, section 3.1). With ``logit`` the value
that is standardised is RealNVP's (1605.08803, section 4.1), in which all numbers are pictures:

    y = alpha + (1 - 2 alpha) (x + 1 + w/2) / (2 + w)        x -> ln y - ln(1 - y)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Tensor

from jielong.autoencoders.base import check_grid
from jielong.core.medium import ALONG_FRAMES, ALONG_ROWS, Medium
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.tokenizers.base import Tokenizer, TokenizerSettings

LEVELS = 256
"""Values of a colour channel of 8-bit pictures."""
WIDTH = 2 / (LEVELS - 1)
"""Distance of two levels: the ``k``-th is ``k w - 1``."""


class PatchTokenizer(Tokenizer):
    """One position per patch of a picture or of each frame of a clip; exact up to rounding.

    Raises ``ValueError`` if the pictures do not divide into patches.
    """

    def __init__(self, media: Medium, settings: Patches) -> None:
        super().__init__()
        self.media, self.settings, self.patch = media, settings, settings.patch
        grid = check_grid(media.size, (*(1 for _ in media.size[:-2]), self.patch, self.patch))
        self.layout = Layout(grid, self.patch * self.patch * media.channels, axes=media.axes)

    def extra_repr(self) -> str:
        """Settings that tokens depend on, for printing and for the identity of token files."""
        settings = self.settings
        return f"patch={self.patch}, mean={settings.mean}, std={settings.std}, logit={settings.logit}, dequantize={settings.dequantize}"

    @property
    def no_likelihood(self) -> str | None:
        """It has one if tokens are dequantised."""
        if self.settings.dequantize:
            return None
        return "its tokens are not dequantised, so their density has no bound: set tokenizer.patches.dequantize: true"

    @property
    def cached_layout(self) -> Layout:
        """Levels of 8-bit pictures, a byte a value."""
        return replace(self.layout, vocabulary=LEVELS)

    def _to_tokens(self, values: Tensor) -> Tensor:
        """Colour values in [-1, 1], or within their levels, to numbers of tokens."""
        if self.settings.logit is not None:
            alpha = self.settings.logit
            values = torch.logit(alpha + (1 - 2 * alpha) * (values + 1 + WIDTH / 2) / (2 + WIDTH))
        return (values - self.settings.mean) / self.settings.std

    def _to_values(self, numbers: Tensor) -> Tensor:
        """The inverse of :meth:`_to_tokens`."""
        values = numbers.float() * self.settings.std + self.settings.mean
        if self.settings.logit is None:
            return values
        alpha = self.settings.logit
        return (values.sigmoid() - alpha) / (1 - 2 * alpha) * (2 + WIDTH) - 1 - WIDTH / 2

    def level_nats(self, tokens: Tokens) -> Tensor:
        """``sum ln(w |dt/dx|)`` of the numbers ``t`` of each item; see :meth:`Tokenizer.level_nats`."""
        settings, numbers = self.settings, tokens.values.double()
        each = torch.full_like(numbers, math.log(WIDTH / settings.std))
        if settings.logit is not None:
            # dt/dx = (1 - 2 alpha) / (2 + w) / (y (1 - y)), with y = sigmoid(t)
            raw = numbers * settings.std + settings.mean
            each += math.log((1 - 2 * settings.logit) / (2 + WIDTH)) + F.softplus(raw) + F.softplus(-raw)
        return each.flatten(1).sum(1)

    def _patches(self, maps: Tensor) -> Tensor:
        """``(B, C, *size)`` to ``(B, N, p p C)``."""
        p, (rows, columns) = self.patch, self.layout.grid[-2:]
        split = maps.reshape(maps.shape[0], self.media.channels, -1, rows, p, columns, p)
        return split.permute(0, 2, 3, 5, 4, 6, 1).reshape(maps.shape[0], self.layout.positions, self.layout.channels)

    def _maps(self, patches: Tensor) -> Tensor:
        """The inverse of :meth:`_patches`."""
        p, (rows, columns) = self.patch, self.layout.grid[-2:]
        split = patches.reshape(len(patches), -1, rows, columns, p, p, self.media.channels)
        return split.permute(0, 6, 1, 2, 4, 3, 5).reshape(len(patches), *self.media.shape)

    def encode(self, media: Tensor) -> Tokens:
        """``(B, C, *size)`` in [-1, 1] to ``(B, N, p p C)``, without noise."""
        self.check(media)
        return Tokens(self._to_tokens(self._patches(media.float())), self.layout)

    def encode_to_cache(self, media: Tensor) -> Tokens:
        """The nearest of 256 levels, ``(B, N, p p C)`` long."""
        self.check(media)
        levels = ((media.float().clamp(-1, 1) + 1) / WIDTH).round().long()
        return Tokens(self._patches(levels), self.cached_layout)

    def mean_cached(self, tokens: Tokens) -> Tokens:
        """Tokens as of :meth:`encode`, from levels."""
        if tokens.layout != self.cached_layout:
            return tokens
        return Tokens(self._to_tokens(tokens.values.float() * WIDTH - 1), self.layout)

    def sample_cached(self, cached: Tokens, rng: PerSampleRNG) -> Tokens:
        """Tokens to train on, ``(B, N, p p C)``, with noise if ``dequantize`` is set."""
        if not self.settings.dequantize:
            return self.mean_cached(cached)
        noise = rng.draws("dequantize", cached.values.device).uniform(*cached.values.shape[1:])
        return Tokens(self._to_tokens((cached.values + noise - 0.5) * WIDTH - 1), self.layout)

    def decode(self, tokens: Tokens) -> Tensor:
        """Tokens, or levels of :meth:`encode_to_cache`, to ``(B, C, *size)``, clamped to [-1, 1]."""
        tokens = self.mean_cached(tokens)
        self.check_tokens(tokens)
        return self._maps(self._to_values(tokens.values)).clamp(-1, 1)


class Patches(TokenizerSettings, family="tokenizer", name="patches"):
    """Settings of patches as continuous tokens.

    Attributes:
        patch: Pixels a side of a patch.
        mean: Mean of the colour values of the pictures.
        std: Their standard deviation; the default is EDM's ``sigma_data`` (arXiv 2206.00364). With mean 0 and 1 tokens are in [-1, 1].
        logit: RealNVP's ``alpha``, such as 0.05: tokens are logits of colour values, of which ``mean`` and ``std`` are then; every number
            decodes to a picture without being clamped. ``null`` for colour values.
        dequantize: Whether uniform noise of a level's width is added to training tokens, for heads that are judged by likelihood.
    """

    fixed: ClassVar[bool] = True
    patch: int = Field(default=4, ge=1)
    mean: float = 0.0
    std: PositiveFloat = 0.5
    logit: float | None = Field(default=None, gt=0, lt=0.5)
    dequantize: bool = False

    def build(self, media: Medium, stages: Mapping[str, Tokenizer] | None = None) -> PatchTokenizer:
        """The tokenizer for pictures or clips of this format. Raises ``ValueError`` for media without rows and columns."""
        if media.axes not in (ALONG_ROWS, ALONG_FRAMES):
            raise ValueError(f"the tokenizer patches is for pictures and clips, not {media}: choose tokenizer: kl for audio")
        return PatchTokenizer(media, self)
