"""Transformers from pictures to a short sequence of latents and back: 1-D tokens (TiTok, arXiv 2406.07550, section 3.2).

A latent has no position in the picture. Both networks read latents and patches as one sequence, latents first: patches are rotated by row
and column, latents are not rotated and are distinguished by their learned vectors alone. The released models rotate nothing, and read a
learned class token beside them.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.config.registry import Config
from jielong.core.tokens import Layout
from jielong.networks.backbone import BackboneInputs
from jielong.networks.layers import Activation
from jielong.networks.norm import Norm
from jielong.networks.transformer import Transformer, TransformerConfig


class LatentTransformerSize(Config):
    """Size of a transformer over latents and patches.

    Attributes:
        layers: Transformer layers.
        width: Channels of a position.
        heads: Attention heads of a layer.
        class_token: One more position, with a learned vector and no output, as in the released models.
        rotary: Whether rows and columns rotate queries and keys of patches; not in the released models.
        activation: As of the backbone ``transformer``.
    """

    layers: PositiveInt = 4
    width: int = Field(default=192, ge=8)
    heads: PositiveInt = 3
    class_token: bool = False
    rotary: bool = True
    activation: Activation = "gelu"

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.width % self.heads or self.width // self.heads % 2 or self.width // self.heads < 4:
            raise ValueError(f"width {self.width} must be an even multiple of heads {self.heads}, with 4 channels or more a head")
        return self


class LatentTransformer(nn.Module):
    """A bidirectional transformer over ``N`` latents and the patches of a grid. ``grid``: rows and columns of the patches.

    Linear maps start with weights of variance 1 / inputs, larger than those of :class:`Transformer`: with small ones the initial latents of
    all pictures are nearly equal, and a codebook that starts there is slow to separate them.
    """

    def __init__(self, grid: tuple[int, int], latents: int, size: LatentTransformerSize) -> None:
        super().__init__()
        self.count, self.patches, width = latents, math.prod(grid), size.width
        # The transformer reads these with Python: no buffers, so that they stay on the CPU.
        outside = torch.zeros(latents, 2, dtype=torch.long), torch.zeros(int(size.class_token), 2, dtype=torch.long)
        self.coords = torch.cat([outside[0], Layout(grid).coordinates(), outside[1]])
        self.blocks = torch.zeros(len(self.coords), dtype=torch.long)
        # A learned vector for every latent, every patch and the class token.
        self.places = nn.Parameter(torch.randn(len(self.coords), width) * width**-0.5)
        self.norm = Norm(width, "layer", 1e-5)
        shared = {name: getattr(size, name) for name in ("layers", "width", "heads", "rotary", "activation")}
        self.transformer = Transformer(TransformerConfig(norm="layer", bias=True, **shared), axes=2)
        for module in self.transformer.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)

    def forward(self, latents: Tensor | None = None, patches: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latents ``(B, N, D)`` and patches ``(B, h w, D)`` to the same; a missing one starts from its learned vectors alone."""
        either = latents if latents is not None else patches
        if either is None:
            raise ValueError("pass latents, patches or both")
        learned = self.places.expand(either.shape[0], -1, -1)
        first, second, last = learned.split([self.count, self.patches, len(self.coords) - self.count - self.patches], dim=1)
        first = first if latents is None else first + latents
        second = second if patches is None else second + patches
        hidden = self.transformer(BackboneInputs(self.norm(torch.cat([first, second, last], dim=1)), self.coords, self.blocks))
        return hidden[:, : self.count], hidden[:, self.count : self.count + self.patches]


class LatentEncoder(nn.Module):
    """Pictures ``(B, C, H, W)`` to latents ``(B, N, dim)``. Raises ``ValueError`` if the picture does not divide into patches.

    Args:
        size: Rows and columns of a picture.
        legacy_reshape: See :class:`~jielong.tokenizers.titok.TiTok`.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        patch: int,
        latents: int,
        dim: int,
        body: LatentTransformerSize,
        legacy_reshape: bool = False,
    ) -> None:
        super().__init__()
        if size[0] % patch or size[1] % patch:
            raise ValueError(f"pictures of {size[0]} x {size[1]} pixels do not divide into patches of {patch} x {patch} pixels")
        grid = (size[0] // patch, size[1] // patch)
        self.legacy_reshape = legacy_reshape
        self.patches = nn.Conv2d(channels, body.width, patch, stride=patch)
        self.body = LatentTransformer(grid, latents, body)
        self.out = nn.Linear(body.width, dim)

    def forward(self, media: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, N, dim)``."""
        latents, _ = self.body(patches=self.patches(media).flatten(2).mT)
        if self.legacy_reshape:
            latents = latents.reshape(len(latents), -1, self.body.count).mT  # the numbers (N, D) read as (D, N)
        return self.out(latents)


class LatentDecoder(nn.Module):
    """Latents ``(B, N, dim)`` to logits of a code at every position of a grid, ``(B, h w, V)``.

    Patches start from their learned vectors (mask tokens). Logits are ``W2 tanh(W1 x)`` with ``W2`` initialised to zero, so that the
    initial cross-entropy is ``ln V``.
    """

    def __init__(self, dim: int, latents: int, grid: tuple[int, int], codes: int, body: LatentTransformerSize) -> None:
        super().__init__()
        width = body.width
        self.enter = nn.Linear(dim, width)
        self.body = LatentTransformer(grid, latents, body)
        self.inside = nn.Linear(width, 2 * width)
        self.head = nn.Linear(2 * width, codes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, latents: Tensor) -> Tensor:
        """``(B, N, dim)`` to ``(B, h w, V)``."""
        _, patches = self.body(latents=self.enter(latents))
        return self.head(F.tanh(self.inside(patches)))
