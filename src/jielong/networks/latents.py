"""Pictures to a short sequence of latents and back, by transformers: 1-D tokens (TiTok, arXiv 2406.07550, section 3.2).

A latent belongs to no place of the picture. Both networks see latents and patches as one sequence, latents first: patches are rotated by
their row and column, latents are not rotated at all, so which latent is which is told by its learned vector alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.core.tokens import Layout
from jielong.networks.backbone import BackboneInputs
from jielong.networks.norm import Norm
from jielong.networks.transformer import Transformer


class LatentTransformer(nn.Module):
    """A transformer over ``N`` latents and the patches of a grid, every position seeing all others.

    Maps start with weights of variance 1 over their inputs, larger than a :class:`Transformer`'s own: at the start, latents learn of the
    picture through them alone, and a codebook that begins on latents alike for all pictures takes long to tell them apart.

    Args:
        grid: Rows and columns of the patches.
        latents: Number of latents ``N``.
        layers: Number of layers.
        width: Channels ``D``.
        heads: Attention heads.
    """

    def __init__(self, grid: tuple[int, int], latents: int, *, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.count = latents
        # The backbone reads these with Python, so they are no buffers: they stay on the CPU wherever the weights go.
        self.where = torch.cat([torch.zeros(latents, 2, dtype=torch.long), Layout(grid).coordinates()])
        self.blocks = torch.zeros(len(self.where), dtype=torch.long)
        # A learned vector for every position: what a latent starts as, and where a patch stands.
        self.places = nn.Parameter(torch.randn(len(self.where), width) * width**-0.5)
        self.norm = Norm(width, "layer", 1e-5)
        self.transformer = Transformer(layers=layers, width=width, heads=heads, axes=2, norm="layer", activation="gelu", bias=True)
        for module in self.transformer.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)

    def forward(self, latents: Tensor | None = None, patches: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latents ``(B, N, D)`` and patches ``(B, h w, D)`` to the same; what is not given starts as its learned vectors alone."""
        given = latents if latents is not None else patches
        if given is None:
            raise ValueError("give the latents or the patches; of neither, nothing is known about the picture")
        own = self.places.expand(len(given), -1, -1)
        first, second = own[:, : self.count], own[:, self.count :]
        first = first if latents is None else first + latents
        second = second if patches is None else second + patches
        hidden = self.transformer(BackboneInputs(self.norm(torch.cat([first, second], dim=1)), self.where, self.blocks))
        return hidden[:, : self.count], hidden[:, self.count :]


class LatentEncoder(nn.Module):
    """Pictures ``(B, C, H, W)`` to latents ``(B, N, dim)``: patches go in, of what comes out only the latents are kept.

    Args:
        channels: Colour channels ``C``.
        size: Height and width in pixels.
        patch: Side of a patch in pixels.
        latents: Number of latents ``N``.
        dim: Channels of a latent.
        layers: Number of layers.
        width: Channels ``D`` inside.
        heads: Attention heads.

    Raises:
        ValueError: if the picture does not divide into patches.
    """

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
    """Latents ``(B, N, dim)`` to logits of a code at every place of a grid, ``(B, h w, V)``.

    The patches go in as nothing but their places (the mask tokens); their logits come from ``W2 tanh(W1 x)`` with ``W2`` zero at first,
    so that an untrained decoder guesses evenly and its first cross-entropy is ``ln V``.

    Args:
        dim: Channels of a latent.
        latents: Number of latents ``N``.
        grid: Rows and columns of the codes.
        codes: Number of codes ``V``.
        layers: Number of layers.
        width: Channels ``D`` inside.
        heads: Attention heads.
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
