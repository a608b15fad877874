"""VAR from its paper (arXiv 2404.02905), in the layout of its released weights: the multi-scale tokenizer and the transformer.

An independent reference in plain PyTorch: no code of the package, and no more options than the released models have. ``B`` items, ``C``
channels, ``L`` positions of all scales, ``S`` scales.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class TokenizerSizes:
    """Of the released tokenizer by default."""

    channels: int = 160
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2
    latent: int = 32
    codes: int = 4096
    sides: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """Two convolutions behind norm and SiLU, added to the input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = group_norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class AttnBlock(nn.Module):
    """One head over all positions, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.qkv = group_norm(channels), nn.Conv2d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).chunk(3, dim=1)  # (B, C, n) each
        weights = (q.mT @ k / math.sqrt(q.shape[1])).softmax(-1)  # (B, n, n)
        return x + self.proj_out((v @ weights.mT).view(x.shape))


class Sampling(nn.Module):
    """The convolution between two stages: of stride 2 and padded right and below, or behind doubling by nearest neighbours."""

    def __init__(self, channels: int, down: bool) -> None:
        super().__init__()
        self.down, self.conv = down, nn.Conv2d(channels, channels, 3, stride=2 if down else 1, padding=0 if down else 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.down else F.interpolate(x, scale_factor=2, mode="nearest"))


class Stage(nn.Module):
    """Blocks of one resolution, each followed by attention at the coarsest."""

    def __init__(self, inputs: int, outputs: int, blocks: int, attends: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(outputs if number else inputs, outputs) for number in range(blocks))
        self.attn = nn.ModuleList(AttnBlock(outputs) for _ in range(blocks if attends else 0))

    def forward(self, x: Tensor) -> Tensor:
        for number, block in enumerate(self.block):
            x = block(x)
            x = self.attn[number](x) if self.attn else x
        return x


class Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = ResnetBlock(channels, channels), AttnBlock(channels), ResnetBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    def __init__(self, sizes: TokenizerSizes) -> None:
        super().__init__()
        widths, last = [sizes.channels * each for each in sizes.multipliers], len(sizes.multipliers) - 1
        self.conv_in = nn.Conv2d(3, sizes.channels, 3, padding=1)
        self.down = nn.ModuleList()
        for number, width in enumerate(widths):
            stage = Stage(widths[number - 1] if number else sizes.channels, width, sizes.blocks, number == last)
            if number < last:
                stage.downsample = Sampling(width, down=True)
            self.down.append(stage)
        self.mid, self.norm_out = Middle(widths[-1]), group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], sizes.latent, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for stage in self.down:
            x = stage(x)
            x = stage.downsample(x) if hasattr(stage, "downsample") else x
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    def __init__(self, sizes: TokenizerSizes) -> None:
        super().__init__()
        widths, last = [sizes.channels * each for each in sizes.multipliers], len(sizes.multipliers) - 1
        self.conv_in, self.mid = nn.Conv2d(sizes.latent, widths[-1], 3, padding=1), Middle(widths[-1])
        self.up = nn.ModuleList()
        for number, width in enumerate(widths):
            stage = Stage(widths[min(number + 1, last)], width, sizes.blocks + 1, number == last)
            if number:
                stage.upsample = Sampling(width, down=False)
            self.up.append(stage)
        self.norm_out, self.conv_out = group_norm(widths[0]), nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for stage in reversed(self.up):
            x = stage(x)
            x = stage.upsample(x) if hasattr(stage, "upsample") else x
        return self.conv_out(F.silu(self.norm_out(x)))


class SharedResidual(nn.Module):
    """Four convolutions that neighbouring scales share: ``phi(x) = x / 2 + conv(x) / 2``."""

    def __init__(self, latent: int, ticks: int = 4) -> None:
        super().__init__()
        self.qresi_ls = nn.ModuleList(nn.Conv2d(latent, latent, 3, padding=1) for _ in range(ticks))
        self.places = torch.linspace(1 / 12, 11 / 12, ticks, dtype=torch.float64)

    def forward(self, x: Tensor, place: float) -> Tensor:
        # The ticks of the third and the eighth of ten scales are as far as their neighbours, but for the rounding: those in the middle.
        distance = ((self.places - place).abs() * 1e9).round()
        nearest = [number for number in range(len(self.places)) if distance[number] == distance.min()]
        return x / 2 + self.qresi_ls[nearest[-1]](x) / 2


class Quantizer(nn.Module):
    """A pyramid of codes of one codebook, each scale what the coarser ones leave."""

    def __init__(self, sizes: TokenizerSizes) -> None:
        super().__init__()
        self.sides = sizes.sides
        self.embedding = nn.Embedding(sizes.codes, sizes.latent)
        self.quant_resi = SharedResidual(sizes.latent)
        self.register_buffer("ema_vocab_hit_SV", torch.zeros(len(sizes.sides), sizes.codes))

    def added(self, codes: Tensor, scale: int) -> Tensor:
        """What the codes ``(B, p^2)`` of a scale add to the features, ``(B, C, H, W)``."""
        side, full = self.sides[scale], self.sides[-1]
        maps = self.embedding(codes).mT.unflatten(2, (side, side))
        if side != full:
            maps = F.interpolate(maps, size=(full, full), mode="bicubic")
        return self.quant_resi(maps, scale / (len(self.sides) - 1))

    def at(self, features: Tensor, scale: int) -> Tensor:
        """Features ``(B, C, H, W)`` averaged to a scale, ``(B, p^2, C)``."""
        side = self.sides[scale]
        if side != self.sides[-1]:
            features = F.interpolate(features, size=(side, side), mode="area")
        return features.flatten(2).mT

    def encode(self, features: Tensor) -> list[Tensor]:
        """Codes of every scale, each ``(B, p^2)``."""
        rest, codes = features, []
        for scale in range(len(self.sides)):
            codes.append(torch.cdist(self.at(rest, scale).double(), self.embedding.weight.double()[None]).argmin(-1))
            rest = rest - self.added(codes[-1], scale)
        return codes

    def total(self, codes: Sequence[Tensor]) -> Tensor:
        """Features of the first scales, those of which there are codes."""
        total = torch.zeros(len(codes[0]), self.embedding.embedding_dim, self.sides[-1], self.sides[-1])
        for scale, each in enumerate(codes):
            total = total + self.added(each, scale)
        return total


class Tokenizer(nn.Module):
    """Pictures in [-1, 1] to codes of all scales and back."""

    def __init__(self, sizes: TokenizerSizes = TokenizerSizes()) -> None:
        super().__init__()
        self.sizes = sizes
        self.encoder, self.decoder, self.quantize = Encoder(sizes), Decoder(sizes), Quantizer(sizes)
        self.quant_conv, self.post_quant_conv = (nn.Conv2d(sizes.latent, sizes.latent, 3, padding=1) for _ in range(2))

    def encode(self, pictures: Tensor) -> list[Tensor]:
        return self.quantize.encode(self.quant_conv(self.encoder(pictures)))

    def pictures(self, features: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(features)).clamp(-1, 1)

    def decode(self, codes: Sequence[Tensor]) -> Tensor:
        """Pictures of the first scales, those of which there are codes."""
        return self.pictures(self.quantize.total(codes))


class Attention(nn.Module):
    """Queries and keys of length 1, with a learned scale a head; keys have no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale_mul_1H11 = nn.Parameter(torch.full((1, heads, 1, 1), 4.0).log())
        self.mat_qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("zero_k_bias", torch.zeros(width))
        self.proj = nn.Linear(width, width)
        self.past: tuple[Tensor, Tensor] | None = None
        self.keeps = False

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        qkv = F.linear(x, self.mat_qkv.weight, torch.cat((self.q_bias, self.zero_k_bias, self.v_bias)))
        q, k, v = (each.unflatten(2, (self.heads, -1)).transpose(1, 2) for each in qkv.chunk(3, dim=-1))  # (B, heads, n, c)
        q = F.normalize(q, dim=-1) * self.scale_mul_1H11.clamp_max(math.log(100)).exp()
        k = F.normalize(k, dim=-1)
        if self.keeps:
            if self.past is not None:
                k, v = torch.cat((self.past[0], k), dim=2), torch.cat((self.past[1], v), dim=2)
            self.past = k, v
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def plain_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class Block(nn.Module):
    """Attention and feed-forward, with gains, scales and shifts of the condition: of a map of the block, or of one for all and its own."""

    def __init__(self, width: int, heads: int, shared: bool) -> None:
        super().__init__()
        self.attn, self.ffn = Attention(width, heads), FeedForward(width)
        self.ada_gss = nn.Parameter(torch.randn(1, 1, 6, width) / math.sqrt(width)) if shared else None
        if not shared:
            self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor, mask: Tensor | None) -> Tensor:
        given = self.ada_gss + condition if self.ada_gss is not None else self.ada_lin(condition).view(len(x), 1, 6, -1)
        gain1, gain2, scale1, scale2, shift1, shift2 = given.unbind(2)
        x = x + gain1 * self.attn(plain_norm(x) * (1 + scale1) + shift1, mask)
        return x + gain2 * self.ffn(plain_norm(x) * (1 + scale2) + shift2)


class LastNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.ada_lin(condition).view(len(x), 1, 2, -1).unbind(2)
        return plain_norm(x) * (1 + scale) + shift


class Transformer(nn.Module):
    """Logits of all scales, each given the coarser ones.

    Args:
        tokenizer: Sizes of the tokenizer.
        depth: Blocks; the released models are 64 times as wide, with as many heads.
        classes: Of the condition; one more is none.
        shared: Whether all blocks share the map of the condition (depth 36).
        width: If another than ``64 depth``.
        heads: If others than ``depth``.
    """

    def __init__(
        self,
        tokenizer: TokenizerSizes,
        depth: int,
        classes: int = 1000,
        shared: bool = False,
        width: int | None = None,
        heads: int | None = None,
    ) -> None:
        super().__init__()
        width, heads, self.sides, self.classes = width or 64 * depth, heads or depth, tokenizer.sides, classes
        positions = sum(side**2 for side in self.sides)
        self.word_embed, self.class_emb = nn.Linear(tokenizer.latent, width), nn.Embedding(classes + 1, width)
        self.pos_start, self.pos_1LC = (nn.Parameter(torch.randn(1, n, width) * 0.02) for n in (1, positions))
        self.lvl_embed = nn.Embedding(len(self.sides), width)
        if shared:
            self.shared_ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.shared = shared
        self.blocks = nn.ModuleList(Block(width, heads, shared) for _ in range(depth))
        self.head_nm, self.head = LastNorm(width), nn.Linear(width, tokenizer.codes)
        level = torch.cat([torch.full((side**2,), scale) for scale, side in enumerate(self.sides)])
        self.register_buffer("lvl_1L", level[None])
        hidden = torch.where(level[:, None] >= level[None, :], 0.0, -torch.inf)
        self.register_buffer("attn_bias_for_masking", hidden[None, None])

    def places(self) -> Tensor:
        """What is added to the inputs, ``(1, L, C)``."""
        return self.lvl_embed(self.lvl_1L) + self.pos_1LC

    def through(self, x: Tensor, condition: Tensor, mask: Tensor | None) -> Tensor:
        given = self.shared_ada_lin(condition).view(len(x), 1, 6, -1) if self.shared else condition
        for block in self.blocks:
            x = block(x, given, mask)
        return self.head(self.head_nm(x, condition))

    def forward(self, labels: Tensor, coarser: Tensor) -> Tensor:
        """Teacher-forced logits ``(B, L, V)``: labels ``(B,)``, averages of the sums of coarser scales ``(B, L - 1, latent)``."""
        condition = self.class_emb(labels)
        x = torch.cat((condition[:, None] + self.pos_start, self.word_embed(coarser)), dim=1) + self.places()
        return self.through(x, condition, self.attn_bias_for_masking)

    @torch.no_grad()
    def inputs(self, tokenizer: Tokenizer, codes: Sequence[Tensor]) -> Tensor:
        """The second argument of :meth:`forward`."""
        quantizer = tokenizer.quantize
        return torch.cat([quantizer.at(quantizer.total(codes[:scale]), scale) for scale in range(1, len(self.sides))], dim=1)

    @torch.no_grad()
    def sample(self, tokenizer: Tokenizer, labels: Tensor, guidance: float) -> tuple[list[Tensor], Tensor]:
        """The most likely codes of every scale with guidance ``cfg``, and features: a doubled batch, and keys and values kept."""
        both = torch.cat((labels, torch.full_like(labels, self.classes)))
        condition, places, quantizer = self.class_emb(both), self.places(), tokenizer.quantize
        x, codes, start = condition[:, None] + self.pos_start + places[:, :1], list[Tensor](), 0
        total = torch.zeros(len(labels), quantizer.embedding.embedding_dim, self.sides[-1], self.sides[-1])
        self._keep(True)
        for scale, side in enumerate(self.sides):
            start += side**2
            given, none = self.through(x, condition, None).chunk(2)
            strength = guidance * scale / (len(self.sides) - 1)
            codes.append(((1 + strength) * given - strength * none).argmax(-1))
            total = total + quantizer.added(codes[-1], scale)
            if scale + 1 < len(self.sides):
                after = start + self.sides[scale + 1] ** 2
                x = self.word_embed(quantizer.at(total, scale + 1)).repeat(2, 1, 1) + places[:, start:after]
        self._keep(False)
        return codes, total

    def _keep(self, keeps: bool) -> None:
        for block in self.blocks:
            block.attn.keeps, block.attn.past = keeps, None
