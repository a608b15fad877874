"""Pixels as tokens, for small images and clips (PixelRNN, arXiv 1601.06759; video pixel networks, 1610.00527)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from jielong.core.medium import ALONG_FRAMES, ALONG_ROWS, Medium
from jielong.core.tokens import Layout, Tokens
from jielong.tokenizers.base import Tokenizer, TokenizerSettings


class PixelTokenizer(Tokenizer):
    """One position per pixel and one codebook per colour channel; exact for 8-bit images at 256 levels, rounded at fewer."""

    def __init__(self, media: Medium, settings: Pixels) -> None:
        super().__init__()
        self.media, self.levels = media, settings.levels
        levels = self.levels
        if settings.flatten:
            self.layout = Layout(grid=(*media.size, media.channels), vocabulary=levels, axes=(*media.axes, "channels"))
        else:
            self.layout = Layout(grid=media.size, channels=media.channels, vocabulary=levels, axes=media.axes)

    @property
    def no_likelihood(self) -> str | None:
        """It has one."""
        return None

    def encode(self, media: Tensor) -> Tokens:
        """``(B, C, *size)`` in [-1, 1] to levels ``(B, N, C)``, with a position for each pixel; flattened ``(B, N C, 1)``."""
        self.check(media)
        levels = ((media.float().clamp(-1, 1) + 1) * (0.5 * (self.levels - 1))).round().long()
        pixels = levels.flatten(2).transpose(1, 2)
        return Tokens(pixels.reshape(pixels.shape[0], -1, self.layout.channels), self.layout)

    def decode(self, tokens: Tokens) -> Tensor:
        """Levels to ``(B, C, *size)`` in [-1, 1]."""
        self.check_tokens(tokens)
        pixels = tokens.values.reshape(tokens.values.shape[0], -1, self.media.channels)
        pictures = pixels.transpose(1, 2).unflatten(2, self.media.size)
        return pictures.float() * (2.0 / (self.levels - 1)) - 1.0


class Pixels(TokenizerSettings, family="tokenizer", name="pixels"):
    """Settings of pixels as tokens.

    Attributes:
        levels: Values of a colour channel.
        flatten: One position per colour channel, in a grid with an axis of channels behind the columns, so that any head predicts red,
            green and blue in turn.
    """

    fixed: ClassVar[bool] = True
    levels: int = Field(default=256, ge=2, le=256)
    flatten: bool = False

    def build(self, media: Medium, stages: Mapping[str, Tokenizer] | None = None) -> PixelTokenizer:
        """The tokenizer for pictures or clips of this format. Raises ``ValueError`` for media without rows and columns."""
        if media.axes not in (ALONG_ROWS, ALONG_FRAMES):
            raise ValueError(f"the tokenizer pixels is for pictures and clips, not {media}: choose tokenizer: samples for audio")
        return PixelTokenizer(media, self)
