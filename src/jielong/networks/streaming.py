"""Streaming: inside ``with module.streaming(batch):`` the same forward pass takes chunks of a sound, or of a clip.

The state of every layer belongs to the :class:`Stream`, not to the weights, and the active streams belong to the execution context (a
thread, or an asyncio task): one module serves any number of streams at once. A stream that was left can be entered again. Chunks may have
any length, zero included; a layer returns the samples that its input so far determines. After :meth:`Stream.finish` the next chunk is the
last one, and the layers pad its end as they pad the end of a whole sound. The concatenated outputs equal the output for the whole sound.

Layers without right context are causal. Others can be streamed too, in constant memory; their output lags behind, by
:meth:`StreamingModule.required_inputs`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Self, TypeVar, cast

import torch
from torch import Tensor, nn

from jielong.networks.time_kernels import FoldedKernel

S = TypeVar("S", bound="StreamState")

_FAR = 1 << 20
"""A frame so late in a sound that its beginning makes no difference."""


class StreamState:
    """What one layer keeps between the chunks of one stream."""

    def cannot_reset(self) -> str | None:
        """Why a single row cannot be reset now; ``None`` when it can."""
        return None

    def reset(self, row: int) -> None:
        """Reset one row to the beginning of a sound."""


class Stream:
    """The states of a module's layers for ``batch`` sounds that are passed through it in parallel, chunk by chunk.

    Args:
        module: The module; its streaming layers are found in it.

    Raises ``ValueError`` if ``batch`` is less than 1, or a layer needs the whole sound at once.
    """

    def __init__(self, module: nn.Module, batch: int) -> None:
        if batch < 1:
            raise ValueError(f"a stream carries one sound or more, not {batch}")
        self.batch, self.last = batch, False
        self.layers = {layer: None for layer in module.modules() if isinstance(layer, StreamingModule)}
        self.folded: dict[StreamingModule, FoldedKernel] = {}
        self._states: dict[StreamingModule, StreamState] = {}
        self._in_use = threading.Lock()
        for layer in self.layers:
            if reason := layer.cannot_stream:
                raise ValueError(f"this module cannot be streamed: {reason}")

    def __enter__(self) -> Self:
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError("this stream is in use already; open another one with streaming()")
        _ACTIVE.set((self, *_ACTIVE.get()))
        for layer in self.layers:
            if (folded := layer.fold()) is not None:
                self.folded[layer] = folded
        return self

    def __exit__(self, *exception: object) -> None:
        self.folded.clear()
        _ACTIVE.set(tuple(stream for stream in _ACTIVE.get() if stream is not self))
        self._in_use.release()

    def state(self, layer: StreamingModule, begin: Callable[[], S]) -> S:
        """The state of a layer; created by ``begin`` at its first chunk."""
        if layer not in self._states:
            self._states[layer] = begin()
        return cast("S", self._states[layer])

    def check(self, x: Tensor) -> None:
        """Raise ``ValueError`` when a chunk holds another number of sounds than the stream."""
        if len(x) != self.batch:
            raise ValueError(f"this stream carries {self.batch} sounds, and the chunk holds {len(x)}")

    def finish(self) -> None:
        """Mark the next chunk, which may be empty, as the last."""
        self.last = True

    def reset(self, row: int | None = None) -> None:
        """Reset all sounds, or one of them while the others go on.

        Raises ``ValueError`` if there is no such row, or a layer is in the middle of a frame or waits for a reflected beginning, where rows
        cannot be separated.
        """
        if row is None:
            self._states.clear()
            self.last = False
            return
        if not 0 <= row < self.batch:
            raise ValueError(f"this stream carries the sounds 0 to {self.batch - 1}; there is no {row}")
        for state in self._states.values():
            if reason := state.cannot_reset():
                raise ValueError(f"one sound of a stream cannot be reset here: {reason}")
        for state in self._states.values():
            state.reset(row)


_ACTIVE: ContextVar[tuple[Stream, ...]] = ContextVar("active_streams", default=())
"""The streams entered in this context, innermost first."""


class StreamingModule(nn.Module):
    """A module that can be streamed: a layer with state, or a network of such layers."""

    @property
    def stream(self) -> Stream | None:
        """The innermost active stream of this context that includes the module."""
        if torch.compiler.is_compiling():  # in training alone, where nothing is streamed
            return None
        for stream in _ACTIVE.get():
            if self in stream.layers:
                return stream
        return None

    def streaming(self, batch: int = 1) -> Stream:
        """Inside ``with`` the forward pass takes chunks of ``batch`` sounds. Raises ``ValueError`` if a layer needs the whole sound."""
        return Stream(self, batch)

    @property
    def cannot_stream(self) -> str | None:
        """Why the layer cannot process chunks; ``None`` when it can."""
        return None

    def required_inputs(self, outputs: int) -> int:
        """Input samples after which ``outputs`` samples have been returned."""
        return outputs

    def fold(self) -> FoldedKernel | None:
        """The layer's kernel with its weight prepared for inference; ``None`` where there is none."""
        return None


class StreamingSequential(StreamingModule):
    """Layers one after the other; those without state give one sample for each sample."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """All layers in turn."""
        for layer in self.layers:
            x = layer(x)
        return x

    def required_inputs(self, outputs: int) -> int:
        """From the last layer to the first."""
        for layer in reversed(self.layers):
            if isinstance(layer, StreamingModule):
                outputs = layer.required_inputs(outputs)
        return outputs


def streamable(module: nn.Module) -> bool:
    """Whether no layer needs the whole sound at once."""
    return all(layer.cannot_stream is None for layer in module.modules() if isinstance(layer, StreamingModule))


@torch.no_grad()
def in_chunks(module: StreamingModule, x: Tensor, size: int) -> Tensor:
    """``module(x)`` for ``x`` ``(B, C, T)`` or ``(B, C, T, H, W)``, computed ``size`` samples or frames at a time in constant memory."""
    outputs, chunks = [], x.split(size, dim=2)
    with Stream(module, len(x)) as stream:
        for number, chunk in enumerate(chunks, 1):
            if number == len(chunks):
                stream.finish()
            outputs.append(module(chunk))
    return torch.cat(outputs, dim=2)


def latency(encoder: StreamingModule, decoder: StreamingModule, hop_length: int) -> int:
    """Largest delay in samples of a sound that is streamed through both: ``hop_length`` for a causal codec.

    A sample is returned when the last one that it depends on, or that its frame waits for, has come in.
    """
    first = _FAR * hop_length
    return max(encoder.required_inputs(decoder.required_inputs(sample + 1)) - sample for sample in range(first, first + hop_length))
