"""WaveNet: gated causal convolutions of two taps whose dilation doubles from layer to layer (arXiv 1609.03499).

Layer ``l`` is, with its dilation ``d`` and the pooled condition ``c`` (eq. 2),

    a_t = P x_{t-d} + Q x_t + C c        z_t = tanh(a_1) sigmoid(a_2), of the two halves of the channels
    x_t <- x_t + R z_t

and the hidden vector is ``ReLU(W ReLU(sum_l S_l z_t))``, with skip connections from all layers. The sequence is padded with zeros.

With a cache (:mod:`jielong.networks.wave_cache`) every position costs the same: each layer keeps its last ``d`` inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from jielong.config.registry import Config
from jielong.networks.backbone import Backbone, BackboneInputs, check_raster
from jielong.networks.dropout import Dropout
from jielong.networks.eligibility import can_fuse
from jielong.networks.gated import gate, initialise, unit_rms, without_autocast
from jielong.networks.repeated import RepeatedBlock
from jielong.networks.replay import ReplayCache
from jielong.networks.wave_cache import LayerMaps, WaveCache


class WaveNetConfig(Config):
    """Sizes of a WaveNet.

    Attributes:
        stacks: Repetitions of the layers, whose dilations begin again at 1.
        layers: Layers of a stack, with dilations 1, 2, 4, ...
        width: Channels ``D`` of a position's embedding and hidden vector.
        features: Channels ``F`` between layers; ``width`` by default.
        skip: Channels of the sum of all skip connections; ``width`` by default.
        dropout: Probability of dropping a gated feature.
    """

    stacks: int = Field(default=2, ge=1)
    layers: int = Field(default=10, ge=1, le=20)
    width: int = Field(default=64, ge=1)
    features: int | None = Field(default=None, ge=1)
    skip: int | None = Field(default=None, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @property
    def dilations(self) -> tuple[int, ...]:
        """Of every layer."""
        return tuple(2**layer for layer in range(self.layers)) * self.stacks


class GatedLayer(RepeatedBlock):
    """One gated layer over ``(B, n, F)``."""

    def __init__(self, features: int, dilation: int, condition_width: int | None, dropout: float) -> None:
        super().__init__()
        self.dilation = dilation
        self.past = nn.Linear(features, 2 * features, bias=False)
        self.present = nn.Linear(features, 2 * features)
        self.residual = nn.Linear(features, features, bias=False)
        self.condition = nn.Linear(condition_width, 2 * features, bias=False) if condition_width is not None else None
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, pooled: Tensor | None) -> tuple[Tensor, Tensor]:
        """The next layer's input, and the gated features, ``(B, n, F)`` both."""
        before = F.pad(x, (0, 0, self.dilation, 0))[:, : x.shape[1]]
        a = self.past(before) + self.present(x)
        shift = self.shift(pooled)
        if shift is not None:
            a = a + shift[:, None]
        z = self.dropout(gate(a, -1))
        return x + self.residual(z), z

    def shift(self, pooled: Tensor | None) -> Tensor | None:
        """What the condition adds before the gate, ``(B, 2 F)``."""
        return None if self.condition is None or pooled is None else self.condition(unit_rms(pooled))


class WaveNet(Backbone["WaveCache | ReplayCache"]):
    """Gated dilated convolutions over positions along one axis.

    Attributes:
        receptive_field: Positions that a hidden vector depends on, its own included: ``1 + sum of dilations``.
    """

    def __init__(self, config: WaveNetConfig, *, condition_width: int | None = None) -> None:
        super().__init__()
        width, features, skip = config.width, config.features or config.width, config.skip or config.width
        self.width, self.features, self.dilations = width, features, config.dilations
        self.receptive_field = 1 + sum(self.dilations)
        self.conditioned = condition_width is not None
        self.enter = nn.Linear(width, features)
        stack = nn.ModuleList(GatedLayer(features, dilation, condition_width, config.dropout) for dilation in self.dilations)
        self.layers = cast("Sequence[GatedLayer]", stack)
        self.skip = nn.Linear(len(self.dilations) * features, skip)  # the sum of all skip connections
        self.out = nn.Linear(skip, width)
        self.initialise()

    def initialise(self) -> None:
        """Initialise all weights (table in :mod:`jielong.networks.gated`)."""
        gains = {"past": math.sqrt(0.5), "present": math.sqrt(0.5), "residual": 1 / math.sqrt(len(self.dilations)), "condition": 0.0}
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                initialise(module, gains.get(name.rpartition(".")[2], 1.0))

    def check_order(self, blocks: Tensor, shifted: bool) -> None:
        """Raise ``ValueError`` unless the order is raster."""
        check_raster(self, blocks, shifted, "what came before, one position after the other")

    def forward(self, inputs: BackboneInputs, cache: WaveCache | ReplayCache | None = None, commit: bool = True) -> Tensor:
        """Hidden vectors ``(B, n, D)``; see :meth:`Backbone.forward`. Of a condition the pooled vector is read."""
        self.check(inputs, cache)
        x, pooled = inputs.embeddings, None if inputs.conditioning is None else inputs.conditioning.pooled
        if cache is None:
            return self._whole(x, pooled)
        if cache.length + x.shape[1] > cache.capacity:
            raise ValueError(f"the cache is for {cache.capacity} positions, but these are {cache.length + x.shape[1]}")
        if isinstance(cache, ReplayCache):
            return cache.extend(x, pooled, self._whole, commit)
        with torch.no_grad(), without_autocast(x):
            if not cache.started:
                self._start(pooled, cache)
            if not commit:
                cache = cache.clone()
            entered = self.enter(unit_rms(x.to(cache.gates.dtype)))
            return torch.stack([self._leave(cache.next(x)) for x in entered.unbind(1)], dim=1)

    def _leave(self, gated: Tensor) -> Tensor:
        """Hidden vectors ``(..., D)`` of the gated features of all layers, ``(..., layers F)``."""
        return F.relu(self.out(F.relu(self.skip(gated))))

    def _whole(self, embeddings: Tensor, pooled: Tensor | None) -> Tensor:
        """The naive reference: all positions through every layer."""
        x, gated = self.enter(unit_rms(embeddings)), []
        for layer in self.layers:
            x, z = layer(x, pooled)
            gated.append(z)
        return self._leave(torch.cat(gated, dim=-1))

    def new_cache(
        self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> WaveCache | ReplayCache:
        """The layers' last inputs, independent of ``positions``; all embeddings where the layers cannot be fused."""
        if not can_fuse(self.children(), (GatedLayer, nn.Linear, Dropout, nn.ModuleList)):
            return ReplayCache(batch, positions)
        weight = self.out.weight
        return WaveCache.empty(batch, self.features, self.dilations, positions, dtype or weight.dtype, device or weight.device)

    def cache_bytes(self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype = torch.float32) -> int:
        """Bytes of the buffers of ``new_cache``; they do not grow with the positions."""
        return WaveCache.empty(batch, self.features, self.dilations, positions, dtype, "meta").nbytes

    def _start(self, pooled: Tensor | None, cache: WaveCache) -> None:
        """Store the condition and the present weights in a new cache."""
        for layer in self.layers:
            shift, bias = layer.shift(pooled), layer.present.bias
            maps = (linear.weight.T.contiguous() for linear in (layer.past, layer.present, layer.residual))
            cache.maps.append(LayerMaps(*maps))
            cache.shifts.append(bias.expand(cache.batch, -1) if shift is None else shift + bias)
        cache.started = True
