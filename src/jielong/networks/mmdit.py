"""MMDiT: picture and text as two streams with weights of their own that attend to each other (SD3, arXiv 2403.03206).

As :mod:`jielong.networks.dit`, but that the states of the condition are a second sequence, which every layer changes too. Differences to
the paper: the pooled condition comes with the hidden vectors (the backbone ``none`` adds it to them), padding of the text is not attended
to, and by default positions are rotary; the text has none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.conditioning import Conditioning
from jielong.networks.denoiser import DenoiserSizes, LayerNorm, modulated
from jielong.networks.factorized import Along, along_of
from jielong.networks.joint import BlockCondition, BlockDenoiser, ClipBlockSettings, attend, attend_along, merge_heads, split_heads
from jielong.networks.norm import Norm
from jielong.networks.repeated import RepeatedBlock

PARTS = 6
"""Vectors that modulate a stream in a layer: shift, scale and gate of attention, and of the feed-forward part."""


@dataclass(frozen=True)
class StreamSizes:
    """What a stream consists of."""

    width: int
    heads: int
    hidden: int  # channels inside the feed-forward part
    qk_norm: bool = True  # root-mean-square norm of queries and keys
    bias: bool = True
    gated: bool = False  # SwiGLU (arXiv 2002.05202) instead of GELU

    def head_norm(self) -> nn.Module:
        """The norm of queries or keys."""
        return Norm(self.width // self.heads, "rms", 1e-6) if self.qk_norm else nn.Identity()


def activated(x: Tensor, gated: bool) -> Tensor:
    """``silu(gate) * value`` of ``(gate | value)`` where ``gated``, and otherwise GELU in its tanh form."""
    if not gated:
        return F.gelu(x, approximate="tanh")
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


class Stream(nn.Module):
    """The weights of one sequence in a layer; without ``changes`` it is attended to and ends there."""

    def __init__(self, sizes: StreamSizes, changes: bool = True) -> None:
        super().__init__()
        width, bias = sizes.width, sizes.bias
        self.heads, self.changes, self.gated = sizes.heads, changes, sizes.gated
        self.norms = nn.ModuleList(LayerNorm(width, affine=False) for _ in range(1 + changes))
        self.qkv = nn.Linear(width, (2 + changes) * width, bias=bias)  # nobody reads what a stream that ends would ask
        self.query_norm = sizes.head_norm() if changes else nn.Identity()
        self.key_norm = sizes.head_norm()
        if changes:
            self.project = nn.Linear(width, width, bias=bias)
            self.up = nn.Linear(width, (1 + sizes.gated) * sizes.hidden, bias=bias)
            self.down = nn.Linear(sizes.hidden, width, bias=bias)

    def attended(self, h: Tensor, parts: tuple[Tensor, ...]) -> tuple[list[Tensor], Tensor, Tensor]:
        """Queries (none where the stream ends), keys and values ``(B, heads, n, D)``."""
        *q, k, v = split_heads(self.qkv(modulated(self.norms[0](h), *parts[:2])), 2 + self.changes, self.heads)
        return [self.query_norm(each) for each in q], self.key_norm(k), v

    def forward(self, h: Tensor, attention: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
        """The stream after both branches; ``attention`` is ``(B, heads, n, D)``."""
        gate, shift, scale, gate2 = parts[2:]
        h = h + gate * self.project(merge_heads(attention))
        hidden = activated(self.up(modulated(self.norms[1](h), shift, scale)), self.gated)
        return cast("Tensor", h + gate2 * self.down(hidden))


class DoubleLayer(RepeatedBlock):
    """Attention over text and picture at once; in the ``last`` layer of an MMDiT only the picture is changed."""

    def __init__(self, sizes: StreamSizes, last: bool = False, along: Along = "places") -> None:
        super().__init__()
        self.along = along
        self.picture, self.text = Stream(sizes), Stream(sizes, changes=not last)

    def forward(
        self, h: Tensor, text: Tensor, parts: tuple[Tensor, ...], text_parts: tuple[Tensor, ...], prepared: BlockCondition
    ) -> tuple[Tensor, Tensor]:
        """``(B, n, W)`` and ``(B, L, W)`` to the same; rotations and mask of ``prepared`` are of the text and then the picture."""
        (of_picture, k, v), (of_text, text_k, text_v) = self.picture.attended(h, parts), self.text.attended(text, text_parts)
        q, k, v = torch.cat([*of_text, *of_picture], 2), torch.cat([text_k, k], 2), torch.cat([text_v, v], 2)
        if prepared.rotation is not None:
            q, k = prepared.rotation.last(q.shape[2])(q), prepared.rotation(k)
        clip, real = prepared.clip, prepared.real
        out = attend(q, k, v, real) if clip is None else attend_along(q, k, v, clip, self.along, real)
        length = text.shape[1] if self.text.changes else 0
        h = self.picture(h, out[:, :, length:], parts)
        return h, self.text(text, out[:, :, :length], text_parts) if length else text


def behind_text(prepared: BlockCondition, text: Tensor, seen: Tensor | None) -> BlockCondition:
    """Put ``text`` ``(B, L, W)`` before the positions in the mask and, unturned, in the rotations; ``seen`` is false at its padding."""
    batch, length = text.shape[:2]
    rotation, real = prepared.rotation, joined(seen, prepared.real, batch, length, prepared.states.shape[1])
    return replace(prepared, text=text, rotation=None if rotation is None else rotation.behind(length), real=real)


def joined(first: Tensor | None, second: Tensor | None, batch: int, *lengths: int) -> Tensor | None:
    """Masks of two sequences one after the other, ``(B, n + m)`` bool; ``None`` is true everywhere."""
    given = first if second is None else second
    if given is None:
        return None
    ones = (given.new_ones(batch, length) for length in lengths)
    return torch.cat([one if mask is None else mask for mask, one in zip((first, second), ones, strict=True)], 1)


class MMDiTDenoiser(BlockDenoiser):
    """As :class:`DiTDenoiser`, with a second sequence, the states of the condition."""

    reads_condition = True

    def __init__(self, config: MMDiT, sizes: DenoiserSizes) -> None:
        super().__init__(config, sizes)
        width, layers = config.width, config.layers
        stream = StreamSizes(width, config.heads, config.hidden, config.qk_norm)
        self.of_text = nn.Linear(sizes.condition or width, width)
        self.blocks = nn.ModuleList(DoubleLayer(stream, index == layers - 1, along_of(index)) for index in range(layers))
        self.modulation = nn.Linear(width, (PARTS * layers + 2) * width)
        self.text_modulation = nn.Linear(width, (PARTS * (layers - 1) + 2) * width)
        self.last_norm = LayerNorm(width, affine=False)
        self.output = nn.Linear(width, sizes.outputs)
        self._initialise(self.modulation, self.text_modulation, self.output)

    def with_condition(self, prepared: BlockCondition, condition: Conditioning, coords: Tensor) -> BlockCondition:
        """See :meth:`BlockDenoiser.with_condition`."""
        return behind_text(prepared, self.of_text(condition.states), condition.padding_mask)

    def predict(self, x: Tensor, times: Tensor | None, prepared: BlockCondition) -> Tensor:
        """See :meth:`JointDenoiser.predict`."""
        y, text, width = F.silu(self._y(times, prepared.whole)), prepared.text, prepared.states.shape[-1]
        assert text is not None  # prepare() refuses to do without
        parts, text_parts = (linear(y)[:, None].split(width, dim=-1) for linear in (self.modulation, self.text_modulation))
        h = self.input(x.to(prepared.states.dtype)) + prepared.states
        for index, block in enumerate(self.blocks):
            span = slice(PARTS * index, PARTS * index + PARTS)
            h, text = block(h, text, parts[span], text_parts[span], prepared)
        return cast("Tensor", self.output(modulated(self.last_norm(h), *parts[-2:])))


class MMDiT(ClipBlockSettings, family="network", name="mmdit"):
    """Two transformers, of the tokens of a block and of the condition's states, that attend to each other in every layer.

    Attributes:
        qk_norm: Root-mean-square norm of queries and keys, which keeps attention stable in half precision.
    """

    qk_norm: bool = True

    @property
    def reads_states(self) -> str:
        """See :attr:`NetworkSettings.reads_states`."""
        return "it"

    def network(self, sizes: DenoiserSizes) -> MMDiTDenoiser:
        """See :meth:`NetworkSettings.build`."""
        self.check(sizes)
        return MMDiTDenoiser(self, sizes)
