"""A causal transformer over time with a limited window: Mimi's (arXiv 2410.00037, section 3.3.2).

Rotary positions, layer norm, GELU, no biases in the maps, and residual branches scaled by a learned vector that starts small (LayerScale,
arXiv 2103.17239). It is causal, so the output for chunks of any length equals that for the whole.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.attention import additive, compute_dtype
from jielong.networks.layers import AttentionContext, KeysValues, SelfAttention
from jielong.networks.norm import Norm
from jielong.networks.repeated import RepeatedBlock
from jielong.networks.rope import Rotation
from jielong.networks.streaming import StreamingModule, StreamState


class _Layer(RepeatedBlock):
    """Pre-norm residual branches with LayerScale: attention and feed-forward."""

    def __init__(self, width: int, heads: int, hidden: int, scale: float) -> None:
        super().__init__()
        self.attention_norm = Norm(width, "layer", 1e-5)
        self.attention = SelfAttention(width, heads, qk_norm=False, bias=False, norm_eps=1e-5)
        self.attention_scale = nn.Parameter(torch.full((width,), scale))
        self.forward_norm = Norm(width, "layer", 1e-5)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.forward_scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """``(B n, D)`` to ``(B n, D)``."""
        h = self.attention.out(self.attention(self.attention_norm(x), context))
        x = torch.addcmul(x, h, self.attention_scale.to(h.dtype))
        h = self.down(F.gelu(self.up(self.forward_norm(x))))
        return torch.addcmul(x, h, self.forward_scale.to(h.dtype))


class _Memory(StreamState):
    """Keys and values of the last ``window - 1`` positions, and room for a window of new ones.

    They are appended; when the room is full, those still in the window are moved to its beginning, at most once a window.
    """

    def __init__(self, layers: int, batch: int, heads: int, window: int, head_width: int, like: Tensor) -> None:
        self.slots = like.new_zeros(layers, 2, batch, heads, 2 * window, head_width)
        self.window, self.filled, self.position = window, 0, 0
        self.starts: list[int] = [-window] * batch
        """The position at which each sound began."""

    def make_room(self, count: int) -> slice:
        """Make room for ``count`` positions, at most a window; the slots that they attend to, their own included."""
        if self.filled + count > self.slots.shape[-2]:
            keep = min(self.filled, self.window - 1)
            self.slots[..., :keep, :] = self.slots[..., self.filled - keep : self.filled, :].clone()
            self.filled = keep
        return slice(max(0, self.filled - self.window + 1), self.filled + count)

    def store(self, layer: int, visible: slice, keys: Tensor, values: Tensor) -> KeysValues:
        """Write a layer's new keys and values; return all that are attended to."""
        for slots, new in zip(self.slots[layer], (keys, values), strict=True):
            slots[:, :, self.filled : visible.stop] = new
        return self.slots[layer, 0, :, :, visible], self.slots[layer, 1, :, :, visible]

    def reset(self, row: int) -> None:
        # Rotary scores depend on differences of positions alone, so the position may go on.
        self.starts[row] = self.position

    def advance(self, count: int) -> None:
        """Move the cursor after all layers have stored ``count`` positions."""
        self.filled += count
        self.position += count


class WindowedTransformer(StreamingModule):
    """Features ``(B, D, n)`` to features ``(B, D, n)``; position ``i`` attends to ``i - window + 1`` to ``i``.

    Args:
        heads: Attention heads; ``width`` is an even multiple of their number.
        window: Positions attended to, the current one included.
        hidden: Channels of the feed-forward part, by default ``4 D``.
        scale: Initial LayerScale.
        rope_base: Base of the rotation frequencies.

    Raises ``ValueError`` if the heads cannot share the width.
    """

    def __init__(
        self,
        width: int,
        *,
        layers: int,
        heads: int,
        window: int,
        hidden: int | None = None,
        scale: float = 0.01,
        rope_base: float = 10_000.0,
    ) -> None:
        super().__init__()
        if width % heads or width // heads % 2:
            raise ValueError(f"a width of {width} must be an even multiple of the number of heads, unlike {heads}: pairs are rotated")
        self.heads, self.head_width, self.window, self.rope_base = heads, width // heads, window, rope_base
        self.layers = nn.ModuleList(_Layer(width, heads, hidden or 4 * width, scale) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, D, n)`` to ``(B, D, n)``."""
        if (stream := self.stream) is not None:
            stream.check(x)
            memory = stream.state(self, lambda: self._memory(x))
        elif torch.is_grad_enabled() or x.shape[-1] <= 2 * self.window:
            return self._whole(x)
        else:
            memory = self._memory(x)
        return torch.cat([self._chunk(chunk, memory) for chunk in x.split(self.window, dim=-1)], dim=-1) if x.shape[-1] else x

    def _whole(self, x: Tensor) -> Tensor:
        """All positions in one pass: the reference."""
        position = torch.arange(x.shape[-1], device=x.device)
        distance = position[:, None] - position
        context = self._context(x, 0, (distance >= 0) & (distance < self.window))
        h = x.mT.flatten(0, 1)
        for layer in self.layers:
            h = layer(h, context)
        return h.view(x.shape[0], x.shape[-1], -1).mT

    def _chunk(self, x: Tensor, memory: _Memory) -> Tensor:
        """At most a window of positions that follow those in memory."""
        count, slots = x.shape[-1], memory.make_room(x.shape[-1])
        position = torch.arange(slots.stop - slots.start, device=x.device) + memory.position - memory.filled + slots.start
        distance = position[-count:, None] - position
        allowed = (distance >= 0) & (distance < self.window)
        if max(memory.starts) > memory.position - self.window:
            allowed = allowed & (position >= torch.tensor(memory.starts, device=x.device)[:, None, None, None])
        context = self._context(x, memory.position, allowed)
        h = x.mT.flatten(0, 1)
        for number, layer in enumerate(self.layers):
            h = layer(h, replace(context, store=partial(memory.store, number, slots)))
        memory.advance(count)
        return h.view(x.shape[0], count, -1).mT

    def _memory(self, x: Tensor) -> _Memory:
        return _Memory(len(self.layers), len(x), self.heads, self.window, self.head_width, x.new_zeros(0, dtype=compute_dtype(x)))

    def _context(self, x: Tensor, first: int, allowed: Tensor) -> AttentionContext:
        dtype = compute_dtype(x)
        return AttentionContext(x.shape[0], self._rotation(first, x.shape[-1], x.device, dtype), additive(allowed, dtype))

    def _rotation(self, first: int, count: int, device: torch.device, dtype: torch.dtype) -> Rotation:
        """Computed in double precision, for streams of many hours."""
        pairs = self.head_width // 2
        frequency = self.rope_base ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
        angle = torch.arange(first, first + count, dtype=torch.float64)[:, None] * frequency
        cosine, sine = angle.cos(), angle.sin()
        tables = torch.cat((cosine, cosine), -1), torch.cat((-sine, sine), -1)
        return Rotation(*(table.to(device, dtype) for table in tables))
