"""The large network inside a joint head: a transformer over all noisy tokens of a block (DiT, arXiv 2212.09748).

The small networks of :mod:`jielong.networks.denoiser` see one token each, so what they draw at two places is independent given the hidden
vectors. This one sees the whole block, and its draws have whatever correlations the data have: latent diffusion's picture, a sentence's
spectrogram, FlowAR's scale. Differences to the paper: rotary instead of fixed positions, and what a token is about is added to it, since
every position has a hidden vector of its own. Their mean joins the time in the adaptive norms.

No attention is fused, so ``torch.func.jvp`` passes through.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from jielong.networks.denoiser import JointDenoiser, LayerNorm, NetworkSettings, modulated
from jielong.networks.rope import Rotary, Rotation


@dataclass(frozen=True)
class Scene:
    """What all evaluations of a draw, or all copies of a loss, have in common.

    Attributes:
        states: What each position is about, ``(B, n, W)``.
        whole: What the block is about, ``(B, W)``.
        rotation: Of the positions.
        real: ``(B, n)`` bool, false behind an item's end; ``None`` where all items are of one length.
    """

    states: Tensor
    whole: Tensor
    rotation: Rotation
    real: Tensor | None

    def repeat(self, count: int) -> Scene:
        """All items so many times, one after the other."""
        real = None if self.real is None else self.real.repeat(count, 1)
        return replace(self, states=self.states.repeat(count, 1, 1), whole=self.whole.repeat(count, 1), real=real)

    def rows(self, index: Tensor) -> Scene:
        """Some items."""
        real = None if self.real is None else self.real[index]
        return replace(self, states=self.states[index], whole=self.whole[index], real=real)


class _Block(nn.Module):
    """Attention and a feed-forward part, each ``h + gate f(LN(h) (1 + scale) + shift)``.

    Args:
        width: Channels ``W``.
        heads: Attention heads.
        hidden: Channels inside the feed-forward part.
        kernel: Neighbouring positions that its first map reads.
        dropout: Probability of dropping a channel of a branch.
    """

    def __init__(self, width: int, heads: int, hidden: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.kernel, self.dropout = heads, kernel, nn.Dropout(dropout)
        self.norms = nn.ModuleList(LayerNorm(width, affine=False) for _ in range(2))
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(kernel * width, hidden), nn.Linear(hidden, width)

    def forward(self, h: Tensor, parts: tuple[Tensor, ...], rotation: Rotation, real: Tensor | None) -> Tensor:
        """``(B, n, W)`` to the same; ``parts`` are six ``(B, 1, W)``."""
        shift, scale, gate, shift2, scale2, gate2 = parts
        h = h + gate * self.dropout(self.project(self._attend(modulated(self.norms[0](h), shift, scale), rotation, real)))
        inside = self._beside(modulated(self.norms[1](h), shift2, scale2), real)
        made: Tensor = h + gate2 * self.dropout(self.down(F.gelu(self.up(inside), approximate="tanh")))
        return made

    def _attend(self, x: Tensor, rotation: Rotation, real: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, n, W / heads)
        scores = (rotation(q) @ rotation(k).mT) * q.shape[-1] ** -0.5
        with torch.autocast(scores.device.type, enabled=False):
            scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
            if real is not None:
                # An item without a single real position sees all of them, so that its softmax has something to stand on.
                seen = real | ~real.any(1, keepdim=True)
                scores = scores.masked_fill(~seen[:, None, None], -torch.inf)
            weights = scores.softmax(-1).to(v.dtype)
        return (weights @ v).transpose(1, 2).flatten(2)

    def _beside(self, x: Tensor, real: Tensor | None) -> Tensor:
        """Each position with its neighbours, ``(B, n, kernel W)``, and zeros where there are none."""
        if self.kernel == 1:
            return x
        reach = self.kernel // 2
        padded = F.pad(x if real is None else x * real[..., None], (0, 0, reach, reach))
        return torch.cat([padded[:, index : index + x.shape[1]] for index in range(self.kernel)], dim=-1)


class DiTDenoiser(JointDenoiser[Scene]):
    """Noisy tokens of a block ``(B, n, C)``, times of each block, and hidden vectors ``(B, n, D)`` to predictions ``(B, n, outputs)``.

    Args:
        inputs: Values ``C`` of a token as it enters.
        outputs: Values of its prediction.
        hidden: Width ``D`` of the hidden vectors.
        times: Scalars a block.
        axes: Coordinates of a position.
        width: Channels ``W`` inside.
        layers: Blocks.
        heads: Attention heads.
        ratio: Channels inside the feed-forward part, over ``W``.
        kernel: Neighbouring positions that the first map of the feed-forward part reads.
        dropout: Probability of dropping a channel of a branch.
    """

    def __init__(
        self,
        *,
        inputs: int,
        outputs: int,
        hidden: int,
        times: int,
        axes: int,
        width: int,
        layers: int,
        heads: int,
        ratio: float = 4.0,
        kernel: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(width, hidden, times)
        self.input, self.of_whole = nn.Linear(inputs, width), nn.Linear(hidden, width)
        self.rotary = Rotary(width // heads, axes)
        self.blocks = nn.ModuleList(_Block(width, heads, round(ratio * width), kernel, dropout) for _ in range(layers))
        self.modulation = nn.Linear(width, (6 * layers + 2) * width)
        self.last_norm = LayerNorm(width, affine=False)
        self.output = nn.Linear(width, outputs)
        self._initialise(self.modulation, self.output)

    def prepare(self, hidden: Tensor, coords: Tensor, mask: Tensor | None = None) -> Scene:
        """See :meth:`JointDenoiser.prepare`."""
        count = hidden.shape[1] if mask is None else mask.sum(1, keepdim=True).clamp(min=1)
        mean = (hidden if mask is None else hidden * mask[..., None]).sum(1) / count
        states, whole = self.of_hidden(hidden), self.of_whole(mean)
        return Scene(states, whole, self.rotary(coords, hidden.device, states.dtype), mask)

    def predict(self, x: Tensor, times: Tensor | None, prepared: Scene) -> Tensor:
        """See :meth:`JointDenoiser.predict`."""
        modulation = self.modulation(F.silu(self._y(times, prepared.whole)))[:, None]  # (B, 1, ...): positions share it
        parts = modulation.chunk(6 * len(self.blocks) + 2, dim=-1)
        h = self.input(x.to(prepared.states.dtype)) + prepared.states
        for index, block in enumerate(self.blocks):
            h = block(h, parts[6 * index : 6 * index + 6], prepared.rotation, prepared.real)
        return cast("Tensor", self.output(modulated(self.last_norm(h), *parts[-2:])))


class DiT(NetworkSettings, family="network", name="dit"):
    """A transformer over all tokens of a block, which are drawn jointly: the head's network becomes the largest part of the generator.

    For the orders at_once and next_scale; ``diffusion_batch_mul: 1`` goes with it, as every copy costs a pass over the whole block.

    Attributes:
        layers: Blocks of attention and feed-forward part.
        width: Channels.
        heads: Attention heads.
        ratio: Channels inside the feed-forward part, over the width.
        kernel: Neighbouring positions that the first map of the feed-forward part reads, as in the transformers of speech (FastSpeech,
            arXiv 1905.09263); for tokens along one axis.
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

    def build(self, *, inputs: int, outputs: int, hidden: int, times: int = 1, axes: int = 1) -> DiTDenoiser:
        """The network, see :meth:`NetworkSettings.build`.

        Raises:
            ValueError: if neighbours are asked for on a grid of several axes.
        """
        if self.kernel > 1 and axes > 1:
            raise ValueError(f"network.dit: a kernel of {self.kernel} is of neighbours along one axis, and these tokens have {axes}")
        return DiTDenoiser(inputs=inputs, outputs=outputs, hidden=hidden, times=times, axes=axes, **dict(self))
