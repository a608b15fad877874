"""TiTok's released tokenizers (arXiv 2406.07550) with the names and shapes of their weights: a second implementation, for tests alone.

Pictures are in [0, 1]. The features of the latent tokens are read in another order than they were written (``legacy``), as the released
weights were trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    """Sizes of a tokenizer; those of L-32 by default."""

    picture: int = 256
    patch: int = 16
    tokens: int = 32
    codes: int = 4096
    dim: int = 12
    width: int = 1024
    layers: int = 24
    heads: int = 16
    pixel_codes: int = 1024
    pixel_dim: int = 256
    pixel_channels: tuple[int, ...] = (128, 128, 256, 256, 512)

    @property
    def grid(self) -> int:
        """Patches a side."""
        return self.picture // self.patch


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Half(nn.Module):
    """What encoder and decoder share: a transformer over class, grid and latents, in this order."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes, width = sizes, sizes.width
        self.class_embedding = nn.Parameter(torch.zeros(1, width))
        self.positional_embedding = nn.Parameter(torch.zeros(sizes.grid**2 + 1, width))
        self.latent_token_positional_embedding = nn.Parameter(torch.zeros(sizes.tokens, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.ModuleList(Block(width, sizes.heads) for _ in range(sizes.layers))

    def through(self, grid: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs at the grid and at the latents, after the last norm."""
        front = torch.cat([self.class_embedding.expand(len(grid), 1, -1), grid], 1) + self.positional_embedding
        x = self.ln_pre(torch.cat([front, latents + self.latent_token_positional_embedding], 1))
        for block in self.transformer:
            x = block(x)
        x, cells = self.ln_post(x), grid.shape[1]
        return x[:, 1 : 1 + cells], x[:, 1 + cells :]


class Encoder(Half):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.patch_embed = nn.Conv2d(3, sizes.width, sizes.patch, stride=sizes.patch)
        self.conv_out = nn.Conv2d(sizes.width, sizes.dim, 1)

    def forward(self, picture: Tensor, latents: Tensor, legacy: bool = True) -> Tensor:
        """Vectors ``(B, N, dim)``, before they are quantised."""
        grid = self.patch_embed(picture).flatten(2).transpose(1, 2)
        _, found = self.through(grid, latents.expand(len(picture), -1, -1))
        sizes = self.sizes
        maps = found.contiguous().view(-1, sizes.width, sizes.tokens) if legacy else found.transpose(1, 2)
        return self.conv_out(maps[..., None])[..., 0].transpose(1, 2)


class Decoder(Half):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        width = sizes.width
        self.decoder_embed = nn.Linear(sizes.dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.ffn = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.Tanh(), nn.Conv2d(2 * width, sizes.pixel_codes, 1))

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits ``(B, V, g, g)`` of the pixel decoder's codes."""
        grid = self.sizes.grid
        cells, _ = self.through(self.mask_token.expand(len(vectors), grid**2, -1), self.decoder_embed(vectors))
        return self.ffn(cells.transpose(1, 2).unflatten(2, (grid, grid)))


class Quantizer(nn.Module):
    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, dim)


class PixelBlock(nn.Module):
    """MaskGIT-VQGAN's residual block: where channels change, nothing of the input is added, but a projection of the result."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(32, inputs, 1e-6), nn.GroupNorm(32, outputs, 1e-6)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(outputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(h) if hasattr(self, "nin_shortcut") else x)


class PixelStage(nn.Module):
    def __init__(self, inputs: int, outputs: int, upsamples: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList([PixelBlock(inputs, outputs), PixelBlock(outputs, outputs)])
        if upsamples:
            self.upsample_conv = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return self.upsample_conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3)) if hasattr(self, "upsample_conv") else x


class PixelDecoder(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        channels = sizes.pixel_channels
        coarse = channels[-1]
        self.conv_in = nn.Conv2d(sizes.pixel_dim, coarse, 3, padding=1)
        self.mid = nn.ModuleList([PixelBlock(coarse, coarse), PixelBlock(coarse, coarse)])
        pairs = zip([*channels[1:], coarse], channels, strict=True)
        self.up = nn.ModuleList(PixelStage(inputs, outputs, stage > 0) for stage, (inputs, outputs) in enumerate(pairs))
        self.norm_out = nn.GroupNorm(32, channels[0], 1e-6)
        self.conv_out = nn.Conv2d(channels[0], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in [*self.mid, *reversed(self.up)]:
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class TiTok(nn.Module):
    """Pictures ``(B, 3, H, W)`` in [0, 1] to codes ``(B, N)`` and back."""

    def __init__(self, sizes: Sizes = Sizes()) -> None:
        super().__init__()
        self.latent_tokens = nn.Parameter(torch.zeros(sizes.tokens, sizes.width))
        self.encoder, self.decoder = Encoder(sizes), Decoder(sizes)
        self.quantize = Quantizer(sizes.codes, sizes.dim)
        self.pixel_quantize = Quantizer(sizes.pixel_codes, sizes.pixel_dim)
        self.pixel_decoder = PixelDecoder(sizes)

    def vectors(self, picture: Tensor, legacy: bool = True) -> Tensor:
        """The encoder's vectors at length 1, ``(B, N, dim)``."""
        found = self.encoder(picture, self.latent_tokens, legacy)
        return found / found.square().sum(-1, keepdim=True).sqrt()

    def codebook(self) -> Tensor:
        """Codes at length 1."""
        codes = self.quantize.embedding.weight
        return codes / codes.square().sum(-1, keepdim=True).sqrt()

    def encode(self, picture: Tensor, legacy: bool = True) -> Tensor:
        """Codes of the largest cosine."""
        return (self.vectors(picture, legacy) @ self.codebook().T).argmax(-1)

    def logits(self, codes: Tensor) -> Tensor:
        """Of the pixel decoder's codes, ``(B, V, g, g)``."""
        return self.decoder(self.codebook()[codes])

    def decode(self, codes: Tensor) -> Tensor:
        """Pictures, not clamped."""
        shares = self.logits(codes).softmax(1)
        return self.pixel_decoder(torch.einsum("bvij,vd->bdij", shares, self.pixel_quantize.embedding.weight))
