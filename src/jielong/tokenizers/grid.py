"""Tokenizers with an autoencoder: a grid of positions, and audio and clips of any length, whole or streamed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import torch
from torch import Tensor, nn

from jielong.autoencoders.base import Autoencoder
from jielong.core.medium import ALONG_FRAMES, ALONG_ROWS, ALONG_TIME, UNITS, Medium
from jielong.core.tokens import Layout, Tokens
from jielong.media.reading.sound import LARGEST
from jielong.networks.decoder import Decoder
from jielong.networks.streaming import Stream, StreamingModule, in_chunks, latency, streamable
from jielong.tokenizers.base import LearnedTokenizer, contiguous
from jielong.tokenizers.tiling import Tiling, tiled

PIECE = 1 << 15
"""Samples processed at a time outside training, or those of :data:`FRAMES` tokens, if those are more."""
FRAMES = 64
"""With fewer tokens at a time, reading the weights dominates."""
STREAMED = {ALONG_TIME: "seanet or dac", ALONG_FRAMES: "causal_3d"}
"""Autoencoders that can be streamed, by axes of their media."""


@dataclass(frozen=True)
class Latency:
    """Delay of audio or clips through a stream, encoded and decoded."""

    samples: int  # largest delay from input to output of a sample, or a frame of a clip
    first: int  # samples or frames of input before the first output
    rate: float

    @property
    def seconds(self) -> float:
        """``samples`` in seconds."""
        return self.samples / self.rate


class GridTokenizer(LearnedTokenizer):
    """A tokenizer with an autoencoder, one token per position of its feature map.

    Autoencoders that are convolutional in time read media of any length: ``T`` samples give ``ceil(T / hop)`` tokens, and ``n`` tokens
    ``n hop`` samples; in causal ones of clips ``T = 1 + r k`` frames give ``1 + k`` latent frames, so a picture is a clip of one frame.
    What is long is processed in pieces, with the same result in constant memory. Raises ``ValueError`` if the media do not divide into
    tokens.
    """

    encoder: nn.Module
    decoder: Decoder

    def __init__(self, media: Medium, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.media, self.reduction, self.first_frame_alone = media, autoencoder.reduction, autoencoder.first_frame_alone
        self.any_size = autoencoder.any_size and media.axes[-2:] == ALONG_ROWS
        self.tiling: Tiling | None = None
        autoencoder.grid(media.size)

    @property
    def last_layer(self) -> nn.Parameter:
        """The decoder's last weight."""
        return self.decoder.last_layer

    @property
    def any_length(self) -> bool:
        """Whether the autoencoder is convolutional in time."""
        return isinstance(self.encoder, StreamingModule) and isinstance(self.decoder, StreamingModule) and not self.layout.scales

    @cached_property
    def latency(self) -> Latency | None:
        """Delay of a stream; ``None`` if the autoencoder needs the whole clip."""
        encoder, decoder = self.encoder, self.decoder
        if not isinstance(encoder, StreamingModule) or not isinstance(decoder, StreamingModule) or not streamable(self):
            return None
        first = encoder.required_inputs(decoder.required_inputs(1))
        return Latency(latency(encoder, decoder, self._stride), first, self.media.rate or 1)

    def streaming(self, batch: int = 1) -> Stream:
        """A stream of ``batch`` clips in step: inside ``with``, :meth:`encode` takes chunks of any length and returns complete tokens,
        :meth:`decode` any number of tokens and returns their samples.

        Concatenated chunks equal the whole; call :meth:`Stream.finish` before the last one. Raises ``ValueError`` if the autoencoder cannot
        stream, or looks ahead.
        """
        delay = self.latency
        if self.tiling is not None:
            raise ValueError("this tokenizer cannot be streamed in tiles: call disable_tiling() first")
        if not self.any_length or delay is None:
            choice = STREAMED.get(self.media.axes)
            wanted = f"choose the autoencoder {choice}" if choice else "it has no time axis"
            reason = "its norm is over the whole clip" if self.any_length else wanted
            raise ValueError(f"this tokenizer cannot be streamed: {reason}")
        if ahead := delay.samples - self._stride:
            raise ValueError(
                f"this tokenizer cannot be streamed: its autoencoder looks {ahead} samples ({ahead / delay.rate:.3f} s) ahead; train one "
                "with causal: true (audio of any length can be encoded whole, in constant memory)"
            )
        return Stream(self, batch)

    def enable_tiling(self, tile: int | tuple[int, int] = 256, overlap: float = 0.25) -> None:
        """Encode and decode rows and columns in overlapping tiles from now on, outside training (:mod:`jielong.tokenizers.tiling`).

        Args:
            tile: Pixels a side of a tile, or rows and columns.
            overlap: Share of a tile that the next one repeats, at most 0.5.

        Raises ``ValueError`` if the autoencoder reads one size alone, media have no rows, or tiles are no multiples of a token.
        """
        if not self.any_size:
            raise ValueError("this tokenizer cannot be tiled: its autoencoder reads one size alone, or media without rows and columns")
        self.tiling = Tiling.of(tile, overlap, self.reduction)

    def disable_tiling(self) -> None:
        """Encode and decode whole frames again."""
        self.tiling = None

    def check(self, media: Tensor) -> None:
        """Raise ``ValueError`` for media of another shape, or, outside training, of another scale or with NaN."""
        if not self.any_length:
            super().check(media)
            return
        self.check_scale(media)
        streamed = self.encoder.stream is not None
        if self.media.axes != ALONG_TIME:
            self._check_frames(media, streamed)
            return
        if media.ndim != 3 or media.shape[1] != self.media.channels or (not media.shape[2] and not streamed):
            channels, shape = self.media.channels, tuple(media.shape)
            raise ValueError(
                f"this tokenizer reads sound of any length as (batch, channels, samples) with {channels} channel{'s' * (channels > 1)} "
                f"and a sample or more, not {shape}; jielong.media.audio.to_channels makes mono of stereo"
            )
        if self.training or torch.compiler.is_exporting() or not media.numel():
            return
        peak = max(abs(float(end)) for end in torch.stack(media.detach().aminmax()))
        if not math.isfinite(peak):
            raise ValueError("this sound holds NaN or infinite numbers; samples are numbers in [-1, 1]")
        if peak > LARGEST:
            raise ValueError(f"this sound holds numbers up to {peak:.4g}; samples are numbers in [-1, 1]")

    def _check_frames(self, media: Tensor, streamed: bool) -> None:
        """Raise ``ValueError`` for clips of other sizes than those of :attr:`media`, but for their length, which the encoder checks."""
        wanted = (self.media.channels, *self.media.size[1:])
        if media.ndim != 2 + len(self.media.size) or (media.shape[1], *media.shape[3:]) != wanted or not (media.shape[2] or streamed):
            axes = ", ".join(("channels", "frames", *(UNITS[axis][1] for axis in self.media.axes[1:])))
            sides = ", ".join(map(str, (wanted[0], "T", *wanted[1:])))
            raise ValueError(
                f"this tokenizer reads ({axes}) = ({sides}) with T = 1 or more frames, not {tuple(media.shape[1:])}; "
                "a picture is a clip of one"
            )

    def check_tokens(self, tokens: Tokens) -> None:
        """Raise ``ValueError`` for tokens of another layout; their number may differ if :attr:`any_length`."""
        if not self.fits(tokens.layout, self.layout):
            super().check_tokens(tokens)

    def fits(self, layout: Layout, expected: Layout) -> bool:
        """Whether two layouts are equal, but for the length if :attr:`any_length`."""
        same = layout.grid[1:] == expected.grid[1:] and len(layout.grid) == len(expected.grid)
        return layout == expected or (self.any_length and same and replace(expected, grid=layout.grid) == layout)

    def tokens(self, values: Tensor, layout: Layout) -> Tokens:
        """Values ``(B, N, C)`` in a layout, with a grid of their length if :attr:`any_length`."""
        return Tokens(values, replace(layout, grid=self._grid(values.shape[1])) if self.any_length else layout)

    def _grid(self, positions: int) -> tuple[int, ...]:
        """The grid of a number of positions, of any number along the first axis."""
        rest = self.layout.grid[1:]
        return (positions // math.prod(rest), *rest)

    def features(self, media: Tensor) -> Tensor:
        """The encoder's features of media, ``(B, D, h, w)``, ``(B, D, n)`` or ``(B, D, t, h, w)``."""
        self.check(media)
        return self._in_tiles(self.encoder, media.to(self.last_layer.dtype), self._piece * self._stride, encodes=True)

    def maps(self, vectors: Tensor) -> Tensor:
        """The decoder's maps of the vectors of all positions, ``(B, N, D)`` or ``(B, *grid, D)``."""
        features = vectors.reshape(vectors.shape[0], *self._grid(math.prod(vectors.shape[1:-1])), vectors.shape[-1]).movedim(-1, 1)
        return self._in_tiles(self.decoder, features, self._piece, encodes=False)

    def spread(self, covered: Tensor, size: Sequence[int]) -> Tensor:
        """See :meth:`Tokenizer.spread`; the first position along time is that of one frame where the first frame stands alone."""
        if not self.first_frame_alone:
            return super().spread(covered, size)
        alone = self.reduction[0] - 1  # repeated like the others, the first frame has as many too many
        return super().spread(covered, (size[0] + alone, *size[1:]))[:, :, alone:]

    @property
    def _stride(self) -> int:
        """Samples or frames per position along time."""
        return dict(zip(self.media.axes, self.reduction, strict=True)).get("time", 1)

    @property
    def _piece(self) -> int:
        """Positions along time of a piece; of clips no fewer than they are trained on."""
        cells, values = math.prod(self.layout.grid[1:]), math.prod(self.media.size[1:])
        return max(-(-FRAMES // cells), PIECE // (self._stride * values), *self.layout.grid[:1] * (values > 1))

    def _in_tiles(self, half: nn.Module, x: Tensor, size: int, encodes: bool) -> Tensor:
        """A half's result, tile by tile where that was asked for."""
        if self.tiling is None or torch.is_grad_enabled():
            return self._through(half, x, size)
        rows, columns = self.reduction[-2:]
        sides = (rows, columns) if encodes else (1, 1)  # of a position, in the half's input
        tile, overlap = ((each[0] * sides[0], each[1] * sides[1]) for each in (self.tiling.tile, self.tiling.overlap))
        scales = (Fraction(1, rows), Fraction(1, columns)) if encodes else (Fraction(rows), Fraction(columns))
        return tiled(lambda part: self._through(half, part, size), x, tile, overlap, scales)

    def _through(self, half: nn.Module, x: Tensor, size: int) -> Tensor:
        x = contiguous(x) if x.ndim > 3 or not isinstance(half, StreamingModule) else x
        if not isinstance(half, StreamingModule):
            return half(x)
        if x.shape[2] <= size or torch.is_grad_enabled() or torch.compiler.is_exporting():
            return half(x)
        return in_chunks(half, x, size) if half.stream is None and streamable(half) else half(x)
