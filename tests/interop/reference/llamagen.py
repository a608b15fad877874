"""LlamaGen's tokenizer and transformer, written from the paper (arXiv 2406.06525) under the names of its released weights.

Weights are a dictionary, and functions read them. Nothing is shared with ``jielong``; each position is computed anew at every step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Mapping[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Sizes:
    """Of the transformer."""

    layers: int
    heads: int
    width: int
    grid: int
    vocabulary: int = 16_384
    classes: int = 1_000
    captions: tuple[int, int] | None = None  # positions and channels of features of a text; None with classes

    @property
    def hidden(self) -> int:
        """Two thirds of four times the width, rounded up to a multiple of 256."""
        return math.ceil(int(8 * self.width / 3) / 256) * 256

    def shapes(self) -> Shapes:
        """Names and shapes of the released weights."""
        width, found = self.width, Shapes()
        if self.captions is None:
            found["cls_embedding.embedding_table.weight"] = (self.classes + 1, width)
        else:
            length, channels = self.captions
            found["cls_embedding.uncond_embedding"] = (length, channels)
            found["cls_embedding.cap_proj.fc1.weight"] = (width, channels)
            found["cls_embedding.cap_proj.fc2.weight"] = (width, width)
        found["tok_embeddings.weight"] = (self.vocabulary, width)
        for layer in range(self.layers):
            at = f"layers.{layer}"
            found[f"{at}.attention.wqkv.weight"] = (3 * width, width)
            found[f"{at}.attention.wo.weight"] = (width, width)
            found[f"{at}.feed_forward.w1.weight"] = found[f"{at}.feed_forward.w3.weight"] = (self.hidden, width)
            found[f"{at}.feed_forward.w2.weight"] = (width, self.hidden)
            found[f"{at}.attention_norm.weight"] = found[f"{at}.ffn_norm.weight"] = (width,)
        found["norm.weight"] = (width,)
        found["output.weight"] = (self.vocabulary, width)
        return found


def drawn(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Random weights that keep the size of what passes through: matrices by their inputs, norms about 1, the rest small."""
    draw, weights = torch.Generator().manual_seed(seed), {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=draw)
        if len(shape) == 1:
            value = 0.2 * value + (1 if "norm" in name and name.endswith("weight") else 0)
        elif "embedding" not in name:
            value = 1.5 * value / math.prod(shape[1:]) ** 0.5
        weights[name] = value
    return weights


# --- the transformer ------------------------------------------------------------------------------------------------------------------


def turns(sizes: Sizes, conditions: int) -> Tensor:
    """Complex factors of the pairs of channels of a head, ``(conditions + grid^2, head / 2)``: zeros at the condition's positions.

    Half of the pairs turn by the row, half by the column, ``base^(-2 i / half)`` a place.
    """
    half = sizes.width // sizes.heads // 2
    speed = 10_000.0 ** (-torch.arange(0, half, 2).float() / half)
    rows, columns = torch.meshgrid(torch.arange(sizes.grid), torch.arange(sizes.grid), indexing="ij")
    angle = torch.cat([rows.flatten()[:, None] * speed, columns.flatten()[:, None] * speed], 1)
    return torch.cat([torch.zeros(conditions, half, dtype=torch.complex64), torch.polar(torch.ones_like(angle), angle)])


def turned(x: Tensor, factors: Tensor) -> Tensor:
    """Neighbouring channels of ``(B, n, heads, head)`` as complex numbers times ``(n, head / 2)``."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * factors[:, None]).flatten(-2)


def rms(x: Tensor, weight: Tensor) -> Tensor:
    """Root-mean-square norm."""
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def begin(weights: Weights, condition: Tensor) -> Tensor:
    """Classes ``(B,)`` or features of captions ``(B, L, channels)`` to the first positions ``(B, L, D)``."""
    if condition.ndim == 1:
        return weights["cls_embedding.embedding_table.weight"][condition][:, None]
    inner = F.gelu(condition @ weights["cls_embedding.cap_proj.fc1.weight"].T, approximate="tanh")
    return inner @ weights["cls_embedding.cap_proj.fc2.weight"].T


def scores(weights: Weights, sizes: Sizes, start: Tensor, codes: Tensor, real: Tensor | None = None) -> Tensor:
    """Logits of the tokens that follow the start ``(B, L, D)`` and codes ``(B, n)``, ``(B, n + 1, V)``; ``real``: states, not padding."""
    x = torch.cat([start, weights["tok_embeddings.weight"][codes]], 1)
    batch, length, width = x.shape
    factors = turns(sizes, start.shape[1])[:length]
    seen = torch.ones(length, length, dtype=torch.bool).tril().expand(batch, -1, -1).clone()
    if real is not None:
        seen[:, :, : real.shape[1]] &= real[:, None]
    seen |= torch.eye(length, dtype=torch.bool)
    for layer in range(sizes.layers):
        at = f"layers.{layer}"
        qkv = rms(x, weights[f"{at}.attention_norm.weight"]) @ weights[f"{at}.attention.wqkv.weight"].T
        q, k, v = (part.view(batch, length, sizes.heads, -1) for part in qkv.split(width, -1))
        products = torch.einsum("bihc,bjhc->bhij", turned(q, factors), turned(k, factors)) / math.sqrt(width // sizes.heads)
        shares = products.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
        mixed = torch.einsum("bhij,bjhc->bihc", shares, v).reshape(batch, length, width)
        x = x + mixed @ weights[f"{at}.attention.wo.weight"].T
        h = rms(x, weights[f"{at}.ffn_norm.weight"])
        gate, value = (h @ weights[f"{at}.feed_forward.{name}.weight"].T for name in ("w1", "w3"))
        x = x + (F.silu(gate) * value) @ weights[f"{at}.feed_forward.w2.weight"].T
    return rms(x, weights["norm.weight"])[:, start.shape[1] - 1 :] @ weights["output.weight"].T


def greedy(weights: Weights, sizes: Sizes, condition: Tensor, scale: float, real: Tensor | None = None, guided: int = -1) -> Tensor:
    """The most likely codes with guidance, ``(B, grid^2)``; of the first ``guided`` tokens after the first one, -1 for all."""
    batch = len(condition)
    if condition.ndim == 1:
        null = torch.full_like(condition, sizes.classes)
    else:
        null = weights["cls_embedding.uncond_embedding"].expand(batch, -1, -1)
    start, real = begin(weights, torch.cat([condition, null])), None if real is None else real.repeat(2, 1)
    codes = torch.zeros(batch, 0, dtype=torch.long)
    for place in range(sizes.grid**2):
        both = scores(weights, sizes, start, codes.repeat(2, 1), real)[:, -1]
        mine, none = both[:batch], both[batch:]
        off = guided >= 0 and place > guided
        codes = torch.cat([codes, (mine if off else none + scale * (mine - none)).argmax(-1, keepdim=True)], 1)
    return codes


# --- the tokenizer --------------------------------------------------------------------------------------------------------------------


def tokenizer_shapes(widths: tuple[int, ...], inner: int = 256, dim: int = 8, codes: int = 16_384, blocks: int = 2) -> Shapes:
    """Names and shapes of the released weights, by the width of each stage, finest first."""
    found, last = Shapes(), widths[-1]

    def conv(name: str, inputs: int, outputs: int, side: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (outputs, inputs, side, side), (outputs,)

    def norm(name: str, channels: int) -> None:
        found[f"{name}.weight"] = found[f"{name}.bias"] = (channels,)

    def residual(name: str, inputs: int, outputs: int) -> None:
        norm(f"{name}.norm1", inputs)
        conv(f"{name}.conv1", inputs, outputs, 3)
        norm(f"{name}.norm2", outputs)
        conv(f"{name}.conv2", outputs, outputs, 3)
        if inputs != outputs:
            conv(f"{name}.nin_shortcut", inputs, outputs, 1)

    def attention(name: str, channels: int) -> None:
        norm(f"{name}.norm", channels)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.{part}", channels, channels, 1)

    def middle(half: str) -> None:
        residual(f"{half}.mid.0", last, last)
        attention(f"{half}.mid.1", last)
        residual(f"{half}.mid.2", last, last)

    def stages(half: str, order: list[int], before: int, number: int, change: str) -> None:
        for index, stage in enumerate(order):
            for block in range(number):
                residual(f"{half}.conv_blocks.{index}.res.{block}", before, widths[stage])
                before = widths[stage]
                if stage == len(widths) - 1:
                    attention(f"{half}.conv_blocks.{index}.attn.{block}", before)
            if index < len(widths) - 1:
                conv(f"{half}.conv_blocks.{index}.{change}.conv", before, before, 3)

    conv("encoder.conv_in", 3, widths[0], 3)
    stages("encoder", list(range(len(widths))), widths[0], blocks, "downsample")
    middle("encoder")
    norm("encoder.norm_out", last)
    conv("encoder.conv_out", last, inner, 3)
    conv("decoder.conv_in", inner, last, 3)
    middle("decoder")
    stages("decoder", list(reversed(range(len(widths)))), last, blocks + 1, "upsample")
    norm("decoder.norm_out", widths[0])
    conv("decoder.conv_out", widths[0], 3, 3)
    found["quantize.embedding.weight"] = (codes, dim)
    found["quantize.codebook_used"] = (65_536,)
    conv("quant_conv", inner, dim, 1)
    conv("post_quant_conv", dim, inner, 1)
    return found


def _conv(weights: Weights, name: str, x: Tensor, **how: int) -> Tensor:
    weight = weights[f"{name}.weight"]
    return F.conv2d(x, weight, weights[f"{name}.bias"], **({"padding": weight.shape[-1] // 2} | how))


def _norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.group_norm(x, 32, weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)


def _residual(weights: Weights, name: str, x: Tensor) -> Tensor:
    h = _conv(weights, f"{name}.conv1", F.silu(_norm(weights, f"{name}.norm1", x)))
    h = _conv(weights, f"{name}.conv2", F.silu(_norm(weights, f"{name}.norm2", h)))
    return h + (_conv(weights, f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in weights else x)


def _attention(weights: Weights, name: str, x: Tensor) -> Tensor:
    h = _norm(weights, f"{name}.norm", x)
    q, k, v = (_conv(weights, f"{name}.{part}", h).flatten(2) for part in "qkv")  # (B, C, HW) each
    shares = (torch.einsum("bci,bcj->bij", q, k) / math.sqrt(x.shape[1])).softmax(-1)
    return x + _conv(weights, f"{name}.proj_out", torch.einsum("bij,bcj->bci", shares, v).view_as(x))


def _middle(weights: Weights, half: str, x: Tensor) -> Tensor:
    x = _attention(weights, f"{half}.mid.1", _residual(weights, f"{half}.mid.0", x))
    return _residual(weights, f"{half}.mid.2", x)


def _stages(weights: Weights, half: str, x: Tensor) -> Tensor:
    for stage in count():
        at = f"{half}.conv_blocks.{stage}"
        if f"{at}.res.0.conv1.weight" not in weights:
            return x
        for block in count():
            if f"{at}.res.{block}.conv1.weight" not in weights:
                break
            x = _residual(weights, f"{at}.res.{block}", x)
            if f"{at}.attn.{block}.q.weight" in weights:
                x = _attention(weights, f"{at}.attn.{block}", x)
        if f"{at}.downsample.conv.weight" in weights:
            x = _conv(weights, f"{at}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2, padding=0)
        if f"{at}.upsample.conv.weight" in weights:
            x = _conv(weights, f"{at}.upsample.conv", x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    raise AssertionError


def features(weights: Weights, picture: Tensor) -> Tensor:
    """Pictures ``(B, 3, H, W)`` in [-1, 1] to the vectors that are quantized, ``(B, h, w, dim)``."""
    x = _middle(weights, "encoder", _stages(weights, "encoder", _conv(weights, "encoder.conv_in", picture)))
    x = _conv(weights, "encoder.conv_out", F.silu(_norm(weights, "encoder.norm_out", x)))
    return _conv(weights, "quant_conv", x).movedim(1, -1)


def codebook(weights: Weights) -> Tensor:
    """The codes on the unit sphere, ``(V, dim)``."""
    table = weights["quantize.embedding.weight"]
    return table / table.norm(dim=-1, keepdim=True)


def encode(weights: Weights, picture: Tensor) -> Tensor:
    """Pictures to the code of the nearest direction of each vector, ``(B, h w)``."""
    return (features(weights, picture).flatten(1, 2) @ codebook(weights).T).argmax(-1)


def decode(weights: Weights, codes: Tensor) -> Tensor:
    """Codes ``(B, h w)`` of a square to pictures."""
    side = math.isqrt(codes.shape[1])
    vectors = codebook(weights)[codes].unflatten(1, (side, side)).movedim(-1, 1)
    x = _conv(weights, "decoder.conv_in", _conv(weights, "post_quant_conv", vectors))
    x = _stages(weights, "decoder", _middle(weights, "decoder", x))
    return _conv(weights, "decoder.conv_out", F.silu(_norm(weights, "decoder.norm_out", x)))
