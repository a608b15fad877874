"""Streaming as a property of a module: inside ``with module.streaming(batch):`` the same forward pass takes chunks.

What a layer remembers from one chunk to the next belongs to the :class:`Stream`, not to the weights: several streams share a module, one
at a time, and a stream that was left can be entered again. Chunks may have any length, none included; a layer gives what is settled by the
samples that it has seen, and keeps the rest. After :meth:`Stream.finish` the next chunk is the last one, and the layers pad its end as they
pad a whole sound's. All chunks together then equal the whole.

Layers without a right context are causal. Others may be streamed too, which takes flat memory for sound of any length; what they give lags
behind, and :meth:`StreamingModule.needed` says by how much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

Kept = TypeVar("Kept")

_FAR = 1 << 20
"""A frame of a sound at which its beginning makes no difference any more."""


class Stream:
    """What the layers of a module remember of ``batch`` sounds that are passed through it side by side, chunk by chunk.

    Args:
        module: The module; its layers that remember something are found in it.
        batch: Sounds at once.

    Raises:
        ValueError: if there are none, or a layer must see a whole sound at once.
    """

    def __init__(self, module: nn.Module, batch: int) -> None:
        if batch < 1:
            raise ValueError(f"a stream carries one sound or more, not {batch}")
        self.batch, self.last = batch, False
        self.layers = [layer for layer in module.modules() if isinstance(layer, StreamingModule)]
        self._kept: dict[StreamingModule, Any] = {}
        self._folded: list[StreamingModule] = []
        for layer in self.layers:
            if reason := layer.needs_everything:
                raise ValueError(f"this module cannot be streamed: {reason}")

    def __enter__(self) -> Self:
        if any(layer.stream is not None for layer in self.layers):
            raise RuntimeError("this module is inside another stream; leave that one first")
        for layer in self.layers:
            layer.stream = self
            if layer.fold():
                self._folded.append(layer)
        return self

    def __exit__(self, *exception: object) -> None:
        for layer in self.layers:
            layer.stream = None
        for layer in self._folded:
            layer.unfold()
        self._folded.clear()

    def recall(self, layer: StreamingModule, begin: Callable[[], Kept]) -> Kept:
        """What a layer keeps here; made by ``begin`` when it has nothing yet."""
        if layer not in self._kept:
            self._kept[layer] = begin()
        return self._kept[layer]

    def check(self, x: Tensor) -> None:
        """Raise ``ValueError`` when a chunk holds another number of sounds than the stream."""
        if len(x) != self.batch:
            raise ValueError(f"this stream carries {self.batch} sounds, and the chunk holds {len(x)}")

    def finish(self) -> None:
        """The next chunk, which may be empty, is the last."""
        self.last = True

    def reset(self, row: int | None = None) -> None:
        """Begin anew: all sounds, or one of them while the others go on.

        Raises:
            ValueError: if there is no such row, or some layer waits in the middle of a frame or of its reflected beginning, where rows
                cannot part; :meth:`finish` was called.
        """
        if row is None:
            self._kept.clear()
            self.last = False
            return
        if not 0 <= row < self.batch:
            raise ValueError(f"this stream carries the sounds 0 to {self.batch - 1}; there is no {row}")
        for layer, kept in self._kept.items():
            if reason := layer.cannot_reset(kept):
                raise ValueError(f"one sound of a stream cannot begin anew here: {reason}")
        for layer, kept in self._kept.items():
            layer.reset(kept, row)


class StreamingModule(nn.Module):
    """A module that can be streamed, itself a layer that remembers or built of such.

    Attributes:
        stream: The stream that is being passed through it, if any.
    """

    stream: Stream | None = None

    def streaming(self, batch: int = 1) -> Stream:
        """A stream of ``batch`` sounds; inside ``with`` the forward pass takes their chunks.

        Raises:
            ValueError: if the module must see a whole sound at once.
        """
        return Stream(self, batch)

    @property
    def needs_everything(self) -> str | None:
        """Why the layer cannot work on chunks; ``None`` when it can."""
        return None

    def needed(self, outputs: int) -> int:
        """How many samples must have come in before ``outputs`` samples have gone out."""
        return outputs

    def cannot_reset(self, kept: Any) -> str | None:
        """Why no row can begin anew now; ``None`` when it can."""
        return None

    def reset(self, kept: Any, row: int) -> None:
        """Let one row begin anew."""

    def fold(self) -> bool:
        """Compute once what every pass would compute of the weights alone; whether there was anything to do."""
        return False

    def unfold(self) -> None:
        """Forget what :meth:`fold` computed."""


class Chain(StreamingModule):
    """Layers one after the other; those that remember nothing give a sample for a sample."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """All layers in turn."""
        for layer in self.layers:
            x = layer(x)
        return x

    def needed(self, outputs: int) -> int:
        """Of the layers, from the last to the first."""
        for layer in reversed(self.layers):
            if isinstance(layer, StreamingModule):
                outputs = layer.needed(outputs)
        return outputs


def fold(module: nn.Module) -> None:
    """Fold all layers of a module for inference (:meth:`StreamingModule.fold`); weights that change afterwards unfold by themselves."""
    for layer in module.modules():
        if isinstance(layer, StreamingModule):
            layer.fold()


def streamable(module: nn.Module) -> bool:
    """Whether no layer of it must see a whole sound at once."""
    return all(layer.needs_everything is None for layer in module.modules() if isinstance(layer, StreamingModule))


@torch.no_grad()
def in_pieces(module: StreamingModule, x: Tensor, size: int) -> Tensor:
    """What the module makes of ``x`` ``(B, C, T)``, exactly, while it works on ``size`` samples at a time: memory stays flat.

    Whatever context a piece needs of its neighbours, on either side, is remembered or waited for by the layers.
    """
    made, parts = [], x.split(size, dim=-1)
    with Stream(module, len(x)) as stream:
        for number, part in enumerate(parts, 1):
            if number == len(parts):
                stream.finish()
            made.append(module(part))
    return torch.cat(made, dim=-1)


def latency(encoder: StreamingModule, decoder: StreamingModule, hop_length: int) -> int:
    """How many samples a sound is behind itself once it has gone through both, at most.

    A sample comes out when the last one that it depends on, or that its frame waits for, has come in: ``hop`` samples for a causal codec.
    """
    return max(encoder.needed(decoder.needed(sample + 1)) - sample for sample in range(_FAR * hop_length, _FAR * hop_length + hop_length))
