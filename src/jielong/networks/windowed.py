"""A transformer over time whose positions see themselves and a window before them: Mimi's (arXiv 2410.00037, section 3.3.2).

Rotary positions, layer norm, GELU, no biases in the maps, and residual branches scaled by a learned vector that starts small (LayerScale,
arXiv 2103.17239). Because nothing looks ahead, chunks of any length give what the whole gives.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.attention import additive
from jielong.networks.layers import KeysValues, SelfAttention, Sight
from jielong.networks.norm import Norm
from jielong.networks.rope import Rotation
from jielong.networks.streaming import StreamingModule, StreamState


class _Layer(nn.Module):
    """Attention and a feed-forward part, each behind a norm and added through its scale."""

    def __init__(self, width: int, heads: int, hidden: int, scale: float) -> None:
        super().__init__()
        self.attention_norm = Norm(width, "layer", 1e-5)
        self.attention = SelfAttention(width, heads, qk_norm=False, bias=False, norm_eps=1e-5)
        self.attention_scale = nn.Parameter(torch.full((width,), scale))
        self.forward_norm = Norm(width, "layer", 1e-5)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.forward_scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, x: Tensor, sight: Sight) -> Tensor:
        """``(B n, D)`` to ``(B n, D)``."""
        h = self.attention.out(self.attention(self.attention_norm(x), sight))
        x = torch.addcmul(x, h, self.attention_scale.to(h.dtype))
        h = self.down(F.gelu(self.up(self.forward_norm(x))))
        return torch.addcmul(x, h, self.forward_scale.to(h.dtype))


class _Memory(StreamState):
    """Keys and values of the last ``window - 1`` positions, and room for a window of new ones.

    They are written one behind the other; when the room is used up, those still in sight are moved to its beginning, which happens once a
    window at most.
    """

    def __init__(self, layers: int, batch: int, heads: int, window: int, head_width: int, like: Tensor) -> None:
        self.slots = like.new_zeros(layers, 2, batch, heads, 2 * window, head_width)
        self.window, self.filled, self.position = window, 0, 0
        self.starts: list[int] = [-window] * batch
        """The position at which each sound began anew."""

    def make_room(self, count: int) -> slice:
        """Room for ``count`` positions, a window's at most; the slots that they will see, their own included."""
        if self.filled + count > self.slots.shape[-2]:
            keep = min(self.filled, self.window - 1)
            self.slots[..., :keep, :] = self.slots[..., self.filled - keep : self.filled, :].clone()
            self.filled = keep
        return slice(max(0, self.filled - self.window + 1), self.filled + count)

    def take(self, layer: int, seen: slice, keys: Tensor, values: Tensor) -> KeysValues:
        """Write a layer's new keys and values; all those in sight."""
        for slots, new in zip(self.slots[layer], (keys, values), strict=True):
            slots[:, :, self.filled : seen.stop] = new
        return self.slots[layer, 0, :, :, seen], self.slots[layer, 1, :, :, seen]

    def reset(self, row: int) -> None:
        # Rotary scores depend on differences of positions alone, so the position may go on.
        self.starts[row] = self.position

    def keep(self, count: int) -> None:
        """All layers have taken ``count`` positions."""
        self.filled += count
        self.position += count


class WindowedTransformer(StreamingModule):
    """Features ``(B, D, n)`` to features ``(B, D, n)``; position ``i`` sees ``i - window + 1`` to ``i``.

    Args:
        width: Channels ``D``.
        layers: Number of layers.
        heads: Attention heads; ``width`` is an even multiple of their number.
        window: Positions in sight, the own one included.
        hidden: Channels of the feed-forward part, by default ``4 D``.
        scale: What the scales of the residual branches start from.
        rope_base: Base of the rotation frequencies.

    Raises:
        ValueError: if the heads cannot share the width.
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
        return torch.cat([self._piece(piece, memory) for piece in x.split(self.window, dim=-1)], dim=-1) if x.shape[-1] else x

    def _whole(self, x: Tensor) -> Tensor:
        """Everything in one pass: the reference."""
        place = torch.arange(x.shape[-1], device=x.device)
        behind = place[:, None] - place
        sight = self._sight(x, 0, additive((behind >= 0) & (behind < self.window), self._dtype(x)))
        h = x.mT.flatten(0, 1)
        for layer in self.layers:
            h = layer(h, sight)
        return h.view(len(x), x.shape[-1], -1).mT

    def _piece(self, x: Tensor, memory: _Memory) -> Tensor:
        """Some positions behind those in memory, a window's at most."""
        count, seen = x.shape[-1], memory.make_room(x.shape[-1])
        place = torch.arange(seen.stop - seen.start, device=x.device) + memory.position - memory.filled + seen.start
        behind = place[-count:, None] - place
        allowed = (behind >= 0) & (behind < self.window)
        if max(memory.starts) > memory.position - self.window:
            allowed = allowed & (place >= torch.tensor(memory.starts, device=x.device)[:, None, None, None])
        sight = self._sight(x, memory.position, additive(allowed, self._dtype(x)))
        h = x.mT.flatten(0, 1)
        for number, layer in enumerate(self.layers):
            h = layer(h, replace(sight, memory=partial(memory.take, number, seen)))
        memory.keep(count)
        return h.view(len(x), count, -1).mT

    def _memory(self, x: Tensor) -> _Memory:
        return _Memory(len(self.layers), len(x), self.heads, self.window, self.head_width, x.new_zeros(0, dtype=self._dtype(x)))

    def _sight(self, x: Tensor, first: int, mask: Tensor) -> Sight:
        return Sight(len(x), self._rotation(first, x.shape[-1], x.device, self._dtype(x)), mask, False, [], None, [])

    def _rotation(self, first: int, count: int, device: torch.device, dtype: torch.dtype) -> Rotation:
        """In double precision, so that a stream may go on for days."""
        pairs = self.head_width // 2
        frequency = self.rope_base ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
        angle = torch.arange(first, first + count, dtype=torch.float64)[:, None] * frequency
        cosine, sine = angle.cos(), angle.sin()
        tables = torch.cat((cosine, cosine), -1), torch.cat((-sine, sine), -1)
        return Rotation(*(table.to(device, dtype) for table in tables))

    @staticmethod
    def _dtype(x: Tensor) -> torch.dtype:
        return torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
