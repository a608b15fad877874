"""Autoencoders of ``diffusers``: ``AutoencoderKL`` (Stable Diffusion, arXiv 2112.10752) and ``VQModel`` (LDM, VQGAN, 2012.09841)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from jielong.autoencoders.resnet import Resnet
from jielong.core.json import JSON
from jielong.core.medium import Medium
from jielong.interop.config_keys import Key, NoEffect, Only, Read, Values, checked, number, whole
from jielong.interop.diffusers_folders import one
from jielong.interop.files import Source
from jielong.interop.key_map import KeyMap, Row, Transform, Weights, given
from jielong.interop.released import Imported
from jielong.media.kinds.image import image_medium
from jielong.quantizers.vector import Vector
from jielong.tokenizers.base import TokenizerSettings
from jielong.tokenizers.kl import KL
from jielong.tokenizers.vq import VQ
from jielong.training.checkpoint import CheckpointError

DOWN, UP, ATTENTION = "DownEncoderBlock2D", "UpDecoderBlock2D", "Attn"
_SIZE = Read(32, lambda value: _sides(value) is not None, "one side in pixels, or two")
_NETWORK: Mapping[str, Key] = {
    "in_channels": whole(3),
    "out_channels": whole(3),
    "down_block_types": Read((DOWN,), lambda value: _attends(value, DOWN, -1) is not None, f"{DOWN}, and Attn{DOWN} at most at the end"),
    "up_block_types": Read((UP,), lambda value: _attends(value, UP, 0) is not None, f"{UP}, and Attn{UP} at most at the start"),
    "block_out_channels": Read((64,), lambda value: isinstance(value, tuple) and bool(value), "a list of widths"),
    "layers_per_block": whole(1),
    "act_fn": Only(("silu", "swish"), "the only activation function"),
    "norm_num_groups": whole(32),
    "mid_block_add_attention": Only((True,), "the middle has attention"),
    "sample_size": _SIZE,
    "force_upcast": NoEffect("it is of half precision; weights are float32 here"),
}
_VECTOR = Read(
    None, lambda value: value is None or (isinstance(value, tuple) and all(isinstance(each, int | float) for each in value)), "numbers"
)
KEYS_KL: Mapping[str, Key] = {
    **_NETWORK,
    "latent_channels": whole(4),
    "scaling_factor": number(0.18215),
    "shift_factor": Read(None, lambda value: value is None or isinstance(value, int | float), "a number"),
    "latents_mean": _VECTOR,
    "latents_std": _VECTOR,
    "use_quant_conv": Read(True, lambda value: isinstance(value, bool), "true or false"),
    "use_post_quant_conv": Read(True, lambda value: isinstance(value, bool), "true or false"),
}
KEYS_VQ: Mapping[str, Key] = {
    **_NETWORK,
    "latent_channels": whole(3),
    "num_vq_embeddings": whole(256),
    "vq_embed_dim": Read(None, lambda value: value is None or isinstance(value, int), "a whole number"),
    "scaling_factor": NoEffect("it is of diffusion over vectors before the quantizer; codes have no scale"),
    "norm_type": Only(("group",), "the norms of the decoder read no codes"),
    "lookup_from_codebook": Only((False,), "codes are vectors, not rows of a table that are looked up"),
}
_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of attention's maps in folders that early versions wrote."""
_ONES = (..., None, None)


def _maps(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Three linear maps as one convolution of one pixel."""
    joined = torch.cat(list(tensors))
    return [joined[_ONES] if joined.ndim == 2 else joined]


def _unmapped(tensors: Sequence[Tensor]) -> list[Tensor]:
    joined = tensors[0]
    return list((joined.flatten(1) if joined.ndim == 4 else joined).chunk(3))


QKV = Transform("joined queries, keys and values", _maps, _unmapped)
MAP = Transform(
    "linear maps as convolutions",
    lambda tensors: [tensors[0][_ONES] if tensors[0].ndim == 2 else tensors[0]],
    lambda tensors: [tensors[0].flatten(1) if tensors[0].ndim == 4 else tensors[0]],
)


def _sides(value: object) -> tuple[int, int] | None:
    """Rows and columns of ``sample_size``; ``None`` for something else."""
    sides = value if isinstance(value, tuple) else (value, value)
    if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides):
        return None
    rows, columns = sides
    return int(rows), int(columns)


def _attends(value: object, kind: str, coarsest: int) -> bool | None:
    """Whether the coarsest stage has attention; ``None`` for stages of another kind, or attention elsewhere."""
    if not isinstance(value, tuple) or not value:
        return None
    with_attention = f"{ATTENTION}{kind}"
    others = [each for index, each in enumerate(value) if index != coarsest % len(value)]
    if any(each != kind for each in others) or value[coarsest] not in (kind, with_attention):
        return None
    return bool(value[coarsest] == with_attention)


def read_kl(paths: Sequence[Path]) -> Imported:
    """An ``AutoencoderKL`` from its folder, or a pipeline's.

    Raises:
        CheckpointError: if there is none, or its configuration has no counterpart.
    """
    return kl(one(paths, "AutoencoderKL"))


def read_vq(paths: Sequence[Path]) -> Imported:
    """A ``VQModel``; see :func:`read_kl`."""
    return vq(one(paths, "VQModel"))


def kl(source: Source, patch: int = 1) -> Imported:
    """An ``AutoencoderKL`` as the tokenizer ``kl``; a token is a square of ``patch x patch`` latents."""
    values = checked(source.config, KEYS_KL, f"{source.path}/config.json")
    if values["use_quant_conv"] != values["use_post_quant_conv"]:
        raise CheckpointError(f"{source.path}: use_quant_conv and use_post_quant_conv differ, and here both or neither are there")
    network, media, dim = _network(values, source, bool(values["use_quant_conv"])), _media(values), values.integer("latent_channels")
    shift, scale = _standard(values, dim, source)
    settings = KL(autoencoder=network, dim=dim, patch=patch)
    rows = [*rows_of(network), *standard_rows(shift, scale)]
    return Imported(_recipe(settings), media, modern(source.weights), KeyMap(rows), notes=source.notes)


def _recipe(settings: TokenizerSettings) -> JSON:
    """One that the autoencoder would be trained further by: losses of the release are not known to its weights."""
    return {"data": {"set": "faces"}, "tokenizer": settings, "losses": {"regression": {"kind": "l1"}}}


def vq(source: Source) -> Imported:
    """A ``VQModel`` as the tokenizer ``vq``."""
    values = checked(source.config, KEYS_VQ, f"{source.path}/config.json")
    width, media = values.integer("latent_channels"), _media(values)
    dim = width if values["vq_embed_dim"] is None else values.integer("vq_embed_dim")
    network = _network(values, source, True, None if dim == width else width)
    codes = Vector(codebook_size=values.integer("num_vq_embeddings"), codebook="gradient", kmeans_iterations=0)
    settings = VQ(autoencoder=network, dim=dim, quantizer=codes)
    return Imported(_recipe(settings), media, modern(source.weights), KeyMap(vq_rows(network, codes, dim)), notes=source.notes)


def modern(weights: Weights) -> dict[str, Tensor]:
    """Weights under the names of today's ``diffusers``, with attention's maps as matrices."""
    found = {}
    for name, tensor in weights.items():
        if ".attentions." in name:
            stem, _, kind = name.rpartition(".")
            module, _, last = stem.rpartition(".")
            name = f"{module}.{_OLD.get(last, last)}.{kind}"
            tensor = tensor.flatten(1) if tensor.ndim == 4 else tensor
        found[name] = tensor
    return found


def standard_rows(shift: Tensor, scale: Tensor) -> list[Row]:
    """Rows of shift and scale of tokens, which their configuration has."""
    return [Row((), "shift", given(shift)), Row((), "scale", given(scale))]


def vq_rows(network: Resnet, codes: Vector, dim: int) -> list[Row]:
    """Rows of a tokenizer ``vq``; what its quantizer counts in training begins anew."""
    fresh = {name: tensor for name, tensor in codes.build(dim).state_dict().items() if name != "codebook"}
    counted = [Row((), f"quantizer.{name}", given(tensor)) for name, tensor in fresh.items()]
    return [*rows_of(network), Row("quantize.embedding.weight", "quantizer.codebook"), *counted]


def rows_of(network: Resnet) -> list[Row]:
    """Rows of encoder and decoder: their stages, and ours in one list of layers."""
    last, blocks = len(network.channels) - 1, network.blocks
    encoder, decoder = ["conv_in"], ["conv_in"]
    middle = ["mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"]
    decoder += middle
    for stage in range(last + 1):
        encoder += _stage(f"down_blocks.{stage}", blocks, network.attention and stage == last)
        encoder += [f"down_blocks.{stage}.downsamplers.0"] * (stage < last)
        attention = network.attention if network.decoder_attention is None else network.decoder_attention
        decoder += _stage(f"up_blocks.{stage}", blocks + 1, attention and stage == 0)
        decoder += [f"up_blocks.{stage}.upsamplers.0"] * (stage < last)
    rows = []
    for half, layers, projection in (("encoder", encoder + middle, "quant_conv"), ("decoder", decoder, "post_quant_conv")):
        for index, theirs in enumerate(layers):
            rows += _layer(f"{half}.{theirs}", f"{half}.layers.{index}")
        rows += [
            Row(f"{half}.conv_norm_out.{{kind:weight|bias}}", f"{half}.norm.{{kind:weight|bias}}"),
            Row(f"{half}.conv_out.{{kind:weight|bias}}", f"{half}.out.{{kind:weight|bias}}"),
            Row(f"{projection}.{{kind:weight|bias}}", f"{half}.projection.{{kind:weight|bias}}"),
        ]
    return rows


def _stage(name: str, blocks: int, attention: bool) -> list[str]:
    kinds = ["resnets", "attentions"] if attention else ["resnets"]
    return [f"{name}.{kind}.{block}" for block in range(blocks) for kind in kinds]


def _layer(theirs: str, ours: str) -> list[Row]:
    """Rows of one layer, by what it is."""
    kind = "{kind:weight|bias}"
    if ".attentions." in theirs:
        maps = tuple(f"{theirs}.to_{part}.{kind}" for part in "qkv")
        out = Row(f"{theirs}.to_out.0.{kind}", f"{ours}.out.{kind}", MAP)
        return [Row(f"{theirs}.group_norm.{kind}", f"{ours}.norm.{kind}"), Row(maps, f"{ours}.qkv.{kind}", QKV), out]
    if ".resnets." in theirs:
        inside = "{part:norm1|conv1|norm2|conv2}"
        return [Row(f"{theirs}.{inside}.{kind}", f"{ours}.{inside}.{kind}"), Row(f"{theirs}.conv_shortcut.{kind}", f"{ours}.skip.{kind}")]
    conv = f"conv.{kind}" if "samplers" in theirs else kind
    return [Row(f"{theirs}.{conv}", f"{ours}.{conv}")]


def _network(values: Values, source: Source, projections: bool, z_channels: int | None = None) -> Resnet:
    channels = values["block_out_channels"]
    if values["in_channels"] != values["out_channels"]:
        raise CheckpointError(
            f"{source.path}: in_channels {values['in_channels']} and out_channels {values['out_channels']} differ, and here what is "
            "decoded has the channels of what is encoded"
        )
    for key in ("down_block_types", "up_block_types"):
        if len(values.entries(key)) != len(values.entries("block_out_channels")):
            raise CheckpointError(f"{source.path}: {key} and block_out_channels are of different numbers of stages")
    down, up = _attends(values["down_block_types"], DOWN, -1), _attends(values["up_block_types"], UP, 0)
    settings: dict[str, object] = {"channels": channels, "blocks": values["layers_per_block"], "groups": values["norm_num_groups"]}
    settings |= {"attention": down, "projections": projections, "z_channels": z_channels}
    return Resnet.model_validate(settings | ({} if down == up else {"decoder_attention": up}))


def _media(values: Values) -> Medium:
    sides = _sides(values["sample_size"])
    assert sides is not None  # checked with the key
    return image_medium(values.integer("in_channels"), sides)


def _standard(values: Values, dim: int, source: Source) -> tuple[Tensor, Tensor]:
    """Shift and scale of our tokens, ``(latent - mean) scaling_factor / std``, or ``(latent - shift_factor) scaling_factor``."""
    mean, std, shift = values["latents_mean"], values["latents_std"], values["shift_factor"]
    if shift and mean is not None:
        raise CheckpointError(f"{source.path}: shift_factor and latents_mean are both set, and pipelines read one of them")
    for name, vector in (("latents_mean", mean), ("latents_std", std)):
        if vector is not None and len(values.entries(name)) != dim:
            raise CheckpointError(f"{source.path}: {name} has {len(values.entries(name))} numbers, and latents have {dim} channels")
    centre = torch.full((dim,), values.real("shift_factor") if shift else 0.0)
    centre = centre if mean is None else torch.tensor(values.reals("latents_mean"))
    scale = torch.full((dim,), values.real("scaling_factor"))
    return centre, scale if std is None else scale / torch.tensor(values.reals("latents_std"))


def at_size(tokenizer: Imported, latents: int, channels: int, origin: str) -> Imported:
    """An autoencoder for pictures of ``latents x latents`` latents, of which a network draws ``channels``.

    Raises:
        CheckpointError: if its latents have other channels.
    """
    settings = tokenizer.recipe["tokenizer"]
    assert isinstance(settings, KL)
    if settings.dim != channels:
        raise CheckpointError(f"{origin} draws latents of {channels} channels, and the autoencoder's have {settings.dim}: give its own")
    side = latents * settings.autoencoder.reduction[0]
    return replace(tokenizer, media=image_medium(tokenizer.media.channels, (side, side)))
