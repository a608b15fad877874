"""Streaming: chunks of tokens as they are drawn, and chunks of sound as they are decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from jielong.core.tokens import Tokens
from jielong.generation.callbacks import TokenChunk
from jielong.generation.request import SamplingRequest, warn_unended
from jielong.generation.sampler import Sampler
from jielong.generation.state import SamplerState
from jielong.tokenizers.base import Tokenizer


def stream_tokens(request: SamplingRequest, every: int = 1) -> Iterator[TokenChunk]:
    """Chunks of at least ``every`` complete tokens, as they are drawn.

    Raises:
        ValueError: if the request has soft codes, tokens of several axes, or items that are not drawn side by side.
    """
    layout = request.model.layout
    if every < 1:
        raise ValueError(f"every must be 1 or more, not {every}")
    if request.config.soft_codes:
        raise ValueError("a stream has no soft_codes: its tokens are codes or numbers that a decoder takes chunk by chunk")
    if layout.scales or len(layout.grid) != 1:
        raise ValueError(f"a stream yields tokens along one axis, as those of sound, and these have the grid {layout.grid}: use generate")
    batches = list(request.batches(request.count))
    if len(batches) > 1:
        raise ValueError("this order draws items of one length side by side: stream those of other lengths by themselves")
    return _chunks(request, *batches[0], every)


@torch.inference_mode()
def _chunks(request: SamplingRequest, sampler: Sampler, state: SamplerState, every: int) -> Iterator[TokenChunk]:
    done = 0
    for _ in sampler.steps(state):
        complete = sampler.complete(state)
        if complete >= done + every:
            yield TokenChunk(done, sampler.tokens(state)[0][:, done:complete].clone(), state.lengths.clone())
            done = complete
    if (last := int(state.lengths.max())) > done:
        yield TokenChunk(done, sampler.tokens(state)[0][:, done:last].clone(), state.lengths.clone())
    warn_unended(sampler.unended(state), request)


SOON = 12
"""Tokens of the first chunk that is decoded when many arrive at once, for low latency."""


def stream_sound(tokenizer: Tokenizer, pieces: Iterable[TokenChunk], samples: Sequence[int] | None = None) -> Iterator[Tensor]:
    """Chunks of sound ``(B, C, n)`` on the CPU that together are :meth:`Tokenizer.decode_padded` of all tokens.

    A tokenizer with a causal decoder decodes each token once. Another waits for the later tokens of its receptive field and decodes
    those in the receptive field again (:attr:`Tokenizer.receptive_field`).

    Args:
        tokenizer: The tokenizer.
        pieces: Tokens in their order, without a gap.
        samples: Samples of each item; as many as its tokens have by default.
    """
    hop_length = tokenizer.hop_length
    if hop_length is None:
        raise ValueError("only tokens along time, as those of sound, can be decoded chunk by chunk")
    given = None if samples is None else torch.tensor(list(samples))
    stream = _streamed(tokenizer, pieces, hop_length) if _streamable(tokenizer) else _overlapped(tokenizer, pieces, hop_length)
    for start, sound, ends in stream:
        ends = ends if given is None else given
        length = min(sound.shape[2], int(ends.max()) - start)
        behind = torch.arange(start, start + length) >= ends[:, None]
        if length > 0:
            yield sound[..., :length].masked_fill(behind[:, None], 0)


def _streamable(tokenizer: Tokenizer) -> bool:
    try:
        tokenizer.streaming()
    except ValueError:  # its network needs a whole sound, or looks ahead
        return False
    return True


@torch.no_grad()
def _streamed(tokenizer: Tokenizer, pieces: Iterable[TokenChunk], hop_length: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    stream, given, taken = None, 0, 0
    for piece in pieces:
        layout = replace(tokenizer.layout, grid=(piece.values.shape[1],))
        tokens = Tokens(_filled(tokenizer, piece), layout)
        stream = stream or tokenizer.streaming(len(tokens))
        with stream:
            sound = tokenizer.decode(tokens)
        yield given, sound.cpu(), piece.lengths * hop_length
        given, taken = given + sound.shape[2], taken + len(tokens.values[0])
    if stream is not None and given < taken * hop_length:  # a beginning that was too short to be reflected
        stream.finish()
        with stream:
            sound = tokenizer.decode(Tokens(tokens.values[:, :0], replace(layout, grid=(0,))))
        yield given, sound.cpu(), piece.lengths * hop_length


@torch.no_grad()
def _overlapped(tokenizer: Tokenizer, pieces: Iterable[TokenChunk], hop_length: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    ahead, given = tokenizer.receptive_field.after, 0
    cut = tokenizer.any_length and ahead < tokenizer.layout.positions
    values: Tensor | None = None
    for piece in pieces:
        if values is None:
            values = tokenizer.silence_tokens.to(piece.values.device).repeat(len(piece.values), 1, 1)
        stop = piece.start + piece.values.shape[1]
        values[:, piece.start : stop] = _filled(tokenizer, piece)
        lengths = piece.lengths
        # At the end of the longest item no further token comes.
        resolve = stop if stop >= int(lengths.max()) else stop - ahead
        for first, last in _parts(given, resolve, cut):
            yield first * hop_length, tokenizer.decode_between(values, first, last).cpu(), lengths * hop_length
            given = last
    if values is not None:
        for first, last in _parts(given, int(lengths.max()), cut):
            yield first * hop_length, tokenizer.decode_between(values, first, last).cpu(), lengths * hop_length


def _parts(start: int, stop: int, cut: bool) -> Iterator[tuple[int, int]]:
    """A range of tokens in parts, the first of :data:`SOON`, each twice as long as the one before; whole if it cannot be ``cut``."""
    size = SOON if cut else stop - start
    while start < stop:
        end = start + size if stop - start >= 2 * size else stop
        yield start, end
        start, size = end, 2 * size


def _filled(tokenizer: Tokenizer, piece: TokenChunk) -> Tensor:
    """A chunk's tokens, with those of silence behind an item's end."""
    places = torch.arange(piece.start, piece.start + piece.values.shape[1])
    behind = (places >= piece.lengths[:, None]).to(piece.values.device)
    if not bool(behind.any()):
        return piece.values
    return torch.where(behind[..., None], tokenizer.silence_tokens.to(piece.values.device)[:, places], piece.values)
