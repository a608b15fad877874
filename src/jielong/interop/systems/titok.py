"""TiTok's tokenizers of two stages, L-32, B-64 and S-128 (arXiv 2406.07550), with MaskGIT-VQGAN's decoder of pixels.

Theirs read and draw pictures in [0, 1], ours in [-1, 1]: that is folded into the first and the last layer. Sizes are read from the shapes
of weights; heads have 64 channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from jielong.autoencoders.resnet import Resnet
from jielong.core.json import JSON
from jielong.interop.files import Source, read
from jielong.interop.key_map import AS_IS, KeyMap, Row, Transform, Weights, given, numbers, squeezed
from jielong.interop.released import Imported
from jielong.interop.resnet_names import KIND
from jielong.media.kinds.image import image_medium
from jielong.networks.latents import LatentTransformerSize
from jielong.quantizers.vector import Vector
from jielong.tokenizers import titok
from jielong.training.checkpoint import CheckpointError

HEAD = 64
"""Channels of a head."""
_POSITIONS = "positional_embedding"


def read_tokenizer(paths: Sequence[Path]) -> Imported:
    """A tokenizer from its folder, or its file of weights.

    Raises:
        CheckpointError: if it is something else, or a tokenizer of one stage.
    """
    if len(paths) != 1:
        raise CheckpointError(f"a TiTok is one folder or file, but {len(paths)} were given")
    return tokenizer(read(paths[0]))


def tokenizer(source: Source) -> Imported:
    """A tokenizer from its weights."""
    weights = source.weights
    if "encoder.latent_token_positional_embedding" not in weights or "latent_tokens" not in weights:
        raise CheckpointError(f"{source.path} is no tokenizer of TiTok: it has no latent_tokens")
    if "pixel_decoder.conv_in.weight" not in weights:
        raise CheckpointError(
            f"{source.path} has no pixel_decoder: it is a TiTok of the first stage alone, or of one stage, which predicts pixels; those "
            "of two stages are read (L-32, B-64, S-128)"
        )
    patch, (tokens, _) = weights["encoder.patch_embed.weight"].shape[-1], weights["latent_tokens"].shape
    side = patch * math.isqrt(len(weights[f"encoder.{_POSITIONS}"]) - 1)
    size, dim = weights["quantize.embedding.weight"].shape
    codes = Vector(codebook_size=size, codebook="gradient", normalize=True, kmeans_iterations=0, restart_below=0)
    pixels = _pixels(weights)
    settings = titok.TiTok(
        pixels=pixels,
        tokens=tokens,
        finetune_at=0,
        patch=patch,
        dim=dim,
        encoder=_size(weights, "encoder", source),
        decoder=_size(weights, "decoder", source),
        quantizer=codes,
        legacy_reshape=_legacy(source.config),
    )
    counted = {name: tensor for name, tensor in codes.build(dim).state_dict().items() if name != "codebook"}
    rows = [
        *_rows_of_halves(),
        Row("quantize.embedding.weight", "quantizer.codebook"),
        *(Row((), f"quantizer.{name}", given(tensor)) for name, tensor in counted.items()),
        Row("pixel_quantize.embedding.weight", "proxy_codes"),
        *_rows_of_pixels(weights),
    ]
    recipe: JSON = {"data": {"set": "imagenet"}, "tokenizer": settings, "losses": {"regression": {"kind": "l2"}}}
    return Imported(recipe, image_medium(3, (side, side)), weights, KeyMap(rows), notes=source.notes)


def _legacy(config: Mapping[str, object]) -> bool:
    """Whether features of latents are read in the released order, as they are where a configuration does not say otherwise."""
    model = config.get("model")
    settings = model.get("vq_model") if isinstance(model, Mapping) else None
    return bool(settings.get("is_legacy", True)) if isinstance(settings, Mapping) else True


def _size(weights: Weights, half: str, source: Source) -> LatentTransformerSize:
    width, layers = weights[f"{half}.{_POSITIONS}"].shape[1], numbers(weights, f"{half}.transformer.{{i}}.ln_1.weight")
    if width % HEAD:
        raise CheckpointError(f"{source.path}: the {half} is {width} wide, which does not divide into heads of {HEAD} channels")
    return LatentTransformerSize(layers=layers, width=width, heads=width // HEAD, class_token=True, rotary=False, activation="gelu_erf")


def _pixels(weights: Weights) -> titok.PixelDecoder:
    codes, dim = weights["pixel_quantize.embedding.weight"].shape
    stages, blocks = (numbers(weights, f"pixel_decoder.up.{name}.norm1.weight") for name in ("{i}.block.0", "0.block.{i}"))
    channels = tuple(weights[f"pixel_decoder.up.{stage}.block.0.conv2.weight"].shape[0] for stage in range(stages))
    network = Resnet(channels=channels, blocks=blocks, decoder_blocks=blocks, middle_attention=False, projections=False)
    return titok.PixelDecoder(codes=codes, dim=dim, autoencoder=network)


def _rows_of_halves() -> list[Row]:
    half, block = "{half:encoder|decoder}", "{half:encoder|decoder}.body.transformer.blocks.{i}"
    theirs = f"{half}.transformer.{{i}}"
    patches = tuple(f"encoder.patch_embed.{kind}" for kind in ("weight", "bias"))
    latents, classes = "latent_token_positional_embedding", "class_embedding"
    return [
        Row(patches, ("encoder.patches.weight", "encoder.patches.bias"), _FROM_UNIT_RANGE),
        Row(("latent_tokens", *(f"encoder.{name}" for name in (latents, _POSITIONS, classes))), "encoder.body.places", _PLACES),
        Row(tuple(f"decoder.{name}" for name in (latents, "mask_token", _POSITIONS, classes)), "decoder.body.places", _MASKED_PLACES),
        Row(f"{half}.ln_pre.{KIND}", f"{half}.body.norm.{KIND}"),
        Row(f"{half}.ln_post.{KIND}", f"{half}.body.transformer.norm.{KIND}"),
        Row(f"{theirs}.ln_1.{KIND}", f"{block}.attention_norm.{KIND}"),
        Row(f"{theirs}.attn.in_proj_{KIND}", f"{block}.attention.qkv.{KIND}"),
        Row(f"{theirs}.attn.out_proj.{KIND}", f"{block}.attention.out.{KIND}"),
        Row(f"{theirs}.ln_2.{KIND}", f"{block}.forward_norm.{KIND}"),
        Row(f"{theirs}.mlp.c_fc.{KIND}", f"{block}.feed_forward.up.{KIND}"),
        Row(f"{theirs}.mlp.c_proj.{KIND}", f"{block}.feed_forward.down.{KIND}"),
        *_pixelwise("encoder.conv_out", "encoder.out"),
        Row(f"decoder.decoder_embed.{KIND}", f"decoder.enter.{KIND}"),
        *_pixelwise("decoder.ffn.0", "decoder.inside"),
        *_pixelwise("decoder.ffn.2", "decoder.head"),
    ]


def _pixelwise(theirs: str, ours: str) -> list[Row]:
    """A convolution of one pixel as a linear map."""
    return [Row(f"{theirs}.weight", f"{ours}.weight", squeezed(2, 3)), Row(f"{theirs}.bias", f"{ours}.bias")]


def _rows_of_pixels(weights: Weights) -> list[Row]:
    """The decoder of pixels, whose layers are one list of ours; the released order of stages is finest first."""
    stages, blocks = (numbers(weights, f"pixel_decoder.up.{name}.norm1.weight") for name in ("{i}.block.0", "0.block.{i}"))
    layers = ["mid.0", "mid.1"]
    for stage in reversed(range(stages)):
        layers += [f"up.{stage}.block.{block}" for block in range(blocks)] + [f"up.{stage}.upsample_conv"] * (stage > 0)
    rows = [Row(f"pixel_decoder.conv_in.{KIND}", f"pixel_decoder.layers.0.{KIND}")]
    for index, layer in enumerate(layers, start=1):
        theirs, ours = f"pixel_decoder.{layer}", f"pixel_decoder.layers.{index}"
        rows += [Row(f"{theirs}.{KIND}", f"{ours}.conv.{KIND}")] if layer.endswith("_conv") else _block(theirs, ours, weights)
    ends = tuple(f"pixel_decoder.conv_out.{kind}" for kind in ("weight", "bias"))
    last = Row(ends, ("pixel_decoder.out.weight", "pixel_decoder.out.bias"), _TO_FULL_RANGE)
    return [*rows, Row(f"pixel_decoder.norm_out.{KIND}", f"pixel_decoder.norm.{KIND}"), last]


def _block(theirs: str, ours: str, weights: Weights) -> list[Row]:
    """A residual block, whose convolutions have no bias. Where channels change, nothing of the input is added, but a map of the result."""
    mapped = f"{theirs}.nin_shortcut.weight" in weights
    outputs, inputs = weights[f"{theirs}.conv1.weight"].shape[:2] if f"{theirs}.conv1.weight" in weights else (0, 0)
    second = (f"{theirs}.conv2.weight", f"{theirs}.nin_shortcut.weight") if mapped else f"{theirs}.conv2.weight"
    rows = [
        Row(f"{theirs}.{{part:norm1|norm2}}.{KIND}", f"{ours}.{{part:norm1|norm2}}.{KIND}"),
        Row(f"{theirs}.conv1.weight", f"{ours}.conv1.weight"),
        Row(second, f"{ours}.conv2.weight", _FOLDED if mapped else AS_IS),
        *(Row((), f"{ours}.{name}.bias", given(torch.zeros(outputs))) for name in ("conv1", "conv2")),
    ]
    skips = (("weight", torch.zeros(outputs, inputs, 1, 1)), ("bias", torch.zeros(outputs)))
    return rows + [Row((), f"{ours}.skip.{kind}", given(value)) for kind, value in skips if mapped]


_PLACES = Transform(  # of latents, patches and the class token, with which their positions begin
    "positions added to latents and the class token",
    lambda tensors: [torch.cat([tensors[0] + tensors[1], tensors[2][1:], tensors[3] + tensors[2][:1]])],
)
_MASKED_PLACES = Transform(
    "positions added to mask and class tokens",
    lambda tensors: [torch.cat([tensors[0], tensors[1][0] + tensors[2][1:], tensors[3] + tensors[2][:1]])],
)
_FOLDED = Transform(
    "folded with the map that is added to them",
    lambda tensors: [tensors[0] + torch.einsum("oc,cihw->oihw", tensors[1][:, :, 0, 0], tensors[0])],
)
_FROM_UNIT_RANGE = Transform(
    "folded to read pictures in [-1, 1]",
    lambda tensors: [tensors[0] / 2, tensors[1] + tensors[0].sum((1, 2, 3)) / 2],
    lambda tensors: [2 * tensors[0], tensors[1] - tensors[0].sum((1, 2, 3))],
)
_TO_FULL_RANGE = Transform(
    "folded to draw pictures in [-1, 1]",
    lambda tensors: [2 * tensors[0], 2 * tensors[1] - 1],
    lambda tensors: [tensors[0] / 2, (tensors[1] + 1) / 2],
)
