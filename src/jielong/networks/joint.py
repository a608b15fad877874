"""What transformers of joint heads share: the prepared hidden vectors of a block, positions, and attention.

Times and the mean of a block's hidden vectors become one vector ``y``, which modulates every branch of every layer (adaLN-zero,
arXiv 2212.09748): ``h <- h + gate f(LN(h) (1 + scale) + shift)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from jielong.core.rng import Draws
from jielong.networks.attention import additive, attention
from jielong.networks.autograd import transformed
from jielong.networks.conditioning import Conditioning
from jielong.networks.denoiser import DenoiserSizes, JointDenoiser, NetworkSettings
from jielong.networks.dropout import current_streams
from jielong.networks.factorized import Along, Clip, check_axes, clip_of
from jielong.networks.rope import Rotary, Rotation

Positions = Literal["rotary", "sincos", "table"]
KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class BlockCondition:
    """What all evaluations for a block share."""

    states: Tensor  # what is added to the tokens: projected hidden vectors, (B, n, W), or positions alone where they modulate
    whole: Tensor  # what modulates beside times: their projected mean, (B, W), or each of them, (B, n, W)
    rotation: Rotation | None  # rotary embedding of the positions
    real: Tensor | None  # (B, n) bool (of all that attend to each other), false at padding; None where all items are of one length
    streams: Draws | None = None  # random numbers of dropout, a stream for each block
    text: Tensor | None = None  # projected states of the condition, (B, L, W), where the network keeps a stream of them
    cross: tuple[KeysValues, ...] = ()  # keys and values of the condition's states in each layer, where it attends to them
    references: Tensor | None = None  # projected tokens of reference pictures, (B, R, W), where the network reads them
    seen: Tensor | None = None  # (B, L) bool, false at padding of the condition's states; None without padding
    clip: Clip | None = None  # the frames of the positions, where layers attend within them and along time in turn

    def repeat(self, count: int) -> BlockCondition:
        """The batch ``count`` times."""
        streams = None if self.streams is None else self.streams.copies(count)
        return self._each(lambda x: x.repeat(count, *(1,) * (x.ndim - 1)), streams)

    def rows(self, index: Tensor) -> BlockCondition:
        """Some items."""
        return self._each(lambda x: x[index], None if self.streams is None else self.streams[index])

    def _each(self, change: Callable[[Tensor], Tensor], streams: Draws | None) -> BlockCondition:
        given = (self.real, self.text, self.references, self.seen)
        real, text, references, seen = (None if x is None else change(x) for x in given)
        cross = tuple((change(keys), change(values)) for keys, values in self.cross)
        states, whole = change(self.states), change(self.whole)
        return BlockCondition(states, whole, self.rotation, real, streams, text, cross, references, seen, self.clip)


def attend(q: Tensor, k: Tensor, v: Tensor, real: Tensor | None = None) -> Tensor:
    """Attention of all to all in the fastest kernel that has the derivatives that are asked for: ``(B, heads, n, D)`` to the same.

    ``real``: ``(B, length)`` bool, false at keys that nothing attends to; an item that is all padding attends to all of it, so that its
    softmax is defined.
    """
    if transformed():
        return attend_exactly(q, k, v, real)
    return attention(q, k, v, None if real is None else additive(_visible(real), q.dtype))


def attend_exactly(q: Tensor, k: Tensor, v: Tensor, real: Tensor | None = None) -> Tensor:
    """:func:`attend` as products and a softmax of their own, which ``torch.func.jvp`` supports."""
    scores = (q @ k.mT) * q.shape[-1] ** -0.5
    with torch.autocast(scores.device.type, enabled=False):
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if real is not None:
            scores = scores.masked_fill(~_visible(real), -torch.inf)
        weights = scores.softmax(-1).to(v.dtype)
    return weights @ v


def attend_along(q: Tensor, k: Tensor, v: Tensor, clip: Clip, along: Along, real: Tensor | None = None, exact: bool = False) -> Tensor:
    """:func:`attend` within the frames of a clip or along its time, ``(B, heads, L + n, D)`` to the same.

    The first ``L`` positions, a text, attend to everything, and everything to them; ``real`` is of all positions, true behind the text.
    """
    compute, length = attend_exactly if exact else attend, k.shape[2] - clip.frames * clip.places
    if not length:
        return clip.joined(compute(clip.split(q, along), clip.split(k, along), clip.split(v, along)), along)
    count, asked = clip.count(along), q.shape[2] - k.shape[2] + length  # a text that ends in this layer asks nothing
    keys, values = (torch.cat([x[:, :, :length].repeat_interleave(count, 0), clip.split(x[:, :, length:], along)], 2) for x in (k, v))
    seen = None if real is None else F.pad(real[:, :length].repeat_interleave(count, 0), (0, keys.shape[2] - length), value=True)
    out = clip.joined(compute(clip.split(q[:, :, asked:], along), keys, values, seen), along)
    return torch.cat([compute(q[:, :, :asked], k, v, real), out], 2) if asked else out


def _visible(real: Tensor) -> Tensor:
    return (real | ~real.any(1, keepdim=True))[:, None, None]


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """``(B, n, parts heads D)`` to ``parts`` tensors ``(B, heads, n, D)``."""
    return x.unflatten(-1, (parts, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def merge_heads(x: Tensor) -> Tensor:
    """``(B, heads, n, D)`` to ``(B, n, heads D)``."""
    return x.transpose(1, 2).flatten(2)


class PositionTable(nn.Module):
    """A stored table of ``side x side`` positions, whose centre is what a smaller grid reads, as SD3's (arXiv 2403.03206).

    Until a published one is loaded it holds :func:`sincos`. ``width``: channels of a position.
    """

    table: Tensor

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        places = torch.arange(side)
        self.register_buffer("table", sincos(torch.cartesian_prod(places, places), width).unflatten(0, (side, side)))

    def forward(self, coords: Tensor) -> Tensor:
        """Coordinates of all positions of a grid ``(n, 2)`` to ``(n, W)``. Raises ``ValueError`` for a larger grid than the table."""
        side, extents = len(self.table), [int(end) + 1 for end in coords.amax(0)]
        if max(extents) > side:
            raise ValueError(f"a grid of {extents[0]} x {extents[1]} positions is larger than the network's table of {side} x {side}")
        rows, columns = ((coords[:, axis] + (side - extent) // 2).to(self.table.device) for axis, extent in enumerate(extents))
        return self.table[rows, columns]


def sincos(coords: Tensor, width: int, base: float = 10_000.0) -> Tensor:
    """Fixed sine and cosine positions, ``(n, axes)`` to ``(n, width)`` float32; the last axis comes first, as in DiT's table.

    Of each axis' ``d = width / axes`` channels the first half are ``sin(c f_i)`` and the second ``cos(c f_i)``, ``f_i = base^(-2 i / d)``.
    """
    half = width // coords.shape[1] // 2
    frequency = base ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = coords.double().flip(1)[..., None] * frequency  # (n, axes, half)
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(1).float()


class BlockSettings(NetworkSettings):
    """Settings that transformers over all tokens of a block share.

    Take ``diffusion_batch_mul: 1`` with them, as every copy costs a pass over the whole block.

    Attributes:
        layers: Blocks of attention and feed-forward part.
        width: Channels ``W`` of a position.
        heads: Attention heads of a layer.
        ratio: Channels inside the feed-forward part over ``W``.
        positions: ``rotary`` turns queries and keys by their coordinates; ``sincos`` adds fixed sines and cosines of these to the tokens;
            ``table`` adds those of a stored table, of whose centre a smaller grid is (SD3, arXiv 2403.03206).
        table: Rows and columns of that table.
        hidden_vectors: ``each`` adds every position's hidden vector to its token, and their mean to the embedding of times, both projected;
            ``mean`` adds their mean alone and as it is, of ``width`` channels, as DiT and SD3 do with the vector of a class or a text.
        freq_shift: Shift of the frequencies of times, as in ``diffusers``: ``f_i = 10000^(-i / (128 - freq_shift))``; DiT's published code
            has 0 and its network in ``diffusers`` 1.
    """

    layers: int = Field(default=6, ge=1)
    width: int = Field(default=256, ge=2)
    heads: int = Field(default=4, ge=1)
    ratio: float = Field(default=4.0, gt=0)
    positions: Positions = "rotary"
    table: int | None = Field(default=None, ge=1)
    hidden_vectors: Literal["each", "mean"] = "each"
    freq_shift: Literal[0, 1] = 0

    @property
    def in_turn(self) -> bool:
        """Whether layers attend within a frame and along time in turn."""
        return False

    @property
    def hidden(self) -> int:
        """Channels inside the feed-forward part."""
        return round(self.ratio * self.width)

    @model_validator(mode="after")
    def _divides(self) -> BlockSettings:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must be an even multiple of heads {self.heads}, so that each head has an even width")
        if (self.table is None) == (self.positions == "table"):
            raise ValueError("table is the number of rows and columns for positions: table, such as 96: give both or neither")
        return self

    def check(self, sizes: DenoiserSizes) -> None:
        """Raise ``ValueError`` if the axes do not suit the positions, or it needs a condition and there is none."""
        if self.positions == "sincos" and self.width % (2 * sizes.axes):
            raise ValueError(f"network.{self.name}: positions: sincos of {sizes.axes} axes need a width that {2 * sizes.axes} divides")
        if self.positions == "table" and (sizes.axes != 2 or self.width % 4):
            raise ValueError(f"network.{self.name}: positions: table is of rows and columns, with a width that 4 divides: take sincos")
        if self.hidden_vectors == "mean" and sizes.hidden != self.width:
            raise ValueError(
                f"network.{self.name}: hidden_vectors: mean adds vectors of {sizes.hidden} channels to those of {self.width}: set the "
                f"backbone's width to {self.width}"
            )
        if self.in_turn:
            check_axes(sizes.axes, f"network.{self.name}.factorized")
        self.check_condition(sizes)


class ClipBlockSettings(BlockSettings):
    """Settings of those that may factorise attention over clips.

    Attributes:
        factorized: Whether layers attend within a frame and along time at one place, in turn, for tokens of clips; a text is read by all
            positions in every layer (:mod:`jielong.networks.factorized`).
    """

    factorized: bool = False

    @property
    def in_turn(self) -> bool:
        """See :attr:`BlockSettings.in_turn`."""
        return self.factorized


class BlockDenoiser(JointDenoiser[BlockCondition]):
    """Base of transformers over all tokens of a block: hidden vectors are added to the tokens, and their mean to the embedding of times.

    ``by_position``: instead each hidden vector is added to the embedding of times, for a modulation of its position alone (the spatial
    adaLN of FlowAR, arXiv 2412.15205), and none to the tokens.
    """

    def __init__(self, config: BlockSettings, sizes: DenoiserSizes, by_position: bool = False) -> None:
        mean_alone = config.hidden_vectors == "mean"
        super().__init__(config.width, sizes.hidden, sizes.times, config.freq_shift, projected=not mean_alone)
        self.by_position, self.mean_alone = by_position, mean_alone
        self.input, self.factorized = nn.Linear(sizes.inputs, config.width), config.in_turn
        self.of_whole = None if by_position or self.mean_alone else nn.Linear(sizes.hidden, config.width)
        self.table = None if config.table is None else PositionTable(config.table, config.width)
        self.rotary = Rotary(config.width // config.heads, sizes.axes) if config.positions == "rotary" else None
        self.relative = self.rotary is not None

    def prepare(self, hidden: Tensor, coords: Tensor, mask: Tensor | None = None, condition: Conditioning | None = None) -> BlockCondition:
        """See :meth:`JointDenoiser.prepare`."""
        states: Tensor = self.of_hidden(hidden)
        if self.by_position:
            states, whole = torch.zeros_like(states), states
        else:
            count = hidden.shape[1] if mask is None else mask.sum(1, keepdim=True).clamp(min=1)
            whole = (hidden if mask is None else hidden * mask[..., None]).sum(1) / count
            whole = whole if self.of_whole is None else self.of_whole(whole)
            states = torch.zeros_like(states) if self.mean_alone else states
        if self.table is not None:
            states = states + self.table(coords).to(states)
        elif self.rotary is None:
            states = states + sincos(coords, states.shape[-1]).to(states)
        rotation = None if self.rotary is None else self.rotary(self.places(coords), hidden.device, states.dtype)
        if self.factorized and mask is not None:
            raise ValueError("factorized attention is over whole frames, and some positions here are padding")
        clip = clip_of(coords) if self.factorized else None
        prepared = BlockCondition(states, whole, rotation, mask, current_streams(len(hidden)), clip=clip)
        if not self.reads_condition:
            return prepared
        if condition is None:
            raise ValueError(f"the {type(self).__name__} reads the states of a condition: give HeadContext(condition=...)")
        return self.with_condition(prepared, condition, coords)

    def places(self, coords: Tensor) -> Tensor:
        """What rotary positions turn by, of coordinates ``(n, axes)``."""
        return coords

    def with_condition(self, prepared: BlockCondition, condition: Conditioning, coords: Tensor) -> BlockCondition:
        """Add what the network reads of the condition's states ``(B, L, W')``."""
        return prepared
