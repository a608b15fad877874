"""Tokenizers with an autoencoder: a grid of positions, and audio of any length, whole or streamed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from jielong.autoencoders.base import Autoencoder, check_grid
from jielong.core.medium import Medium
from jielong.core.tokens import Layout, Tokens
from jielong.media.reading.sound import LARGEST
from jielong.networks.decoder import Decoder
from jielong.networks.streaming import Stream, StreamingModule, in_chunks, latency, streamable
from jielong.tokenizers.base import LearnedTokenizer, contiguous

PIECE = 1 << 15
"""Samples processed at a time outside training, or those of :data:`FRAMES` tokens, if those are more."""
FRAMES = 64
"""With fewer tokens at a time, reading the weights dominates."""


@dataclass(frozen=True)
class Latency:
    """Delay of audio through a stream, encoded and decoded."""

    samples: int  # largest delay from input to output of a sample
    first: int  # samples of input before the first output
    rate: int

    @property
    def seconds(self) -> float:
        """``samples`` in seconds."""
        return self.samples / self.rate


class GridTokenizer(LearnedTokenizer):
    """A tokenizer with an autoencoder, one token per position of its feature map.

    Autoencoders that are convolutional in time read audio of any length: ``T`` samples give ``ceil(T / hop)`` tokens, and ``n`` tokens
    ``n hop`` samples. Long audio is processed in pieces, with the same result in constant memory. Raises ``ValueError`` if the media do not
    divide into tokens.
    """

    encoder: nn.Module
    decoder: Decoder

    def __init__(self, media: Medium, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.media, self.reduction = media, autoencoder.reduction
        check_grid(media.size, autoencoder.reduction)

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
        return Latency(latency(encoder, decoder, self._stride), encoder.required_inputs(decoder.required_inputs(1)), self.media.sample_rate)

    def streaming(self, batch: int = 1) -> Stream:
        """A stream of ``batch`` clips in step: inside ``with``, :meth:`encode` takes chunks of any length and returns complete tokens,
        :meth:`decode` any number of tokens and returns their samples.

        Concatenated chunks equal the whole; call :meth:`Stream.finish` before the last one. Raises ``ValueError`` if the autoencoder cannot
        stream, or looks ahead.
        """
        delay = self.latency
        if not self.any_length or delay is None:
            reason = "its norm is over the whole clip" if self.any_length else "choose the autoencoder seanet or dac"
            raise ValueError(f"this tokenizer cannot be streamed: {reason}")
        if ahead := delay.samples - self._stride:
            raise ValueError(
                f"this tokenizer cannot be streamed: its autoencoder looks {ahead} samples ({ahead / delay.rate:.3f} s) ahead; train one "
                "with causal: true (audio of any length can be encoded whole, in constant memory)"
            )
        return Stream(self, batch)

    def check(self, media: Tensor) -> None:
        """Raise ``ValueError`` for media of another shape, or, outside training, of another scale or with NaN."""
        if not self.any_length:
            super().check(media)
            return
        self.check_scale(media)
        streamed = self.encoder.stream is not None
        if media.ndim != 3 or media.shape[1] != self.media.channels or (not media.shape[2] and not streamed):
            channels, shape = self.media.channels, tuple(media.shape)
            raise ValueError(
                f"this tokenizer reads sound of any length as (batch, channels, samples) with {channels} channel{'s' * (channels > 1)} "
                f"and a sample or more, not {shape}; jielong.media.audio.to_channels makes mono of stereo"
            )
        if self.training or not media.numel():
            return
        peak = max(abs(float(end)) for end in torch.stack(media.detach().aminmax()))
        if not math.isfinite(peak):
            raise ValueError("this sound holds NaN or infinite numbers; samples are numbers in [-1, 1]")
        if peak > LARGEST:
            raise ValueError(f"this sound holds numbers up to {peak:.4g}; samples are numbers in [-1, 1]")

    def check_tokens(self, tokens: Tokens) -> None:
        """Raise ``ValueError`` for tokens of another layout; their number may differ if :attr:`any_length`."""
        if not self.fits(tokens.layout, self.layout):
            super().check_tokens(tokens)

    def fits(self, layout: Layout, expected: Layout) -> bool:
        """Whether two layouts are equal, but for the length if :attr:`any_length`."""
        return layout == expected or (self.any_length and len(layout.grid) == 1 and replace(expected, grid=layout.grid) == layout)

    def tokens(self, values: Tensor, layout: Layout) -> Tokens:
        """Values ``(B, N, C)`` in a layout, with a grid of their length if :attr:`any_length`."""
        return Tokens(values, replace(layout, grid=(values.shape[1],)) if self.any_length else layout)

    def features(self, media: Tensor) -> Tensor:
        """The encoder's features of media, ``(B, D, h, w)`` or ``(B, D, n)``."""
        self.check(media)
        return self._through(self.encoder, media.to(self.last_layer.dtype), self._piece * self._stride)

    def maps(self, vectors: Tensor) -> Tensor:
        """The decoder's maps of the vectors of all positions, ``(B, N, D)`` or ``(B, h, w, D)``."""
        grid = self.layout.grid if len(self.layout.grid) > 1 else (math.prod(vectors.shape[1:-1]),)
        features = vectors.reshape(len(vectors), *grid, vectors.shape[-1]).movedim(-1, 1)
        return self._through(self.decoder, features, self._piece)

    @property
    def _stride(self) -> int:
        """Samples or frames per position along time."""
        return dict(zip(self.media.axes, self.reduction, strict=True)).get("time", 1)

    @property
    def _piece(self) -> int:
        """Tokens of a piece."""
        return max(FRAMES, PIECE // self._stride)

    def _through(self, half: nn.Module, x: Tensor, size: int) -> Tensor:
        if not isinstance(half, StreamingModule):
            return half(contiguous(x))
        if x.shape[-1] <= size or torch.is_grad_enabled():
            return half(x)
        return in_chunks(half, x, size) if half.stream is None and streamable(half) else half(x)
