"""One-step generator from a hidden vector and noise to a sample (SLED's head, arXiv 2505.13181, section 3.2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.repeated import RepeatedBlock


class NoiseDrivenBlock(RepeatedBlock):
    """``x + gate * MLP(LN(x) (1 + scale) + shift)``; shift, scale and gate are linear in the noise features, initially 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.modulation = nn.Linear(width, 3 * width)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """``x`` and noise features, ``(..., width)`` both."""
        shift, scale, gate = self.modulation(noise).chunk(3, dim=-1)
        return x + gate * self.outer(F.silu(self.inner(self.norm(x) * (1 + scale) + shift)))


class NoiseDriven(nn.Module):
    """Residual blocks over the hidden vector, modulated by noise.

    Noise features come from a second layer where the paper normalises them: normalisation would cancel the temperature.

    ``noise``: dimensions of the noise; ``outputs``: dimensions of a sample.
    """

    def __init__(self, hidden: int, noise: int, outputs: int, layers: int, width: int) -> None:
        super().__init__()
        self.condition = nn.Linear(hidden, width)
        self.noise = nn.Sequential(nn.Linear(noise, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.blocks = nn.ModuleList([NoiseDrivenBlock(width) for _ in range(layers)])
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, outputs)
        for each in (self.modulation, self.output):
            nn.init.zeros_(each.weight)
            nn.init.zeros_(each.bias)

    def forward(self, hidden: Tensor, noise: Tensor) -> Tensor:
        """Samples ``(..., outputs)`` from hidden vectors ``(..., D)`` and noise ``(..., E)``; leading axes broadcast."""
        x, features = self.condition(hidden), self.noise(noise)
        for block in self.blocks:
            x = block(x, features)
        shift, scale = self.modulation(features).chunk(2, dim=-1)
        samples: Tensor = self.output(self.norm(x) * (1 + scale) + shift)
        return samples
