"""FLUX.2's transformer: two streams, then one, with shared modulation and reference pictures as further tokens (Black Forest Labs, 2025).

There is no paper; the structure is that of the public inference code. Double layers are those of :mod:`jielong.networks.mmdit` with SwiGLU
and without biases; in single layers text and picture are one sequence, and attention and feed-forward part are computed side by side,
from one linear map and into one. One map computes the vectors that modulate all layers of a kind. Positions are rotary over four axes:
time, row, column, and place in the text. Tokens of reference pictures (:attr:`Conditioning.references`) go with the picture's stream.
Differences: the maps of times and hidden vectors have biases, and the guidance scale is no input.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from jielong.networks.conditioning import Conditioning
from jielong.networks.denoiser import DenoiserSizes, LayerNorm, modulated
from jielong.networks.joint import BlockCondition, BlockDenoiser, BlockSettings, attend, merge_heads, split_heads
from jielong.networks.mmdit import PARTS, DoubleLayer, StreamSizes, activated, joined
from jielong.networks.repeated import RepeatedBlock
from jielong.networks.rope import Rotary

AXES = 4
"""Coordinates of a token: time, row, column, place in the text."""
BASE = 2000.0
"""Of the rotary frequencies."""
SINGLE_PARTS = 3
"""Vectors that modulate a single layer: shift, scale and gate."""


class _SingleLayer(RepeatedBlock):
    """``h + gate W2 [attention(q, k, v) | swiglu(u)]`` with ``(q | k | v | u) = W1 (LN(h) (1 + scale) + shift)``."""

    def __init__(self, sizes: StreamSizes) -> None:
        super().__init__()
        width, hidden = sizes.width, sizes.hidden
        self.heads, self.parts = sizes.heads, (3 * width, 2 * hidden)
        self.norm = LayerNorm(width, affine=False)
        self.up, self.down = nn.Linear(width, sum(self.parts), bias=False), nn.Linear(width + hidden, width, bias=False)
        self.query_norm, self.key_norm = sizes.head_norm(), sizes.head_norm()

    def forward(self, h: Tensor, parts: tuple[Tensor, ...], prepared: BlockCondition) -> Tensor:
        """``(B, L + n, W)`` to the same."""
        shift, scale, gate = parts
        qkv, hidden = self.up(modulated(self.norm(h), shift, scale)).split(self.parts, dim=-1)
        q, k, v = split_heads(qkv, 3, self.heads)
        q, k = self.query_norm(q), self.key_norm(k)
        if prepared.rotation is not None:
            q, k = prepared.rotation(q), prepared.rotation(k)
        attention = merge_heads(attend(q, k, v, prepared.real))
        return cast("Tensor", h + gate * self.down(torch.cat([attention, activated(hidden, gated=True)], -1)))


class Flux2Denoiser(BlockDenoiser):
    """As :class:`MMDiTDenoiser`, with double and single layers. Raises ``ValueError`` for tokens of more than two axes."""

    reads_condition = True

    def __init__(self, config: Flux2, sizes: DenoiserSizes) -> None:
        super().__init__(config, sizes)
        width, stream = config.width, StreamSizes(config.width, config.heads, config.hidden, bias=False, gated=True)
        self.rotary = Rotary(width // config.heads, AXES, BASE)
        self.of_text = nn.Linear(sizes.condition or width, width, bias=False)
        self.of_reference = nn.Linear(sizes.condition or width, width, bias=False)
        self.blocks = nn.ModuleList(DoubleLayer(stream) for _ in range(config.layers))
        self.single_blocks = nn.ModuleList(_SingleLayer(stream) for _ in range(config.single_layers))
        self.modulation = nn.Linear(width, (PARTS + SINGLE_PARTS + 2) * width, bias=False)
        self.text_modulation = nn.Linear(width, PARTS * width, bias=False)
        self.last_norm = LayerNorm(width, affine=False)
        self.output = nn.Linear(width, sizes.outputs)
        self._initialise(self.modulation, self.text_modulation, self.output)

    def places(self, coords: Tensor) -> Tensor:
        """Coordinates of the picture's tokens, ``(n, 4)``: a row or (row, column) at time 0."""
        return F.pad(coords, (1, AXES - 1 - coords.shape[1]))

    def with_condition(self, prepared: BlockCondition, condition: Conditioning, coords: Tensor) -> BlockCondition:
        """See :meth:`BlockDenoiser.with_condition`; references stand behind the picture."""
        condition = condition.compact()
        given, batch, n = condition.references, len(condition), prepared.states.shape[1]
        text = self.of_text(condition.states)
        references = text[:, :0] if given is None else self.of_reference(given.states)
        length, count = text.shape[1], references.shape[1]
        places = [F.pad(torch.arange(length)[:, None], (AXES - 1, 0)).to(coords.dtype), self.places(coords)]
        if given is not None:
            places.append(F.pad(given.coords, (0, 1)).to(coords.dtype))
        rotation = None if self.rotary is None else self.rotary(torch.cat(places), text.device, prepared.states.dtype)
        picture = joined(prepared.real, None if given is None or bool(given.mask.all()) else given.mask, batch, n, count)
        real = joined(condition.padding_mask, picture, batch, length, n + count)
        return replace(prepared, text=text, references=references, rotation=rotation, real=real)

    def predict(self, x: Tensor, times: Tensor | None, prepared: BlockCondition) -> Tensor:
        """See :meth:`JointDenoiser.predict`."""
        y, text, references = F.silu(self._y(times, prepared.whole)), prepared.text, prepared.references
        assert text is not None  # prepare() refuses to do without
        assert references is not None
        parts, text_parts = (linear(y)[:, None].split(text.shape[-1], dim=-1) for linear in (self.modulation, self.text_modulation))
        h = torch.cat([self.input(x.to(prepared.states.dtype)) + prepared.states, references], 1)
        for block in self.blocks:
            h, text = block(h, text, parts[:PARTS], text_parts, prepared)
        h = torch.cat([text, h], 1)
        for block in self.single_blocks:
            h = block(h, parts[PARTS : PARTS + SINGLE_PARTS], prepared)
        picture = h[:, text.shape[1] : text.shape[1] + x.shape[1]]
        return cast("Tensor", self.output(modulated(self.last_norm(picture), *parts[-2:])))


class Flux2(BlockSettings, family="network", name="flux2"):
    """FLUX.2's transformer over the tokens of a block, the states of a condition, and tokens of reference pictures.

    Attributes:
        layers: Double layers, with weights of their own for text and picture.
        single_layers: Single layers behind them, with the same weights for both.
    """

    layers: int = Field(default=2, ge=1)
    single_layers: int = Field(default=6, ge=0)
    ratio: float = Field(default=3.0, gt=0)
    positions: Literal["rotary"] = "rotary"

    @property
    def reads_states(self) -> str:
        """See :attr:`NetworkSettings.reads_states`."""
        return "it"

    @property
    def reads_references(self) -> bool:
        """See :attr:`NetworkSettings.reads_references`."""
        return True

    def network(self, sizes: DenoiserSizes) -> Flux2Denoiser:
        """See :meth:`NetworkSettings.build`."""
        self.check(sizes)
        if sizes.axes > AXES - 2:
            raise ValueError(f"network.flux2: tokens have at most two axes, rows and columns, and these have {sizes.axes}: take mmdit")
        return Flux2Denoiser(self, sizes)
