"""Samples as tokens: the oldest unit of sound, and the smallest (WaveNet, arXiv 1609.03499)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from jielong.core.medium import ALONG_TIME, Medium
from jielong.core.tokens import Layout, Tokens
from jielong.tokenizers.base import Tokenizer, TokenizerSettings


def compress(x: Tensor, mu: float) -> Tensor:
    """``sign(x) ln(1 + mu |x|) / ln(1 + mu)`` of numbers in [-1, 1] (mu-law, ITU-T G.711): quiet samples get more of the scale."""
    return x.sign() * torch.log1p(mu * x.abs()) / math.log1p(mu)


def expand(y: Tensor, mu: float) -> Tensor:
    """The inverse of :func:`compress`: ``sign(y) ((1 + mu)^|y| - 1) / mu``."""
    return y.sign() * torch.expm1(y.abs() * math.log1p(mu)) / mu


class SampleTokenizer(Tokenizer):
    """Every sample is a position, every channel a codebook of ``levels`` values that stand closer together the nearer they are to silence.

    Levels are even on the scale of :func:`compress` with ``mu = levels - 1``, from -1 to 1. At 256 of them a step is about 2.2 % of a
    loud sample, and ``ln(256) / 255^2``, one part in 12,000 of full scale, at silence.

    Args:
        media: The sound.
        levels: Values of a sample.

    Raises:
        ValueError: if the media are no sound, or the number of levels is impossible.
    """

    def __init__(self, media: Medium, levels: int = 256) -> None:
        super().__init__()
        if media.axes != ALONG_TIME:
            raise ValueError(f"the tokenizer samples reads media of one axis, time, not {media}: choose tokenizer: pixels")
        if not 2 <= levels <= 65_536:
            raise ValueError(f"levels of a sample must be between 2 and 65,536, not {levels}")
        self.media, self.levels = media, levels
        self.layout = Layout(grid=media.size, channels=media.channels, vocabulary=levels)

    def encode(self, media: Tensor) -> Tokens:
        """``(B, C, T)`` in [-1, 1] to levels ``(B, T, C)``, each the nearest on the compressed scale."""
        self.check(media)
        scaled = compress(media.float().clamp(-1, 1), self.levels - 1)
        return Tokens(((scaled + 1) * (0.5 * (self.levels - 1))).round().long().transpose(1, 2), self.layout)

    def decode(self, tokens: Tokens) -> Tensor:
        """What :meth:`encode` returns, to ``(B, C, T)`` in [-1, 1]."""
        self.check_tokens(tokens)
        scaled = tokens.values.transpose(1, 2).float() * (2.0 / (self.levels - 1)) - 1.0
        return expand(scaled, self.levels - 1)


class Samples(TokenizerSettings, family="tokenizer", name="samples"):
    """Settings: ``levels`` values a sample."""

    fixed: ClassVar[bool] = True
    levels: int = Field(default=256, ge=2, le=65_536)

    def build(self, media: Medium, stages: Mapping[str, Tokenizer] | None = None) -> SampleTokenizer:
        """The tokenizer for sound of this format."""
        return SampleTokenizer(media, self.levels)
