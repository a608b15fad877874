"""Pixels as tokens: the oldest unit, and the wrong one for anything but small pictures (PixelRNN, arXiv 1601.06759)."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from jielong.config import Part
from jielong.tokenizers.base import MediaFormat, Tokenizer
from jielong.tokens import Layout, Tokens


class PixelTokenizer(Tokenizer):
    """Every pixel is a position, every colour channel a codebook of ``levels`` values.

    Encoding is exact for 8-bit pictures at 256 levels; fewer levels round to the nearest.
    """

    def __init__(self, media: MediaFormat, levels: int = 256) -> None:
        super().__init__()
        if not 2 <= levels <= 256:
            raise ValueError(f"pixel levels must be between 2 and 256, not {levels}")
        self.media = media
        self.levels = levels
        self.layout = Layout(grid=media.size, channels=media.channels, vocabulary=levels)

    def encode(self, media: Tensor) -> Tokens:
        """``(B, C, H, W)`` in [-1, 1] to ``(B, H W, C)`` levels."""
        self.check(media)
        levels = ((media.float().clamp(-1, 1) + 1) * (0.5 * (self.levels - 1))).round().long()
        return Tokens(levels.flatten(2).transpose(1, 2), self.layout)

    def decode(self, tokens: Tokens) -> Tensor:
        """``(B, H W, C)`` levels to ``(B, C, H, W)`` in [-1, 1]."""
        self.check_tokens(tokens)
        pictures = tokens.values.transpose(1, 2).unflatten(2, self.media.size)
        return pictures.float() * (2.0 / (self.levels - 1)) - 1.0


class Pixels(Part, family="tokenizer", name="pixels"):
    """Settings: ``levels`` values a colour channel."""

    levels: int = Field(default=256, ge=2, le=256)

    def build(self, media: MediaFormat) -> PixelTokenizer:
        """The tokenizer for pictures of this format."""
        return PixelTokenizer(media, self.levels)
