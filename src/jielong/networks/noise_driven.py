"""A network that turns a hidden vector and noise into a sample, in one evaluation (SLED's head, arXiv 2505.13181, section 3.2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class NoiseDrivenBlock(nn.Module):
    """``x + gate * MLP(LN(x) (1 + scale) + shift)``, where shift, scale and gate come from the noise, and are 0 at first.

    Args:
        width: Channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.modulation = nn.Linear(width, 3 * width)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """``(..., width)`` and the noise's features, ``(..., width)``."""
        shift, scale, gate = self.modulation(noise).chunk(3, dim=-1)
        return x + gate * self.outer(F.silu(self.inner(self.norm(x) * (1 + scale) + shift)))


class NoiseDriven(nn.Module):
    """What is known goes through the blocks, and noise modulates them: the reverse of a denoiser, which has no noise but its input.

    Where the paper normalises the noise's features, a second layer stands here: normalised, noise made smaller would be the same noise, and
    a temperature would do nothing.

    Args:
        hidden: Width of the hidden vectors.
        noise: Numbers of noise.
        outputs: Numbers of a sample.
        layers: Blocks.
        width: Their channels.
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
        """Samples ``(..., outputs)`` of hidden vectors ``(..., D)`` and noise ``(..., E)``; leading axes broadcast."""
        x, features = self.condition(hidden), self.noise(noise)
        for block in self.blocks:
            x = block(x, features)
        shift, scale = self.modulation(features).chunk(2, dim=-1)
        samples: Tensor = self.output(self.norm(x) * (1 + scale) + shift)
        return samples
