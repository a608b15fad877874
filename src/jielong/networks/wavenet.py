"""WaveNet: causal convolutions of two taps whose distance doubles from layer to layer, gated (arXiv 1609.03499).

Layer ``l`` is, with its dilation ``d`` and the condition's pooled vector ``c`` (eq. 2),

    a_t = P x_{t-d} + Q x_t + C c        z_t = tanh(a_1) sigmoid(a_2), of the two halves of the channels
    x_t <- x_t + R z_t

and the hidden vector is ``ReLU(W ReLU(sum_l S_l z_t))``: all layers skip to the end. Before the beginning there are zeros.

With a cache (:mod:`jielong.networks.wave_cache`) a position costs the same wherever it stands: each layer keeps its last ``d`` inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.backbone import Backbone, BackboneInputs, check_raster
from jielong.networks.norm import rms_norm
from jielong.networks.wave_cache import LayerMaps, WaveCache

EPS = 1e-6


class GatedLayer(nn.Module):
    """One gated layer over ``(B, n, F)``.

    Args:
        features: Channels ``F``.
        dilation: Distance ``d`` of its two taps.
        condition_width: Channels of the pooled condition; ``None`` for none.
        dropout: Probability of dropping a gated feature.
    """

    def __init__(self, features: int, dilation: int, condition_width: int | None, dropout: float) -> None:
        super().__init__()
        self.dilation = dilation
        self.past = nn.Linear(features, 2 * features, bias=False)
        self.present = nn.Linear(features, 2 * features)
        self.residual = nn.Linear(features, features, bias=False)
        self.condition = nn.Linear(condition_width, 2 * features, bias=False) if condition_width is not None else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, pooled: Tensor | None) -> tuple[Tensor, Tensor]:
        """The next layer's input, and the gated features, ``(B, n, F)`` both."""
        before = F.pad(x, (0, 0, self.dilation, 0))[:, : x.shape[1]]
        a = self.past(before) + self.present(x)
        shift = self.shift(pooled)
        if shift is not None:
            a = a + shift[:, None]
        first, second = a.chunk(2, dim=-1)
        z = self.dropout(torch.tanh(first) * torch.sigmoid(second))
        return x + self.residual(z), z

    def shift(self, pooled: Tensor | None) -> Tensor | None:
        """What the condition adds before the gate, ``(B, 2 F)``."""
        return None if self.condition is None or pooled is None else self.condition(rms_norm(pooled, None, EPS))


class WaveNet(Backbone[WaveCache]):
    """Gated dilated convolutions over positions in one line.

    Args:
        width: Channels ``D`` of a position's input and hidden vector.
        features: Channels ``F`` between layers.
        skip: Channels of the sum that all layers skip to.
        dilations: Of every layer.
        condition_width: Channels of the pooled condition; ``None`` for none.
        dropout: Probability of dropping a gated feature.

    Attributes:
        reach: Positions that a hidden vector depends on, its own input's included: ``1 + sum of dilations``.
    """

    def __init__(
        self,
        *,
        width: int,
        features: int,
        skip: int,
        dilations: Sequence[int],
        condition_width: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.width, self.features, self.dilations = width, features, tuple(dilations)
        self.reach = 1 + sum(dilations)
        self.conditioned = condition_width is not None
        self.enter = nn.Linear(width, features)
        stack = nn.ModuleList([GatedLayer(features, dilation, condition_width, dropout) for dilation in dilations])
        self.layers = cast("Sequence[GatedLayer]", stack)
        self.skip = nn.Linear(len(dilations) * features, skip)  # the skips of all layers, added up
        self.out = nn.Linear(skip, width)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw all weights anew.

        ============================================  ================================
        weights                                       N(0, 1 / inputs)
        the two that are added before a gate          N(0, 1 / (2 inputs))
        maps that end a residual branch               N(0, 1 / (layers inputs))
        what a condition adds                         0
        biases                                        0
        ============================================  ================================
        """
        scales = {"past": math.sqrt(0.5), "present": math.sqrt(0.5), "residual": 1 / math.sqrt(len(self.dilations)), "condition": 0.0}
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                scale = scales.get(name.rpartition(".")[2], 1.0)
                nn.init.normal_(module.weight, std=scale / math.sqrt(module.in_features))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def check_order(self, blocks: Tensor, shifted: bool) -> None:
        """Raise ``ValueError`` unless the order is raster."""
        check_raster(self, blocks, shifted, "what came before, one position after the other")

    def forward(self, inputs: BackboneInputs, cache: WaveCache | None = None, commit: bool = True) -> Tensor:
        """Hidden vectors ``(B, n, D)``; see :class:`jielong.networks.backbone.Backbone`. Of a condition the pooled vector is read."""
        self.check(inputs, cache)
        x, pooled = inputs.embeddings, None if inputs.conditioning is None else inputs.conditioning.pooled
        if cache is None:
            return self._whole(x, pooled)
        if cache.length + x.shape[1] > cache.capacity:
            raise ValueError(f"the cache is for {cache.capacity} positions, but these are {cache.length + x.shape[1]}")
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            if not cache.started:
                self._take(pooled, cache)
            if not commit:
                cache = cache.clone()
            entered = self._entered(x.to(cache.gates.dtype))
            return torch.stack([self._leave(cache.next(x)) for x in entered.unbind(1)], dim=1)

    def _entered(self, inputs: Tensor) -> Tensor:
        """The first layer's input. Embeddings begin small, so they are brought to unit size."""
        return self.enter(rms_norm(inputs, None, EPS))

    def _leave(self, gated: Tensor) -> Tensor:
        """Hidden vectors ``(..., D)`` of the gated features of all layers, ``(..., layers F)``."""
        return F.relu(self.out(F.relu(self.skip(gated))))

    def _whole(self, inputs: Tensor, pooled: Tensor | None) -> Tensor:
        """The naive reference: all positions through every layer."""
        x, gated = self._entered(inputs), []
        for layer in self.layers:
            x, z = layer(x, pooled)
            gated.append(z)
        return self._leave(torch.cat(gated, dim=-1))

    # --- with a cache: every layer keeps its last inputs ---------------------------------------------------------------------------

    def new_cache(
        self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> WaveCache:
        """What the last positions leave behind, however many there are."""
        weight = self.out.weight
        return WaveCache.empty(batch, self.features, self.dilations, positions, dtype or weight.dtype, device or weight.device)

    def cache_bytes(self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype = torch.float32) -> int:
        """Bytes of the buffers of ``new_cache``; they do not grow with the positions."""
        return self.new_cache(batch, positions, dtype=dtype, device="meta").nbytes

    def _take(self, pooled: Tensor | None, cache: WaveCache) -> None:
        """Take the condition, and the weights as they are now, into a new cache."""
        for layer in self.layers:
            shift, bias = layer.shift(pooled), layer.present.bias
            maps = (linear.weight.T.contiguous() for linear in (layer.past, layer.present, layer.residual))
            cache.maps.append(LayerMaps(*maps))
            cache.shifts.append(bias.expand(cache.batch, -1) if shift is None else shift + bias)
        cache.started = True
