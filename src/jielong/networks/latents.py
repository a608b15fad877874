"""Transformers from pictures to a short sequence of latents and back: 1-D tokens (TiTok, arXiv 2406.07550, section 3.2).

A latent has no position in the picture. Both networks read latents and patches as one sequence, latents first: patches are rotated by row
and column, latents are not rotated and are distinguished by their learned vectors alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.core.tokens import Layout
from jielong.networks.backbone import BackboneInputs
from jielong.networks.norm import Norm
from jielong.networks.transformer import Transformer, TransformerConfig


class LatentTransformer(nn.Module):
    """A bidirectional transformer over ``N`` latents and the patches of a grid. ``grid``: rows and columns of the patches.

    Linear maps start with weights of variance 1 / inputs, larger than those of :class:`Transformer`: with small ones the initial latents of
    all pictures are nearly equal, and a codebook that starts there is slow to separate them.
    """

    def __init__(self, grid: tuple[int, int], latents: int, *, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.count = latents
        # The transformer reads these with Python: no buffers, so that they stay on the CPU.
        self.coords = torch.cat([torch.zeros(latents, 2, dtype=torch.long), Layout(grid).coordinates()])
        self.blocks = torch.zeros(len(self.coords), dtype=torch.long)
        # A learned vector for every latent and every patch.
        self.places = nn.Parameter(torch.randn(len(self.coords), width) * width**-0.5)
        self.norm = Norm(width, "layer", 1e-5)
        config = TransformerConfig(layers=layers, width=width, heads=heads, norm="layer", activation="gelu", bias=True)
        self.transformer = Transformer(config, axes=2)
        for module in self.transformer.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)

    def forward(self, latents: Tensor | None = None, patches: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latents ``(B, N, D)`` and patches ``(B, h w, D)`` to the same; a missing one starts from its learned vectors alone."""
        either = latents if latents is not None else patches
        if either is None:
            raise ValueError("pass latents, patches or both")
        learned = self.places.expand(len(either), -1, -1)
        first, second = learned[:, : self.count], learned[:, self.count :]
        first = first if latents is None else first + latents
        second = second if patches is None else second + patches
        hidden = self.transformer(BackboneInputs(self.norm(torch.cat([first, second], dim=1)), self.coords, self.blocks))
        return hidden[:, : self.count], hidden[:, self.count :]


class LatentEncoder(nn.Module):
    """Pictures ``(B, C, H, W)`` to latents ``(B, N, dim)``. Raises ``ValueError`` if the picture does not divide into patches."""

    def __init__(
        self, channels: int, size: tuple[int, int], patch: int, latents: int, dim: int, *, layers: int, width: int, heads: int
    ) -> None:
        super().__init__()
        if size[0] % patch or size[1] % patch:
            raise ValueError(f"pictures of {size[0]} x {size[1]} pixels do not divide into patches of {patch} x {patch} pixels")
        grid = (size[0] // patch, size[1] // patch)
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.body = LatentTransformer(grid, latents, layers=layers, width=width, heads=heads)
        self.out = nn.Linear(width, dim)

    def forward(self, media: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, N, dim)``."""
        latents, _ = self.body(patches=self.patches(media).flatten(2).mT)
        return self.out(latents)


class LatentDecoder(nn.Module):
    """Latents ``(B, N, dim)`` to logits of a code at every position of a grid, ``(B, h w, V)``.

    Patches start from their learned vectors (mask tokens). Logits are ``W2 tanh(W1 x)`` with ``W2`` initialised to zero, so that the
    initial cross-entropy is ``ln V``.
    """

    def __init__(self, dim: int, latents: int, grid: tuple[int, int], codes: int, *, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.enter = nn.Linear(dim, width)
        self.body = LatentTransformer(grid, latents, layers=layers, width=width, heads=heads)
        self.inside = nn.Linear(width, 2 * width)
        self.head = nn.Linear(2 * width, codes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, latents: Tensor) -> Tensor:
        """``(B, N, dim)`` to ``(B, h w, V)``."""
        _, patches = self.body(latents=self.enter(latents))
        return self.head(F.tanh(self.inside(patches)))
