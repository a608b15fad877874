"""A convolutional network with skip connections over a grid of tokens (U-Net; DDPM, arXiv 2006.11239, appendix B).

Residual blocks of two 3x3 convolutions, to whose middle the embedding of times is added, and self-attention at the coarse stages; every
stage halves rows and columns, rounded up, so that any grid can be drawn. Hidden vectors are added to the tokens, and their mean to the
embedding of times. With ``condition: cross`` the keys and values of a condition's states stand beside those of the positions in every
self-attention (Imagen, arXiv 2205.11487, appendix B.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from jielong.networks.conditioning import Conditioning
from jielong.networks.denoiser import DenoiserSizes, JointDenoiser, NetworkSettings
from jielong.networks.dropout import Dropout
from jielong.networks.joint import KeysValues, attend, merge_heads, split_heads
from jielong.networks.repeated import RepeatedBlock

EPSILON = 1e-5
"""Of the group norms, as published."""


@dataclass(frozen=True)
class GridCondition:
    """What all evaluations for a block share."""

    grid: tuple[int, int]  # rows and columns
    positions: Tensor  # projected hidden vectors, (B, W, rows, columns)
    whole: Tensor  # their projected mean, (B, 4 W)
    texts: tuple[KeysValues | None, ...] = ()  # of the condition's states, for each residual block that attends
    seen: Tensor | None = None  # (B, L) bool, false at the states' padding; None where there is none

    def repeat(self, count: int) -> GridCondition:
        """The batch ``count`` times."""
        return self._each(lambda x: x.repeat(count, *[1] * (x.ndim - 1)))

    def rows(self, index: Tensor) -> GridCondition:
        """Some items."""
        return self._each(lambda x: x[index])

    def _each(self, change: Callable[[Tensor], Tensor]) -> GridCondition:
        texts = tuple(None if text is None else (change(text[0]), change(text[1])) for text in self.texts)
        return GridCondition(self.grid, change(self.positions), change(self.whole), texts, None if self.seen is None else change(self.seen))


class _Residual(RepeatedBlock):
    """``skip(x) + conv(dropout(silu(norm(conv(silu(norm(x))) + W silu(y)))))``, then attention over all positions where there is any."""

    def __init__(self, config: UNet, inputs: int, outputs: int, attention: bool, states: int | None = None) -> None:
        super().__init__()
        self.norm1, self.conv1 = config.norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.of_y = nn.Linear(4 * config.channels[0], outputs)
        self.norm2, self.conv2 = config.norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.dropout = Dropout(config.dropout)
        self.skip: nn.Module = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.attention = _Attention(config, outputs, states) if attention else None

    def called_alone(self) -> list[nn.Module]:
        """What is computed of the condition once for all times."""
        return [] if self.attention is None or self.attention.text is None else [self.attention.text]

    def forward(self, x: Tensor, y: Tensor, text: KeysValues | None = None, seen: Tensor | None = None) -> Tensor:
        """``(B, inputs, H, W)`` and ``silu(y)`` ``(B, 4 W)`` to ``(B, outputs, H, W)``; ``text``: see :meth:`_Attention.forward`."""
        h = self.conv1(F.silu(self.norm1(x))) + self.of_y(y)[:, :, None, None]
        out: Tensor = self.skip(x) + self.conv2(self.dropout(F.silu(self.norm2(h))))
        return out if self.attention is None else self.attention(out, text, seen)


class _Attention(nn.Module):
    """Attention over all positions of a feature map, and a condition's states of ``states`` channels, added to it."""

    def __init__(self, config: UNet, channels: int, states: int | None) -> None:
        super().__init__()
        self.heads, self.norm = channels // config.head_width, config.norm(channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.text = None if states is None else nn.Sequential(nn.LayerNorm(states), nn.Linear(states, 2 * channels))

    def keys_values(self, states: Tensor) -> KeysValues | None:
        """Keys and values of states ``(B, L, W')``."""
        if self.text is None:
            return None
        keys, values = split_heads(self.text(states), 2, self.heads)
        return keys, values

    def forward(self, x: Tensor, text: KeysValues | None = None, seen: Tensor | None = None) -> Tensor:
        """``(B, C, H, W)`` to the same; ``text`` and ``seen`` ``(B, L)`` are the condition's."""
        q, k, v = split_heads(self.qkv(self.norm(x).flatten(2).mT), 3, self.heads)
        if text is not None:
            seen = None if seen is None else F.pad(seen, (k.shape[2], 0), value=True)
            k, v = torch.cat([k, text[0]], 2), torch.cat([v, text[1]], 2)
        return x + self.out(merge_heads(attend(q, k, v, seen))).mT.contiguous().unflatten(2, x.shape[2:])


class UNetDenoiser(JointDenoiser[GridCondition]):
    """Noisy tokens of a grid ``(B, rows columns, C)``, times of each, and hidden vectors to predictions ``(B, rows columns, outputs)``."""

    def __init__(self, config: UNet, sizes: DenoiserSizes) -> None:
        widths, blocks, last = config.channels, config.blocks, len(config.channels) - 1
        super().__init__(4 * widths[0], sizes.hidden, sizes.times)
        self.reads_condition = config.condition == "cross"
        states = sizes.condition if self.reads_condition else None
        self.of_positions = nn.Linear(sizes.hidden, widths[0])
        self.input = nn.Conv2d(sizes.inputs, widths[0], 3, padding=1)
        self.down, self.up, kept, width = nn.ModuleList(), nn.ModuleList(), [widths[0]], widths[0]
        for stage, outputs in enumerate(widths):
            attention = stage > last - config.attention
            for _ in range(blocks):
                self.down.append(_Residual(config, width, outputs, attention, states))
                kept.append(width := outputs)
            if stage < last:
                kept.append(width)
        self.shrink = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=2, padding=1) for channels in widths[:-1])
        self.middle = nn.ModuleList([_Residual(config, width, width, True, states), _Residual(config, width, width, False)])
        for stage in reversed(range(len(widths))):
            for _ in range(blocks + 1):
                self.up.append(_Residual(config, width + kept.pop(), widths[stage], stage > last - config.attention, states))
                width = widths[stage]
        self.grow = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for channels in widths[:0:-1])
        self.last_norm, self.output = config.norm(width), nn.Conv2d(width, sizes.outputs, 3, padding=1)
        self.blocks = blocks
        self._initialise()
        for parameter in self.output.parameters():
            nn.init.zeros_(parameter)

    def prepare(self, hidden: Tensor, coords: Tensor, mask: Tensor | None = None, condition: Conditioning | None = None) -> GridCondition:
        """See :meth:`JointDenoiser.prepare`. Raises ``ValueError`` unless the positions are a whole grid, row by row."""
        rows, columns = (int(extent) for extent in coords.amax(0) + 1)
        if mask is not None or not torch.equal(coords, torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).to(coords)):
            raise ValueError("a unet draws whole grids, row by row: take order: at_once over pictures of one size, or the network dit")
        positions = self.of_positions(hidden).mT.contiguous().unflatten(2, (rows, columns))
        prepared = GridCondition((rows, columns), positions, self.of_hidden(hidden.mean(1)))
        if not self.reads_condition:
            return prepared
        if condition is None:
            raise ValueError("the UNetDenoiser reads the states of a condition: give HeadContext(condition=...)")
        attentions = [block.attention for block in self._residuals()]
        texts = tuple(None if attention is None else attention.keys_values(condition.states) for attention in attentions)
        return replace(prepared, texts=texts, seen=condition.padding_mask)

    def _residuals(self) -> list[_Residual]:
        """All residual blocks, as they are evaluated."""
        return [block for part in (self.down, self.middle, self.up) for block in part if isinstance(block, _Residual)]

    def predict(self, x: Tensor, times: Tensor | None, prepared: GridCondition) -> Tensor:
        """See :meth:`JointDenoiser.predict`."""
        y, kept = F.silu(self._y(times, prepared.whole)), list[Tensor]()
        texts = iter(prepared.texts or [None] * len(self._residuals()))
        h = self.input(x.to(prepared.positions.dtype).mT.contiguous().unflatten(2, prepared.grid)) + prepared.positions
        kept.append(h)
        for index, block in enumerate(self.down):
            if index and index % self.blocks == 0:
                h = self.shrink[index // self.blocks - 1](h)
                kept.append(h)
            h = block(h, y, next(texts), prepared.seen)
            kept.append(h)
        for block in self.middle:
            h = block(h, y, next(texts), prepared.seen)
        for index, block in enumerate(self.up):
            if index and index % (self.blocks + 1) == 0:
                h = self.grow[index // (self.blocks + 1) - 1](F.interpolate(h, size=kept[-1].shape[2:], mode="nearest"))
            h = block(torch.cat([h, kept.pop()], 1), y, next(texts), prepared.seen)
        out: Tensor = self.output(F.silu(self.last_norm(h)))
        return out.flatten(2).mT


class UNet(NetworkSettings, family="network", name="unet"):
    """A convolutional network over all tokens of a grid along two axes, which are sampled jointly; for the order at_once.

    Take ``diffusion_batch_mul: 1`` with it, as every copy costs a pass over the whole grid.

    Attributes:
        channels: Width of each stage, finest first; every stage after the first has half the rows and columns.
        blocks: Residual blocks of a stage on the way down; one more on the way up.
        attention: How many of the coarsest stages attend to all their positions, beside the middle.
        head_width: Channels of an attention head.
        groups: Of the group norms.
        dropout: Probability of dropping a channel inside a residual block.
        condition: How a condition is read: ``pooled`` is one vector, which the backbone adds to all positions; with ``cross`` every
            attention also reads the condition's states.
    """

    channels: tuple[int, ...] = Field(default=(64, 128, 256), min_length=1)
    blocks: int = Field(default=2, ge=1)
    attention: int = Field(default=1, ge=0)
    head_width: int = Field(default=64, ge=1)
    groups: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    condition: Literal["pooled", "cross"] = "pooled"

    def norm(self, channels: int) -> nn.GroupNorm:
        """The norm of this number of channels."""
        return nn.GroupNorm(self.groups, channels, EPSILON)

    @model_validator(mode="after")
    def _divides(self) -> UNet:
        attended = self.channels[-max(self.attention, 1) :]
        for what, size, widths in (("groups", self.groups, self.channels), ("head_width", self.head_width, attended)):
            if wrong := [width for width in widths if width % size]:
                raise ValueError(f"{what} {size} must divide the channels of each stage, and {wrong[0]} is no multiple of it")
        return self

    @property
    def reads_states(self) -> str:
        """See :attr:`NetworkSettings.reads_states`."""
        return "condition: cross" if self.condition == "cross" else ""

    def network(self, sizes: DenoiserSizes) -> UNetDenoiser:
        """See :meth:`NetworkSettings.build`."""
        if sizes.axes != 2:
            raise ValueError(f"network.unet: tokens lie on a grid of rows and columns, and these have {sizes.axes} axes: take dit")
        self.check_condition(sizes)
        return UNetDenoiser(self, sizes)
