"""What tokenizers with a body have in common: where tokens stand, and, of sound, any length and streams."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from jielong.autoencoders.base import Autoencoder, check_grid
from jielong.core.medium import Medium
from jielong.core.tokens import Layout, Tokens
from jielong.media.audio import LARGEST
from jielong.networks.decoder import Decoder
from jielong.networks.streaming import Stream, StreamingModule, in_chunks, latency, streamable
from jielong.tokenizers.base import LearnedTokenizer, laid_out

PIECE = 1 << 15
"""Samples of each sound that are worked on at a time, outside training, or as many as :data:`FRAMES` tokens cover, if those are more."""
FRAMES = 64
"""Fewer at a time would leave large weights idle between two readings from memory."""


@dataclass(frozen=True)
class Latency:
    """How far a sound is behind itself when it has gone through a stream, there and back.

    Attributes:
        samples: At most, once the stream flows: from a sample's coming in to its going out.
        first: Samples that must come in before the first goes out.
        rate: Samples a second.
    """

    samples: int
    first: int
    rate: int

    @property
    def seconds(self) -> float:
        """The same in seconds."""
        return self.samples / self.rate


class GridTokenizer(LearnedTokenizer):
    """A tokenizer with an autoencoder: an encoder to a map of features, a position a token, and a decoder from such a map.

    A body of sound that is convolutional in time takes any length, whatever length the tokenizer was trained on: ``T`` samples come to
    ``ceil(T / hop)`` tokens, and ``n`` tokens to ``n hop`` samples. Long sound is worked on in pieces, which changes nothing but the memory
    it takes.

    Args:
        media: What it reads and writes.
        autoencoder: Its networks.

    Raises:
        ValueError: if the media do not divide into tokens.
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
        """Where the body is convolutional in time."""
        return isinstance(self.encoder, StreamingModule) and isinstance(self.decoder, StreamingModule) and not self.layout.scales

    @cached_property
    def latency(self) -> Latency | None:
        """Of a stream; ``None`` where the body must see a whole sound."""
        encoder, decoder = self.encoder, self.decoder
        if not isinstance(encoder, StreamingModule) or not isinstance(decoder, StreamingModule) or not streamable(self):
            return None
        return Latency(
            latency(encoder, decoder, self.reduction), encoder.required_inputs(decoder.required_inputs(1)), self.media.sample_rate
        )

    def streaming(self, batch: int = 1) -> Stream:
        """A stream of ``batch`` sounds, in step: inside ``with``, :meth:`encode` takes chunks of any length and gives the tokens that are
        complete, and :meth:`decode` takes any number of tokens and gives their samples.

        All chunks together equal the whole. The end of a sound is told by :meth:`Stream.finish` before its last chunk.

        Raises:
            ValueError: if the body is of another kind, or looks ahead.
        """
        behind = self.latency
        if not self.any_length or behind is None:
            reason = "its norm looks at all of a sound" if self.any_length else "of the bodies, seanet and dac are built for it"
            raise ValueError(f"this tokenizer cannot be streamed: {reason}")
        if ahead := behind.samples - self.reduction:
            raise ValueError(
                f"this tokenizer cannot be streamed: its body looks {ahead} samples ({ahead / behind.rate:.3f} s) ahead; take one trained "
                "with causal: true. (Sound of any length can be encoded whole, in flat memory.)"
            )
        return Stream(self, batch)

    def check(self, media: Tensor) -> None:
        """Raise ``ValueError`` when media has another shape than the tokenizer was made for, or, outside training, another scale or NaN."""
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
        """Raise ``ValueError`` when tokens stand in another layout than this tokenizer's, but for the length where sound may have any."""
        if not self.fits(tokens.layout, self.layout):
            super().check_tokens(tokens)

    def fits(self, given: Layout, own: Layout) -> bool:
        """Whether a layout is one of ours, or, of sound of any length, differs from it in length alone."""
        return given == own or (self.any_length and len(given.grid) == 1 and replace(own, grid=given.grid) == given)

    def standing(self, values: Tensor, layout: Layout) -> Tokens:
        """Values ``(B, N, C)`` as tokens of a layout, in a grid of their own length where sound may have any."""
        return Tokens(values, replace(layout, grid=(values.shape[1],)) if self.any_length else layout)

    def features(self, media: Tensor) -> Tensor:
        """What the encoder says of media, ``(B, D, h, w)`` or ``(B, D, n)``."""
        self.check(media)
        return self._through(self.encoder, media.to(self.last_layer.dtype), self._piece * self.reduction)

    def maps(self, vectors: Tensor) -> Tensor:
        """What the decoder says of the vectors of all positions, ``(B, N, D)`` or ``(B, h, w, D)``."""
        grid = self.layout.grid if len(self.layout.grid) > 1 else (math.prod(vectors.shape[1:-1]),)
        features = vectors.reshape(len(vectors), *grid, vectors.shape[-1]).movedim(-1, 1)
        return self._through(self.decoder, features, self._piece)

    @property
    def _piece(self) -> int:
        """Tokens of a piece."""
        return max(FRAMES, PIECE // self.reduction)

    def _through(self, half: nn.Module, x: Tensor, size: int) -> Tensor:
        if not isinstance(half, StreamingModule):
            return half(laid_out(x))
        if x.shape[-1] <= size or torch.is_grad_enabled():
            return half(x)
        return in_chunks(half, x, size) if half.stream is None and streamable(half) else half(x)
