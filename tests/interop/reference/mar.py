"""MAR (arXiv 2406.11838) with the names and shapes of its released weights: a second implementation, for tests alone.

Everything is written out for one picture size: the encoder-decoder on tokens with a mask, the diffusion head with its respaced ancestral
sampler, and the KL autoencoder. ``mask`` is 1 where a token is unknown, as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TRAINED = 1000
"""Steps of diffusion in training."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model; those of MAR-B by default."""

    width: int = 768
    depth: int = 12  # blocks of the encoder, and of the decoder
    heads: int = 12
    tokens: int = 256
    channels: int = 16
    buffer: int = 64
    classes: int = 1000
    head_width: int = 1024
    head_depth: int = 6


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        query, key, value = (each.reshape(batch, count, self.heads, -1).transpose(1, 2) for each in (query, key, value))
        weights = (query @ key.transpose(2, 3) / math.sqrt(width // self.heads)).softmax(-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(batch, count, width))


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads), Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TimestepEmbedder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, steps: Tensor) -> Tensor:
        rates = 10_000.0 ** (-torch.arange(128) / 128)
        angles = steps[:, None].float() * rates
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1))


class ResBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        shift, scale, gate = self.adaLN_modulation(y).chunk(3, dim=1)
        return x + gate * self.mlp(self.in_ln(x) * (1 + scale) + shift)


class FinalLayer(nn.Module):
    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(y).chunk(2, dim=1)
        return self.linear(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)


class HeadNet(nn.Module):
    """Noisy tokens ``(M, C)``, training steps ``(M,)`` and ``z (M, D)`` to noise and variance ``(M, 2 C)``."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.head_width
        self.time_embed = TimestepEmbedder(width)
        self.cond_embed = nn.Linear(sizes.width, width)
        self.input_proj = nn.Linear(sizes.channels, width)
        self.res_blocks = nn.ModuleList(ResBlock(width) for _ in range(sizes.head_depth))
        self.final_layer = FinalLayer(width, 2 * sizes.channels)

    def forward(self, x: Tensor, steps: Tensor, z: Tensor) -> Tensor:
        y = self.time_embed(steps) + self.cond_embed(z)
        x = self.input_proj(x)
        for block in self.res_blocks:
            x = block(x, y)
        return self.final_layer(x, y)


class DiffLoss(nn.Module):
    """The head; only its sampler is here."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.channels = sizes.channels
        self.net = HeadNet(sizes)

    def sample(self, z: Tensor, start: Tensor, noise: Callable[[], Tensor], steps: int, temperature: float, scale: float = 1.0) -> Tensor:
        """Tokens ``(M, C)`` in ``steps`` ancestral steps.

        With a ``scale`` other than 1, ``z`` is ``(2 M, D)``: conditional rows, then null ones. ``start`` is standard normal ``(M, C)``, and
        ``noise`` draws as much for each step but the last.
        """
        kept, taken = respaced(steps)
        before = [1.0, *kept[:-1]]
        betas = [1 - now / then for now, then in zip(kept, before, strict=True)]
        variances = [beta * (1 - then) / (1 - now) for beta, now, then in zip(betas, kept, before, strict=True)]
        x = start
        for k in reversed(range(len(kept))):
            rows = torch.cat([x, x]) if scale != 1.0 else x
            epsilon, share = self.net(rows, torch.full((len(rows),), taken[k]), z).chunk(2, dim=1)
            if scale != 1.0:
                own, null = epsilon.chunk(2)
                epsilon, share = null + scale * (own - null), share.chunk(2)[0]
            data = math.sqrt(1 / kept[k]) * x - math.sqrt(1 / kept[k] - 1) * epsilon
            mean = math.sqrt(before[k]) * betas[k] / (1 - kept[k]) * data + math.sqrt(1 - betas[k]) * (1 - before[k]) / (1 - kept[k]) * x
            if k == 0:
                return mean
            least, most, part = math.log(variances[k]), math.log(betas[k]), (share + 1) / 2
            x = mean + temperature * torch.exp((part * most + (1 - part) * least) / 2) * noise()
        return x


def respaced(steps: int) -> tuple[list[float], list[int]]:
    """``abar`` of ``steps`` evenly spaced training steps of the cosine schedule, rising in noise, and their numbers."""
    curve = [math.cos((step / TRAINED + 0.008) / 1.008 * math.pi / 2) ** 2 for step in range(TRAINED + 1)]
    product, kept = 1.0, []
    for step in range(TRAINED):
        product *= 1 - min(1 - curve[step + 1] / curve[step], 0.999)
        kept.append(product)
    stride = (TRAINED - 1) / (steps - 1) if steps > 1 else 1.0
    taken = [round(index * stride) for index in range(steps)]
    return [kept[step] for step in taken], taken


class MAR(nn.Module):
    """The encoder-decoder with its head."""

    def __init__(self, sizes: Sizes = Sizes()) -> None:
        super().__init__()
        self.sizes, width = sizes, sizes.width
        self.class_emb = nn.Embedding(sizes.classes, width)
        self.fake_latent = nn.Parameter(torch.zeros(1, width))
        self.z_proj = nn.Linear(sizes.channels, width)
        self.z_proj_ln = nn.LayerNorm(width, eps=1e-6)
        self.encoder_pos_embed_learned = nn.Parameter(torch.zeros(1, sizes.buffer + sizes.tokens, width))
        self.encoder_blocks = nn.ModuleList(Block(width, sizes.heads) for _ in range(sizes.depth))
        self.encoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_embed = nn.Linear(width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_pos_embed_learned = nn.Parameter(torch.zeros(1, sizes.buffer + sizes.tokens, width))
        self.decoder_blocks = nn.ModuleList(Block(width, sizes.heads) for _ in range(sizes.depth))
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.diffusion_pos_embed_learned = nn.Parameter(torch.zeros(1, sizes.tokens, width))
        self.diffloss = DiffLoss(sizes)

    def classes(self, labels: Sequence[int | None]) -> Tensor:
        """Vectors of classes, ``(B, D)``; of the null where it is ``None``."""
        return torch.stack([self.fake_latent[0] if label is None else self.class_emb.weight[label] for label in labels])

    def hidden(self, tokens: Tensor, mask: Tensor, labels: Sequence[int | None]) -> Tensor:
        """``z (B, N, D)`` of tokens ``(B, N, C)``; items that know different numbers go one after the other, so that nothing is padded."""
        mask, given = mask.bool(), self.classes(labels)
        if len(mask.sum(1).unique()) == 1:
            return self._hidden(tokens, mask, given)
        items = (slice(index, index + 1) for index in range(len(tokens)))
        return torch.cat([self._hidden(tokens[item], mask[item], given[item]) for item in items])

    def _hidden(self, tokens: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        batch, buffer = len(tokens), self.sizes.buffer
        x = torch.cat([labels[:, None].expand(-1, buffer, -1), self.z_proj(tokens)], 1) + self.encoder_pos_embed_learned
        seen = torch.cat([torch.ones(batch, buffer, dtype=torch.bool), ~mask], 1)
        x = self.z_proj_ln(x)[seen].view(batch, -1, x.shape[2])
        for block in self.encoder_blocks:
            x = block(x)
        full = self.mask_token.repeat(*seen.shape, 1)
        full[seen] = self.decoder_embed(self.encoder_norm(x)).flatten(0, 1)
        x = full + self.decoder_pos_embed_learned
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_norm(x)[:, buffer:] + self.diffusion_pos_embed_learned


def hidden_counts(tokens: int, steps: int) -> list[int]:
    """How many tokens are unknown after each step, by the code's rule: at least one, also in the last, whose rest is drawn all the same."""
    counts, now = list[int](), tokens
    for step in range(steps):
        now = max(1, min(now - 1, math.floor(tokens * math.cos(math.pi / 2 * (step + 1) / steps))))
        counts.append(now)
    return counts


@torch.no_grad()
def sample(
    model: MAR,
    labels: Sequence[int],
    orders: Tensor,
    draws: Callable[[int, Tensor], tuple[Tensor, Callable[[], Tensor]]],
    steps: int,
    head_steps: int,
    scale: float,
    temperature: float,
) -> Tensor:
    """Tokens ``(B, N, C)`` in ``steps`` steps with linear guidance up to ``scale``.

    Args:
        orders: ``(B, N)`` permutations; tokens at the end come first.
        draws: By step and positions ``(B, k)``: the noise ``(B k, C)`` that the head starts from, and what draws that of its steps.
    """
    batch, count = orders.shape
    tokens, now = torch.zeros(batch, count, model.sizes.channels), count
    mask = torch.ones(batch, count)
    for step, left in enumerate(hidden_counts(count, steps)):
        chosen = orders[:, 0 if step == steps - 1 else left : now]
        z = torch.cat([model.hidden(tokens, mask, labels), model.hidden(tokens, mask, [None] * batch)])
        rows = z.gather(1, chosen.repeat(2, 1)[..., None].expand(-1, -1, z.shape[2])).flatten(0, 1)
        strength = 1 + (scale - 1) * (count - left) / count
        start, noise = draws(step, chosen)
        drawn = model.diffloss.sample(rows, start, noise, head_steps, temperature, strength)
        where = chosen[..., None].expand(-1, -1, tokens.shape[2])
        tokens, mask = tokens.scatter(1, where, drawn.view(batch, -1, tokens.shape[2])), mask.scatter(1, chosen, 0.0)
        now = left
    return tokens


# --- the KL autoencoder ---------------------------------------------------------------------------------------------------------------


class ResnetBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(32, inputs, 1e-6), nn.GroupNorm(32, outputs, 1e-6)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h


class AttnBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, 1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        query, key, value = (part(h).flatten(2) for part in (self.q, self.k, self.v))  # (B, C, h w)
        weights = (torch.einsum("bci,bcj->bij", query, key) / math.sqrt(x.shape[1])).softmax(-1)
        return x + self.proj_out(torch.einsum("bij,bcj->bci", weights, value).reshape(x.shape))


class Down(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3))


class Stage(nn.Module):
    def __init__(self, inputs: int, outputs: int, blocks: int, attention: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(outputs if index else inputs, outputs) for index in range(blocks))
        self.attn = nn.ModuleList(AttnBlock(outputs) for _ in range(blocks if attention else 0))

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[index](x)
        for name in ("downsample", "upsample"):
            x = getattr(self, name)(x) if hasattr(self, name) else x
        return x


class Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = ResnetBlock(channels, channels), AttnBlock(channels), ResnetBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    def __init__(self, channels: Sequence[int], latent: int) -> None:
        super().__init__()
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.down = nn.ModuleList(Stage(channels[max(i - 1, 0)], width, 2, i == last) for i, width in enumerate(channels))
        for stage, width in zip(self.down[:-1], channels, strict=False):
            stage.downsample = Down(width)
        self.mid = Middle(channels[-1])
        self.norm_out = nn.GroupNorm(32, channels[-1], 1e-6)
        self.conv_out = nn.Conv2d(channels[-1], 2 * latent, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for stage in self.down:
            x = stage(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    def __init__(self, channels: Sequence[int], latent: int) -> None:
        super().__init__()
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(latent, channels[-1], 3, padding=1)
        self.mid = Middle(channels[-1])
        self.up = nn.ModuleList(Stage(channels[min(i + 1, last)], width, 3, False) for i, width in enumerate(channels))
        for stage, width in zip(self.up[1:], channels[1:], strict=True):
            stage.upsample = Up(width)
        self.norm_out = nn.GroupNorm(32, channels[0], 1e-6)
        self.conv_out = nn.Conv2d(channels[0], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for stage in reversed(self.up):
            x = stage(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class AutoencoderKL(nn.Module):
    """KL-16: pictures in [-1, 1] to means and log-variances ``(B, 2 C, h, w)``, and latents to pictures."""

    def __init__(self, channels: Sequence[int] = (128, 128, 256, 256, 512), latent: int = 16) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(channels, latent), Decoder(channels, latent)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1), nn.Conv2d(latent, latent, 1)

    def encode(self, x: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(z))
