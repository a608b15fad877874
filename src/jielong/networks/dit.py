"""DiT: the denoiser of joint heads, a transformer over all noisy tokens of a block (arXiv 2212.09748).

The denoisers of :mod:`jielong.networks.denoiser` read one token each, so samples at different positions are independent given the hidden
vectors. This one models their joint distribution: latent diffusion's picture, a sentence's spectrogram, FlowAR's scale. Differences to the
paper: rotary positions, and each position's hidden vector is added to its token; their mean is added to the time embedding.

No attention is fused, so that ``torch.func.jvp`` is supported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from jielong.core.rng import Draws
from jielong.networks.denoiser import DenoiserSizes, JointDenoiser, LayerNorm, NetworkSettings, modulated
from jielong.networks.dropout import Dropout, current_streams
from jielong.networks.repeated import RepeatedBlock
from jielong.networks.rope import Rotary, Rotation


@dataclass(frozen=True)
class BlockCondition:
    """What all evaluations for a block share."""

    states: Tensor  # projected hidden vectors, (B, n, W)
    whole: Tensor  # their projected mean, (B, W)
    rotation: Rotation  # rotary embedding of the positions
    real: Tensor | None  # (B, n) bool, false at padding; None where all items are of one length
    streams: Draws | None = None  # random numbers of dropout, a stream for each block

    def repeat(self, count: int) -> BlockCondition:
        """The batch ``count`` times."""
        real = None if self.real is None else self.real.repeat(count, 1)
        streams = None if self.streams is None else self.streams.copies(count)
        return replace(self, states=self.states.repeat(count, 1, 1), whole=self.whole.repeat(count, 1), real=real, streams=streams)

    def rows(self, index: Tensor) -> BlockCondition:
        """Some items."""
        real = None if self.real is None else self.real[index]
        streams = None if self.streams is None else self.streams[index]
        return replace(self, states=self.states[index], whole=self.whole[index], real=real, streams=streams)


class _Block(RepeatedBlock):
    """Attention and a feed-forward part, each ``h + gate f(LN(h) (1 + scale) + shift)``."""

    def __init__(self, config: DiT) -> None:
        super().__init__()
        width, hidden = config.width, round(config.ratio * config.width)
        self.heads, self.kernel, self.dropout = config.heads, config.kernel, Dropout(config.dropout)
        self.norms = nn.ModuleList(LayerNorm(width, affine=False) for _ in range(2))
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(self.kernel * width, hidden), nn.Linear(hidden, width)

    def forward(self, h: Tensor, parts: tuple[Tensor, ...], prepared: BlockCondition) -> Tensor:
        """``(B, n, W)`` to the same; ``parts`` are six ``(B, 1, W)``."""
        rotation, real, streams = prepared.rotation, prepared.real, prepared.streams
        shift, scale, gate, shift2, scale2, gate2 = parts
        h = h + gate * self.dropout(self.project(self._attend(modulated(self.norms[0](h), shift, scale), rotation, real)), 0, streams)
        windows = self._windows(modulated(self.norms[1](h), shift2, scale2), real)
        return cast("Tensor", h + gate2 * self.dropout(self.down(F.gelu(self.up(windows), approximate="tanh")), 1, streams))

    def _attend(self, x: Tensor, rotation: Rotation, real: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, n, W / heads)
        scores = (rotation(q) @ rotation(k).mT) * q.shape[-1] ** -0.5
        with torch.autocast(scores.device.type, enabled=False):
            scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
            if real is not None:
                # An item that is all padding attends to all of it, so that its softmax is defined.
                visible = real | ~real.any(1, keepdim=True)
                scores = scores.masked_fill(~visible[:, None, None], -torch.inf)
            weights = scores.softmax(-1).to(v.dtype)
        return (weights @ v).transpose(1, 2).flatten(2)

    def _windows(self, x: Tensor, real: Tensor | None) -> Tensor:
        """Each position with its neighbours, zero-padded, ``(B, n, kernel W)``."""
        if self.kernel == 1:
            return x
        reach = self.kernel // 2
        padded = F.pad(x if real is None else x * real[..., None], (0, 0, reach, reach))
        return torch.cat([padded[:, index : index + x.shape[1]] for index in range(self.kernel)], dim=-1)


class DiTDenoiser(JointDenoiser[BlockCondition]):
    """Noisy tokens of a block ``(B, n, C)``, times of each block, and hidden vectors ``(B, n, D)`` to predictions ``(B, n, outputs)``."""

    def __init__(self, config: DiT, sizes: DenoiserSizes) -> None:
        width = config.width
        super().__init__(width, sizes.hidden, sizes.times)
        self.input, self.of_whole = nn.Linear(sizes.inputs, width), nn.Linear(sizes.hidden, width)
        self.rotary = Rotary(width // config.heads, sizes.axes)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.modulation = nn.Linear(width, (6 * config.layers + 2) * width)
        self.last_norm = LayerNorm(width, affine=False)
        self.output = nn.Linear(width, sizes.outputs)
        self._initialise(self.modulation, self.output)

    def prepare(self, hidden: Tensor, coords: Tensor, mask: Tensor | None = None) -> BlockCondition:
        """See :meth:`JointDenoiser.prepare`."""
        count = hidden.shape[1] if mask is None else mask.sum(1, keepdim=True).clamp(min=1)
        mean = (hidden if mask is None else hidden * mask[..., None]).sum(1) / count
        states, whole = self.of_hidden(hidden), self.of_whole(mean)
        return BlockCondition(states, whole, self.rotary(coords, hidden.device, states.dtype), mask, current_streams(len(hidden)))

    def predict(self, x: Tensor, times: Tensor | None, prepared: BlockCondition) -> Tensor:
        """See :meth:`JointDenoiser.predict`."""
        modulation = self.modulation(F.silu(self._y(times, prepared.whole)))[:, None]  # (B, 1, ...): shared by the positions
        parts = modulation.chunk(6 * len(self.blocks) + 2, dim=-1)
        h = self.input(x.to(prepared.states.dtype)) + prepared.states
        for index, block in enumerate(self.blocks):
            h = block(h, parts[6 * index : 6 * index + 6], prepared)
        return cast("Tensor", self.output(modulated(self.last_norm(h), *parts[-2:])))


class DiT(NetworkSettings, family="network", name="dit"):
    """A transformer over all tokens of a block, which are sampled jointly; for the orders at_once and next_scale.

    Take ``diffusion_batch_mul: 1`` with it, as every copy costs a pass over the whole block.

    Attributes:
        layers: Blocks of attention and feed-forward part.
        width: Channels ``W`` of a position.
        heads: Attention heads of a layer.
        ratio: Channels inside the feed-forward part over ``W``.
        kernel: Positions of the convolution that is the first map of the feed-forward part (FastSpeech, arXiv 1905.09263); for tokens along
            one axis.
        dropout: Probability of dropping a channel of a branch.
    """

    layers: int = Field(default=6, ge=1)
    width: int = Field(default=256, ge=2)
    heads: int = Field(default=4, ge=1)
    ratio: float = Field(default=4.0, gt=0)
    kernel: int = Field(default=1, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> DiT:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must be an even multiple of heads {self.heads}, so that each head has an even width")
        if self.kernel % 2 == 0:
            raise ValueError(f"a position stands in the middle of its neighbours: kernel must be odd, not {self.kernel}")
        return self

    def network(self, sizes: DenoiserSizes) -> DiTDenoiser:
        """See :meth:`NetworkSettings.build`."""
        if self.kernel > 1 and sizes.axes > 1:
            raise ValueError(f"network.dit: a kernel of {self.kernel} is of neighbours along one axis, and these tokens have {sizes.axes}")
        return DiTDenoiser(self, sizes)
