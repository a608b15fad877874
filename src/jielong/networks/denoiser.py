"""Denoisers of single tokens: from a noisy token, times and a hidden vector to a prediction, inside diffusion and flow heads.

Both follow MAR's head (arXiv 2406.11838, section 3.2; adaLN-zero of DiT, arXiv 2212.09748): times and hidden vector become one vector

    y = TimeMLP(sinusoid(times)) + W z

from which linear maps compute shift, scale and gate of every residual block: ``h <- h + gate * f(LN(h) (1 + scale) + shift)``. These maps
and the last one are initialised to zero, so that an untrained network returns 0.

:meth:`Denoiser.prepare` computes ``W z`` once per token, for all times. No operation is in place and no attention is fused, so that
``torch.func.jvp`` is supported.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from jielong.config.registry import Part
from jielong.networks.conditioning import Conditioning
from jielong.networks.repeated import RepeatedBlock

SINUSOID = 256
"""Channels of a time's sinusoidal embedding."""
TIME_SCALE = 1000.0
"""Factor of times: the frequencies are those for 1000 steps of diffusion, and times here are in [0, 1]."""


def sinusoid(times: Tensor, size: int = SINUSOID, period: float = 10_000.0, freq_shift: int = 0) -> Tensor:
    """``[cos(1000 t f_i), sin(1000 t f_i)]``: times ``(...)`` to ``(..., size)``, in their dtype.

    ``f_i = period^(-i / (size / 2 - freq_shift))``: with a ``freq_shift`` of 1 the last frequency is ``1 / period``.
    """
    last = size // 2 - freq_shift
    frequencies = torch.exp(torch.arange(size // 2, device=times.device, dtype=times.dtype) * (-math.log(period) / last))
    angles = (TIME_SCALE * times)[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``x (1 + scale) + shift``."""
    return x * (1 + scale) + shift


class LayerNorm(nn.LayerNorm):
    """Layer norm in float32 (float64 for float64 inputs); the dtype stays."""

    def __init__(self, width: int, affine: bool) -> None:
        super().__init__(width, eps=1e-6, elementwise_affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)


@dataclass(frozen=True)
class DenoiserSizes:
    """What a denoiser reads and predicts."""

    inputs: int  # values C of a noisy token (or dimensions of the noise, where that is the input)
    outputs: int
    hidden: int  # width D of the hidden vectors
    times: int  # scalars T of a row: 1 for diffusion and flow matching, 2 for a jump between two times, 0 for none
    axes: int  # coordinates of a position, for networks of several positions
    condition: int | None = None  # width of the condition's states; None without a condition


class TimedNetwork(nn.Module):
    """Base of all denoisers: the vector ``y`` of times and hidden vector. ``times``: scalars ``T`` of a row.

    A row may be a block of several positions with a vector each, ``(M, n, W)``; the times of a row are then those of all of them.
    ``freq_shift``: of :func:`sinusoid`; ``projected``: whether hidden vectors are (``W z``), and not of ``width`` channels already.
    """

    def __init__(self, width: int, hidden: int, times: int, freq_shift: int = 0, projected: bool = True) -> None:
        super().__init__()
        self.times_in, self.freq_shift = times, freq_shift
        self.of_hidden: nn.Module = nn.Linear(hidden, width) if projected else nn.Identity()
        self.of_times = nn.Sequential(nn.Linear(times * SINUSOID, width), nn.SiLU(), nn.Linear(width, width)) if times else None

    def _y(self, times: Tensor | None, prepared: Tensor) -> Tensor:
        count = 0 if times is None else times.shape[-1]
        if count != self.times_in:
            raise ValueError(f"this network was made for {self.times_in} times a row, not {count}")
        if times is None or self.of_times is None:
            return prepared
        with torch.autocast(times.device.type, enabled=False):
            exact = times.to(torch.promote_types(times.dtype, torch.float32))
            embedding = sinusoid(exact, freq_shift=self.freq_shift).flatten(-2)
        projected: Tensor = self.of_times(embedding.to(prepared.dtype))
        return (projected if prepared.ndim == projected.ndim else projected[:, None]) + prepared

    def _initialise(self, *zero: nn.Linear) -> None:
        """Xavier-uniform matrices, as in the authors' code; those of the time embedding N(0, 0.02); those passed zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.of_times or ():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        for linear in zero:
            nn.init.zeros_(linear.weight)


class Denoiser(TimedNetwork, ABC):
    """A denoiser of one token per row."""

    def prepare(self, hidden: Tensor) -> Tensor:
        """``W z``: hidden ``(M, D)`` to ``(M, W)``, for :meth:`predict` at all times."""
        prepared: Tensor = self.of_hidden(hidden)
        return prepared

    def forward(self, x: Tensor, times: Tensor | None, hidden: Tensor) -> Tensor:
        """``predict(x, times, prepare(hidden))``: ``x (M, C)``, ``times (M, T)``, ``hidden (M, D)`` to ``(M, outputs)``."""
        return self.predict(x, times, self.prepare(hidden))

    @abstractmethod
    def predict(self, x: Tensor, times: Tensor | None, prepared: Tensor) -> Tensor:
        """The prediction. Returns ``(M, outputs)``. Raises ``ValueError`` if the number of times differs.

        Args:
            x: Noisy tokens ``(M, C)``.
            times: ``(M, T)``, or ``(1, T)`` when all rows share them, of the order of 1 (see :data:`TIME_SCALE`); ``None`` where the
                network reads no times.
            prepared: ``(M, W)`` from :meth:`prepare`.
        """


class Prepared(Protocol):
    """What a joint network computes from the hidden vectors of a batch of blocks, once for all times."""

    def repeat(self, count: int) -> Self:
        """The batch ``count`` times."""

    def rows(self, index: Tensor) -> Self:
        """Some blocks, in this order."""


P = TypeVar("P", bound=Prepared)


class JointDenoiser(TimedNetwork, ABC, Generic[P]):
    """A denoiser of all tokens of a block jointly. ``reads_condition``: whether it reads the states of the condition."""

    reads_condition: bool = False
    relative: bool = False  # whether it reads differences of coordinates alone

    @abstractmethod
    def prepare(self, hidden: Tensor, coords: Tensor, mask: Tensor | None = None, condition: Conditioning | None = None) -> P:
        """Prepare hidden vectors for :meth:`predict`.

        Args:
            hidden: ``(B, n, D)``.
            coords: ``(n, axes)`` coordinates of the positions, on the CPU.
            mask: ``(B, n)`` bool, false at padding; ``None`` where no position is padding.
            condition: The condition of the items; ignored unless :attr:`reads_condition`, and else its lack raises ``ValueError``.
        """

    @abstractmethod
    def predict(self, x: Tensor, times: Tensor | None, prepared: P) -> Tensor:
        """Predictions ``(B, n, outputs)``; padding is ignored in ``x`` and undefined in the output.

        Args:
            x: Noisy tokens ``(B, n, C)``.
            times: ``(B, T)``, or ``(1, T)`` when all blocks share them. ``None`` where the network reads no times.
        """


AnyDenoiser = Denoiser | JointDenoiser[Any]


class _MLPBlock(RepeatedBlock, nn.ModuleList):
    """``h + gate f(norm(h) (1 + scale) + shift)`` with the layers ``f``."""

    def forward(self, h: Tensor, norm: nn.Module, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        """``(..., W)`` to the same."""
        x = modulated(norm(h), shift, scale)
        for layer in self:
            x = layer(x)
        return h + gate * x


class MLPDenoiser(Denoiser):
    """MAR's head: residual MLPs ``Linear, SiLU, Linear``. ``config``: width and number of blocks."""

    def __init__(self, config: MLP, sizes: DenoiserSizes) -> None:
        width, layers = config.width, config.layers
        super().__init__(width, sizes.hidden, sizes.times)
        self.input = nn.Linear(sizes.inputs, width)
        self.norms = nn.ModuleList(LayerNorm(width, affine=True) for _ in range(layers))
        self.blocks = nn.ModuleList(_MLPBlock([nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)]) for _ in range(layers))
        self.modulation = nn.Linear(width, (3 * layers + 2) * width)  # of all blocks and the last norm, in one product
        self.last_norm = LayerNorm(width, affine=False)
        self.output = nn.Linear(width, sizes.outputs)
        self._initialise(self.modulation, self.output)

    def predict(self, x: Tensor, times: Tensor | None, prepared: Tensor) -> Tensor:
        """See :meth:`Denoiser.predict`."""
        parts = self.modulation(F.silu(self._y(times, prepared))).chunk(3 * len(self.blocks) + 2, dim=-1)
        h = self.input(x.to(prepared.dtype))
        for index, (norm, block) in enumerate(zip(self.norms, self.blocks, strict=True)):
            shift, scale, gate = parts[3 * index : 3 * index + 3]
            h = block(h, norm, shift, scale, gate)
        return self.output(modulated(self.last_norm(h), *parts[-2:]))


class AttentionDenoiser(Denoiser):
    """A small transformer inside one token: its values are split into groups, which attend to each other, in DiT's blocks.

    Attention is not fused, since ``torch.func.jvp`` does not support fused kernels; a token has few groups. Raises ``ValueError`` if the
    groups do not divide the values.
    """

    def __init__(self, config: Attention, sizes: DenoiserSizes) -> None:
        width, layers, groups, inputs, outputs = config.width, config.layers, config.groups, sizes.inputs, sizes.outputs
        super().__init__(width, sizes.hidden, sizes.times)
        if inputs % groups or outputs % groups:
            raise ValueError(f"tokens of {inputs} values, with {outputs} to predict, do not divide into {groups} groups")
        self.heads, self.groups = config.heads, groups
        # Predictions of several kinds (a mean and a variance for each value) are concatenated: all means first.
        self.kinds = outputs // inputs if outputs % inputs == 0 else 1
        self.input = nn.Linear(inputs // groups, width)
        self.places = nn.Parameter(torch.randn(groups, width) * 0.02)
        self.norms = nn.ModuleList(LayerNorm(width, affine=False) for _ in range(2 * layers + 1))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(layers))
        self.projections = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.blocks = nn.ModuleList(
            _MLPBlock([nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)]) for _ in range(layers)
        )
        self.modulation = nn.Linear(width, (6 * layers + 2) * width)
        self.output = nn.Linear(width, outputs // groups)
        self._initialise(self.modulation, self.output)

    def predict(self, x: Tensor, times: Tensor | None, prepared: Tensor) -> Tensor:
        """See :meth:`Denoiser.predict`."""
        modulation = self.modulation(F.silu(self._y(times, prepared)))[:, None]  # (M, 1, ...): shared by the groups
        parts = modulation.chunk(6 * len(self.blocks) + 2, dim=-1)
        h = self.input(x.to(prepared.dtype).unflatten(-1, (self.groups, -1))) + self.places  # (M, G, W)
        for index, (qkv, project, block) in enumerate(zip(self.qkv, self.projections, self.blocks, strict=True)):
            shift, scale, gate, shift2, scale2, gate2 = parts[6 * index : 6 * index + 6]
            h = h + gate * project(self._attend(qkv(modulated(self.norms[2 * index](h), shift, scale))))
            h = block(h, self.norms[2 * index + 1], shift2, scale2, gate2)
        out = self.output(modulated(self.norms[-1](h), *parts[-2:]))  # (M, G, outputs / G)
        return out.unflatten(-1, (self.kinds, -1)).transpose(1, 2).flatten(1)

    def _attend(self, qkv: Tensor) -> Tensor:
        """Queries, keys and values ``(M, G, 3 W)`` to ``(M, G, W)``: full attention over groups."""
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (M, heads, G, W / heads)
        scores = (q @ k.mT) * q.shape[-1] ** -0.5
        with torch.autocast(scores.device.type, enabled=False):
            weights = scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(-1).to(v.dtype)
        return (weights @ v).transpose(1, 2).flatten(2)


class NetworkSettings(Part):
    """Base of the settings of every denoiser."""

    @property
    def reads_states(self) -> str:
        """By what it reads the states of a condition, as in ``condition: cross``; empty where it does not."""
        return ""

    @property
    def reads_references(self) -> bool:
        """Whether it reads :attr:`Conditioning.references`."""
        return False

    def check_condition(self, sizes: DenoiserSizes) -> None:
        """Raise ``ValueError`` if it :attr:`reads_states` and there is no condition."""
        if self.reads_states and sizes.condition is None:
            raise ValueError(
                f"network.{self.name}: {self.reads_states} reads the states of a condition, and this recipe has none: add `condition`, "
                "such as {text: {encoder: minilm}}, or take the network dit with condition: pooled"
            )

    def build(self, *, inputs: int, outputs: int, hidden: int, times: int = 1, axes: int = 1, condition: int | None = None) -> AnyDenoiser:
        """The network, see :class:`DenoiserSizes`. Raises ``ValueError`` if the settings do not fit these sizes."""
        return self.network(DenoiserSizes(inputs, outputs, hidden, times, axes, condition))

    @abstractmethod
    def network(self, sizes: DenoiserSizes) -> AnyDenoiser:
        """The network for these sizes."""


class MLP(NetworkSettings, family="network", name="mlp"):
    """A residual MLP, as in MAR's head (whose default is 3 layers of width 1024).

    Attributes:
        layers: Residual blocks.
        width: Channels of a block.
    """

    layers: int = Field(default=3, ge=1)
    width: int = Field(default=256, ge=1)

    def network(self, sizes: DenoiserSizes) -> MLPDenoiser:
        """See :meth:`NetworkSettings.build`."""
        return MLPDenoiser(self, sizes)


class Attention(NetworkSettings, family="network", name="attention"):
    """A transformer over groups of a token's values.

    Attributes:
        layers: Number of layers.
        width: Channels of a group.
        heads: Attention heads of a layer.
        groups: Groups of neighbouring values that a token is split into.
    """

    layers: int = Field(default=2, ge=1)
    width: int = Field(default=128, ge=1)
    heads: int = Field(default=4, ge=1)
    groups: int = Field(default=4, ge=1)

    def network(self, sizes: DenoiserSizes) -> AttentionDenoiser:
        """See :meth:`NetworkSettings.build`."""
        if self.width % self.heads:
            raise ValueError(f"network.attention: a width of {self.width} does not divide into {self.heads} heads")
        return AttentionDenoiser(self, sizes)
