"""Pixels as tokens: the oldest unit, and the wrong one for anything but small pictures (PixelRNN, arXiv 1601.06759)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from jielong.core.medium import Medium
from jielong.core.tokens import Layout, Tokens
from jielong.tokenizers.base import Tokenizer, TokenizerSettings


class PixelTokenizer(Tokenizer):
    """Every pixel is a position, every colour channel a codebook of ``levels`` values.

    Encoding is exact for 8-bit pictures at 256 levels; fewer levels round to the nearest.

    Args:
        media: The pictures.
        levels: Values of a colour channel.
        flatten: Make every colour channel a position of its own, in a grid of rows, columns and channels: red, green and blue are then
            drawn one after the other, each given those before, by whatever head.
    """

    def __init__(self, media: Medium, levels: int = 256, flatten: bool = False) -> None:
        super().__init__()
        if not 2 <= levels <= 256:
            raise ValueError(f"pixel levels must be between 2 and 256, not {levels}")
        self.media = media
        self.levels, self.flatten = levels, flatten
        if flatten:
            self.layout = Layout(grid=(*media.size, media.channels), vocabulary=levels)
        else:
            self.layout = Layout(grid=media.size, channels=media.channels, vocabulary=levels)

    def encode(self, media: Tensor) -> Tokens:
        """``(B, C, H, W)`` in [-1, 1] to levels ``(B, H W, C)``, or ``(B, H W C, 1)`` when flattened."""
        self.check(media)
        levels = ((media.float().clamp(-1, 1) + 1) * (0.5 * (self.levels - 1))).round().long()
        pixels = levels.flatten(2).transpose(1, 2)
        return Tokens(pixels.reshape(len(pixels), -1, self.layout.channels), self.layout)

    def decode(self, tokens: Tokens) -> Tensor:
        """What :meth:`encode` returns, to ``(B, C, H, W)`` in [-1, 1]."""
        self.check_tokens(tokens)
        pixels = tokens.values.reshape(len(tokens), -1, self.media.channels)
        pictures = pixels.transpose(1, 2).unflatten(2, self.media.size)
        return pictures.float() * (2.0 / (self.levels - 1)) - 1.0


class Pixels(TokenizerSettings, family="tokenizer", name="pixels"):
    """Settings: ``levels`` values a colour channel; ``flatten`` to make every channel a position of its own."""

    fixed: ClassVar[bool] = True
    levels: int = Field(default=256, ge=2, le=256)
    flatten: bool = False

    def build(self, media: Medium, stages: Mapping[str, Tokenizer] | None = None) -> PixelTokenizer:
        """The tokenizer for pictures of this format."""
        return PixelTokenizer(media, self.levels, self.flatten)
