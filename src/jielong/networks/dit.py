"""DiT: the denoiser of joint heads, a transformer over all noisy tokens of a block (arXiv 2212.09748).

The denoisers of :mod:`jielong.networks.denoiser` read one token each, so samples at different positions are independent given the hidden
vectors. This one models their joint distribution: latent diffusion's picture, a sentence's spectrogram, FlowAR's scale. Differences to the
paper: rotary positions, and each position's hidden vector is added to its token; their mean is added to the time embedding. With
``modulation: position`` every position is modulated by its own hidden vector instead (FlowAR's spatial adaLN, arXiv 2412.15205).

With ``condition: cross`` each layer also attends to the states of the condition, between self-attention and feed-forward part, without a
norm and a gate of its own (PixArt-alpha, arXiv 2310.00426).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from jielong.networks.conditioning import Conditioning
from jielong.networks.denoiser import DenoiserSizes, LayerNorm, modulated
from jielong.networks.dropout import Dropout
from jielong.networks.factorized import Along, along_of
from jielong.networks.joint import (
    BlockCondition,
    BlockDenoiser,
    ClipBlockSettings,
    KeysValues,
    attend,
    attend_along,
    attend_exactly,
    merge_heads,
    split_heads,
)
from jielong.networks.repeated import RepeatedBlock


class _Block(RepeatedBlock):
    """Attention and a feed-forward part, each ``h + gate f(LN(h) (1 + scale) + shift)``, and between them attention to a condition."""

    def __init__(self, config: DiT, condition: int | None, along: Along) -> None:
        super().__init__()
        width, self.along = config.width, along
        self.heads, self.kernel, self.dropout = config.heads, config.kernel, Dropout(config.dropout)
        self.norms = nn.ModuleList(LayerNorm(width, affine=False) for _ in range(2))
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(self.kernel * width, config.hidden), nn.Linear(config.hidden, width)
        self.cross = None if condition is None else _Cross(config, condition)

    def forward(self, h: Tensor, parts: tuple[Tensor, ...], prepared: BlockCondition, keys_values: KeysValues | None = None) -> Tensor:
        """``(B, n, W)`` to the same; ``parts`` are six ``(B, 1 or n, W)``; ``keys_values`` are those of the condition's states."""
        real, streams = prepared.real, prepared.streams
        shift, scale, gate, shift2, scale2, gate2 = parts
        h = h + gate * self.dropout(self.project(self._attend(modulated(self.norms[0](h), shift, scale), prepared)), 0, streams)
        if self.cross is not None and keys_values is not None:
            h = h + self.dropout(self.cross(h, keys_values, prepared.seen), 2, streams)
        windows = self._windows(modulated(self.norms[1](h), shift2, scale2), real)
        return cast("Tensor", h + gate2 * self.dropout(self.down(F.gelu(self.up(windows), approximate="tanh")), 1, streams))

    def called_alone(self) -> list[nn.Module]:
        """What is computed of the condition once for all times."""
        return [] if self.cross is None else [self.cross.kv]

    def _attend(self, x: Tensor, prepared: BlockCondition) -> Tensor:
        q, k, v = split_heads(self.qkv(x), 3, self.heads)
        if prepared.rotation is not None:
            q, k = prepared.rotation(q), prepared.rotation(k)
        # On the CPU in full precision the plain products, so that models draw what they drew before there was a choice.
        exact = x.device.type == "cpu" and v.dtype != torch.bfloat16
        if prepared.clip is not None:
            return merge_heads(attend_along(q, k, v, prepared.clip, self.along, exact=exact))
        return merge_heads((attend_exactly if exact else attend)(q, k, v, prepared.real))

    def _windows(self, x: Tensor, real: Tensor | None) -> Tensor:
        """Each position with its neighbours, zero-padded, ``(B, n, kernel W)``."""
        if self.kernel == 1:
            return x
        reach = self.kernel // 2
        padded = F.pad(x if real is None else x * real[..., None], (0, 0, reach, reach))
        return torch.cat([padded[:, index : index + x.shape[1]] for index in range(self.kernel)], dim=-1)


class _Cross(nn.Module):
    """Attention of the tokens to the states of a condition, of ``states`` channels."""

    def __init__(self, config: DiT, states: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.q, self.kv = nn.Linear(config.width, config.width), nn.Linear(states, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def keys_values(self, states: Tensor) -> KeysValues:
        """Keys and values of states ``(B, L, W')``."""
        keys, values = split_heads(self.kv(states), 2, self.heads)
        return keys, values

    def forward(self, h: Tensor, keys_values: KeysValues, seen: Tensor | None) -> Tensor:
        """``(B, n, W)`` to the same."""
        (q,) = split_heads(self.q(h), 1, self.heads)
        return cast("Tensor", self.out(merge_heads(attend(q, *keys_values, seen))))


class DiTDenoiser(BlockDenoiser):
    """Noisy tokens of a block ``(B, n, C)``, times of each block, and hidden vectors ``(B, n, D)`` to predictions ``(B, n, outputs)``."""

    def __init__(self, config: DiT, sizes: DenoiserSizes) -> None:
        super().__init__(config, sizes, by_position=config.modulation == "position")
        width, self.reads_condition = config.width, config.condition == "cross"
        condition = sizes.condition if self.reads_condition else None
        self.blocks = nn.ModuleList(_Block(config, condition, along_of(layer)) for layer in range(config.layers))
        self.modulation = nn.Linear(width, (6 * config.layers + 2) * width)
        # Behind the blocks: places of dropout are numbered in the order of modules, and their masks depend on the number.
        self.last_norm = LayerNorm(width, affine=False)
        self.output = nn.Linear(width, sizes.outputs)
        self._initialise(self.modulation, self.output, *(cross.out for cross in self._crosses()))

    def _crosses(self) -> list[_Cross]:
        return [module for module in self.blocks.modules() if isinstance(module, _Cross)]

    def with_condition(self, prepared: BlockCondition, condition: Conditioning, coords: Tensor) -> BlockCondition:
        """See :meth:`BlockDenoiser.with_condition`."""
        cross = tuple(cross.keys_values(condition.states) for cross in self._crosses())
        return replace(prepared, cross=cross, seen=condition.padding_mask)

    def predict(self, x: Tensor, times: Tensor | None, prepared: BlockCondition) -> Tensor:
        """See :meth:`JointDenoiser.predict`."""
        y = F.silu(self._y(times, prepared.whole))  # (B, n, W) where each position has its own, and else (B, W)
        modulation = self.modulation(y if y.ndim == 3 else y[:, None])
        parts = modulation.chunk(6 * len(self.blocks) + 2, dim=-1)
        h = self.input(x.to(prepared.states.dtype)) + prepared.states
        for index, block in enumerate(self.blocks):
            h = block(h, parts[6 * index : 6 * index + 6], prepared, prepared.cross[index] if prepared.cross else None)
        return cast("Tensor", self.output(modulated(self.last_norm(h), *parts[-2:])))


class DiT(ClipBlockSettings, family="network", name="dit"):
    """A transformer over all tokens of a block, which are sampled jointly; for the orders at_once and next_scale.

    Attributes:
        kernel: Positions of the convolution that is the first map of the feed-forward part (FastSpeech, arXiv 1905.09263); for tokens along
            one axis.
        dropout: Probability of dropping a channel of a branch.
        condition: How a condition is read: ``pooled`` is one vector, which the backbone adds to all positions; with ``cross`` each layer
            also attends to the condition's states, so that words keep to what they belong to.
        modulation: What scales, shifts and gates a position: times and the mean hidden vector of the ``block``, or times and the hidden
            vector of the ``position`` (which costs about half as much again).
    """

    kernel: int = Field(default=1, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    condition: Literal["pooled", "cross"] = "pooled"
    modulation: Literal["block", "position"] = "block"

    @model_validator(mode="after")
    def _fits(self) -> DiT:
        if self.kernel % 2 == 0:
            raise ValueError(f"a position stands in the middle of its neighbours: kernel must be odd, not {self.kernel}")
        if self.hidden_vectors == "mean" and self.modulation == "position":
            raise ValueError("modulation: position is by each hidden vector, and hidden_vectors: mean leaves their mean: choose one")
        return self

    @property
    def reads_states(self) -> str:
        """See :attr:`NetworkSettings.reads_states`."""
        return "condition: cross" if self.condition == "cross" else ""

    def network(self, sizes: DenoiserSizes) -> DiTDenoiser:
        """See :meth:`NetworkSettings.build`."""
        self.check(sizes)
        if self.kernel > 1 and sizes.axes > 1:
            raise ValueError(f"network.dit: a kernel of {self.kernel} is of neighbours along one axis, and these tokens have {sizes.axes}")
        return DiTDenoiser(self, sizes)
