"""MMDiT: picture and text as two streams with weights of their own that attend to each other (SD3, arXiv 2403.03206).

As :mod:`jielong.networks.dit`, but that the states of the condition are a second sequence, which every layer changes too. Differences to
the paper: the pooled condition comes with the hidden vectors (the backbone ``none`` adds it to them), padding of the text is not attended
to, and by default positions are rotary; the text has none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.denoiser import DenoiserSizes, LayerNorm, modulated
from jielong.networks.joint import BlockCondition, BlockDenoiser, BlockSettings, attend, merge_heads, split_heads
from jielong.networks.norm import Norm
from jielong.networks.repeated import RepeatedBlock

PARTS = 6
"""Vectors that modulate a stream in a layer: shift, scale and gate of attention, and of the feed-forward part."""


class _Stream(nn.Module):
    """The weights of one sequence in a layer; without ``changes`` it is attended to and ends there."""

    def __init__(self, config: MMDiT, changes: bool = True) -> None:
        super().__init__()
        width, head = config.width, config.width // config.heads
        self.heads, self.changes = config.heads, changes
        self.norms = nn.ModuleList(LayerNorm(width, affine=False) for _ in range(1 + changes))
        self.qkv = nn.Linear(width, (2 + changes) * width)  # nobody reads what a stream that ends would ask
        self.query_norm = Norm(head, "rms", 1e-6) if config.qk_norm and changes else nn.Identity()
        self.key_norm = Norm(head, "rms", 1e-6) if config.qk_norm else nn.Identity()
        if changes:
            self.project = nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, config.hidden), nn.Linear(config.hidden, width)

    def attended(self, h: Tensor, parts: tuple[Tensor, ...]) -> tuple[list[Tensor], Tensor, Tensor]:
        """Queries (none where the stream ends), keys and values ``(B, heads, n, D)``."""
        *q, k, v = split_heads(self.qkv(modulated(self.norms[0](h), *parts[:2])), 2 + self.changes, self.heads)
        return [self.query_norm(each) for each in q], self.key_norm(k), v

    def forward(self, h: Tensor, attention: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
        """The stream after both branches; ``attention`` is ``(B, heads, n, D)``."""
        gate, shift, scale, gate2 = parts[2:]
        h = h + gate * self.project(merge_heads(attention))
        hidden = F.gelu(self.up(modulated(self.norms[1](h), shift, scale)), approximate="tanh")
        return cast("Tensor", h + gate2 * self.down(hidden))


class _Layer(RepeatedBlock):
    """Attention over both sequences at once; in the ``last`` layer only the picture is changed."""

    def __init__(self, config: MMDiT, last: bool) -> None:
        super().__init__()
        self.picture, self.text = _Stream(config), _Stream(config, changes=not last)

    def forward(
        self, h: Tensor, text: Tensor, parts: tuple[Tensor, ...], text_parts: tuple[Tensor, ...], prepared: BlockCondition
    ) -> tuple[Tensor, Tensor]:
        """``(B, n, W)`` and ``(B, L, W)`` to the same."""
        ([q], k, v), (text_q, text_k, text_v) = self.picture.attended(h, parts), self.text.attended(text, text_parts)
        if prepared.rotation is not None:
            q, k = prepared.rotation(q), prepared.rotation(k)
        real = _both(prepared, h.shape[1], text.shape[1])
        out = attend(torch.cat([q, *text_q], 2), torch.cat([k, text_k], 2), torch.cat([v, text_v], 2), real)
        h = self.picture(h, out[:, :, : h.shape[1]], parts)
        return h, self.text(text, out[:, :, h.shape[1] :], text_parts) if self.text.changes else text


def _both(prepared: BlockCondition, positions: int, length: int) -> Tensor | None:
    """Which of both sequences are no padding, ``(B, n + L)`` bool; ``None`` for all."""
    if prepared.real is None and prepared.seen is None:
        return None
    batch, device = len(prepared.states), prepared.states.device
    pairs = ((prepared.real, positions), (prepared.seen, length))
    return torch.cat([torch.ones(batch, n, dtype=torch.bool, device=device) if mask is None else mask for mask, n in pairs], 1)


class MMDiTDenoiser(BlockDenoiser):
    """As :class:`DiTDenoiser`, with a second sequence, the states of the condition."""

    reads_condition = True

    def __init__(self, config: MMDiT, sizes: DenoiserSizes) -> None:
        super().__init__(config, sizes)
        width, layers = config.width, config.layers
        self.of_text = nn.Linear(sizes.condition or width, width)
        self.blocks = nn.ModuleList(_Layer(config, last=index == layers - 1) for index in range(layers))
        self.modulation = nn.Linear(width, (PARTS * layers + 2) * width)
        self.text_modulation = nn.Linear(width, (PARTS * (layers - 1) + 2) * width)
        self.last_norm = LayerNorm(width, affine=False)
        self.output = nn.Linear(width, sizes.outputs)
        self._initialise(self.modulation, self.text_modulation, self.output)

    def with_condition(self, prepared: BlockCondition, states: Tensor) -> BlockCondition:
        """See :meth:`BlockDenoiser.with_condition`."""
        return replace(prepared, text=self.of_text(states))

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


class MMDiT(BlockSettings, family="network", name="mmdit"):
    """Two transformers, of the tokens of a block and of the condition's states, that attend to each other in every layer.

    Attributes:
        qk_norm: Root-mean-square norm of queries and keys, which keeps attention stable in half precision.
    """

    qk_norm: bool = True

    def network(self, sizes: DenoiserSizes) -> MMDiTDenoiser:
        """See :meth:`NetworkSettings.build`."""
        self.check(sizes, "it")
        return MMDiTDenoiser(self, sizes)
