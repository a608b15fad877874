"""Audio samples as tokens (WaveNet, arXiv 1609.03499)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from jielong.core.medium import ALONG_TIME, Axes, Medium
from jielong.core.tokens import Layout, Tokens
from jielong.tokenizers.base import Tokenizer, TokenizerSettings


def compress(x: Tensor, mu: float) -> Tensor:
    """``sign(x) ln(1 + mu |x|) / ln(1 + mu)`` of numbers in [-1, 1] (mu-law, ITU-T G.711)."""
    return x.sign() * torch.log1p(mu * x.abs()) / math.log1p(mu)


def expand(y: Tensor, mu: float) -> Tensor:
    """The inverse of :func:`compress`: ``sign(y) ((1 + mu)^|y| - 1) / mu``."""
    return y.sign() * torch.expm1(y.abs() * math.log1p(mu)) / mu


class SampleTokenizer(Tokenizer):
    """One position per sample, one codebook per channel, levels uniform on the scale of :func:`compress` with ``mu = levels - 1``.

    At 256 levels a step is about 2.2 % of a loud sample, and ``ln(256) / 255^2``, one part in 12,000 of full scale, at silence. Raises
    ``ValueError`` if the media are not audio.
    """

    def __init__(self, media: Medium, settings: Samples) -> None:
        super().__init__()
        if media.axes != ALONG_TIME:
            raise ValueError(f"the tokenizer samples is for audio, not {media}: choose tokenizer: pixels for images")
        self.media, self.levels = media, settings.levels
        self.layout = Layout(grid=media.size, channels=media.channels, vocabulary=settings.levels)

    def encode(self, media: Tensor) -> Tokens:
        """``(B, C, T)`` in [-1, 1] to levels ``(B, T, C)``, each the nearest on the compressed scale."""
        self.check(media)
        scaled = compress(media.float().clamp(-1, 1), self.levels - 1)
        return Tokens(((scaled + 1) * (0.5 * (self.levels - 1))).round().long().transpose(1, 2), self.layout)

    def decode(self, tokens: Tokens) -> Tensor:
        """Levels to ``(B, C, T)`` in [-1, 1]."""
        self.check_tokens(tokens)
        scaled = tokens.values.transpose(1, 2).float() * (2.0 / (self.levels - 1)) - 1.0
        return expand(scaled, self.levels - 1)


class Samples(TokenizerSettings, family="tokenizer", name="samples"):
    """Settings of samples as tokens.

    Attributes:
        levels: Levels of a sample, after mu-law companding.
    """

    axes: ClassVar[Axes | None] = ALONG_TIME
    fixed: ClassVar[bool] = True
    levels: int = Field(default=256, ge=2, le=65_536)

    def build(self, media: Medium, stages: Mapping[str, Tokenizer] | None = None) -> SampleTokenizer:
        """The tokenizer for sound of this format."""
        return SampleTokenizer(media, self)
