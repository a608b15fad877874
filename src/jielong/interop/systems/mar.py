"""MAR (arXiv 2406.11838): its autoencoder KL-16, and the models B, L and H over its latents.

The authors' files hold the weights of the last step (``model``) and their averages (``model_ema``), of which the published figures are;
widely copied safetensors hold the former and do not say so. Sizes are read from the shapes of weights; what no shape tells is the width of
a head of attention, 64 but for H.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from jielong.core.json import JSON
from jielong.interop.files import Source, parts, read
from jielong.interop.key_map import Dropped, KeyMap, Row, Transform, given, numbers, squeezed
from jielong.interop.released import Imported, numbered
from jielong.interop.resnet_names import KIND, network_of, rows_of
from jielong.media.kinds.image import image_medium
from jielong.tokenizers.kl import KL
from jielong.training.checkpoint import CheckpointError

SCALE = 0.2325
"""What multiplies latents of KL-16, so that their deviation is near 1."""
SIDE = 256
"""Pixels of a side that the autoencoder alone is imported for; its networks take any number."""
HEADS = {1280: 16}
"""Heads of the models whose heads are not of 64 channels, by width."""
GUIDANCE = {768: 2.9, 1024: 3.0, 1280: 3.2}
"""Scales of guidance of the paper's figures, by width."""
AUTOENCODER, MODEL = "quant_conv.weight", "mask_token"
_AVERAGES = "model_ema"


def read_autoencoder(paths: Sequence[Path]) -> Imported:
    """KL-16 from its file.

    Raises:
        CheckpointError: if it is another file.
    """
    return _autoencoder(parts([read(path) for path in paths], autoencoder=AUTOENCODER)["autoencoder"])


def read_model(paths: Sequence[Path]) -> Imported:
    """A model with its autoencoder, from a file each.

    Raises:
        CheckpointError: if one is missing or another file.
    """
    found = parts([read(path) for path in paths], autoencoder=AUTOENCODER, model=MODEL)
    return _model(found["model"], found["autoencoder"])


def _autoencoder(source: Source, side: int = SIDE) -> Imported:
    network, dim = network_of(source.weights), source.weights["post_quant_conv.weight"].shape[0]
    constants = (("shift", torch.zeros(dim)), ("scale", torch.full((dim,), SCALE)))
    keys = KeyMap(
        [*rows_of(network), *(Row((), name, given(value)) for name, value in constants)],
        (Dropped("loss.{rest:.+}", "networks of the losses that it was trained by"),),
    )
    recipe: JSON = {
        "data": {"set": "imagenet"},
        "tokenizer": KL(autoencoder=network, dim=dim),
        "losses": {"regression": {"kind": "l1"}},
    }
    return Imported(recipe, image_medium(3, (side, side)), source.weights, keys, notes=source.notes)


def _model(source: Source, autoencoder: Source) -> Imported:
    weights = source.weights
    tokens, width = weights["diffusion_pos_embed_learned"].shape[1:]
    channels, dim = weights["z_proj.weight"].shape[1], autoencoder.weights["post_quant_conv.weight"].shape[0]
    heads, grid = HEADS.get(width, width // 64), math.isqrt(tokens)
    if not heads or width % heads or grid**2 != tokens:
        raise CheckpointError(f"{source.path}: MAR has no model {width} wide of {tokens} tokens whose heads and grid are known")
    if channels != dim:
        raise CheckpointError(
            f"{source.path} has tokens of {channels} numbers, and {autoencoder.path} latents of {dim}: give the autoencoder that it was "
            "trained with"
        )
    units = _autoencoder(autoencoder, grid * 2 ** (numbers(autoencoder.weights, "encoder.down.{i}.block.0.norm1.weight") - 1))
    buffer = weights["encoder_pos_embed_learned"].shape[1] - tokens
    scale = GUIDANCE.get(width)
    recipe: JSON = {
        "data": {"set": "imagenet"},
        "condition": {"class": {"width": width, "cfg_dropout": 0.1}},
        "order": {"masked": {"schedule": "cosine", "steps": tokens, "choose": "random", "ratio": {"kind": "truncated_normal"}}},
        "backbone": {"mar": _backbone(source, width, heads, buffer)},
        "head": {"diffusion": _head(source)},
        "sampling": {"guidance": 1.0 if scale is None else {"scale": scale, "kind": "linear", "counted": "after"}},
    }
    notes = [_which(source), *source.notes]
    notes += [] if scale else [f"the paper states no scale of guidance for a model {width} wide: set sampling.guidance"]
    classes = numbered(len(weights["class_emb.weight"]))
    return Imported(recipe, units.media, weights, _keys(buffer, len(_blocks(source))), classes, {"tokenizer": units}, tuple(notes))


def _which(source: Source) -> str:
    """Of which weights the file's are."""
    name = source.path.name
    if source.under == _AVERAGES:
        return f"{name}: these are the averages (EMA), of which the published figures are"
    if source.under:
        return (
            f"{name}: there are no averages (EMA) in it; these are the weights of the last step, and the published figures are of averages"
        )
    return (
        f"{name}: it does not say which weights it holds; copies as safetensors hold those of the last step, and the published figures are "
        f"of averages (EMA), which the authors' .pth has under {_AVERAGES!r}"
    )


def _backbone(source: Source, width: int, heads: int, buffer: int) -> JSON:
    weights = source.weights
    return {
        "encoder_layers": numbers(weights, "encoder_blocks.{i}.norm1.weight"),
        "decoder_layers": numbers(weights, "decoder_blocks.{i}.norm1.weight"),
        "width": width,
        "heads": heads,
        "hidden": weights["encoder_blocks.0.mlp.fc1.weight"].shape[0],
        "buffer": buffer,
        "activation": "gelu_erf",
        "dropout": 0.1,
        "rotary": False,
        "positions": "slots",
        "mask_positions": False,
        "condition": "pooled",
    }


def _blocks(source: Source) -> range:
    return range(numbers(source.weights, "diffloss.net.res_blocks.{i}.in_ln.weight"))


def _head(source: Source) -> JSON:
    width = source.weights["diffloss.net.input_proj.weight"].shape[0]
    return {"network": {"mlp": {"layers": len(_blocks(source)), "width": width}}, "steps": 100, "start": None, "clamp_variance": False}


def _keys(buffer: int, blocks: int) -> KeyMap:
    halves, net = "{half:encoder|decoder}", "diffloss.net"
    block = f"{halves}_blocks.{{i}}"
    layer = f"backbone.{halves}.blocks.{{i}}"
    places, final = _places(buffer), f"{net}.final_layer"
    modulations = tuple(f"{part}.adaLN_modulation.1.{KIND}" for part in (*(f"{net}.res_blocks.{i}" for i in range(blocks)), final))
    rows = (
        Row("class_emb.weight", "condition.table.weight"),
        Row("fake_latent", "condition.null", squeezed(0)),
        Row("z_proj.{kind:weight|bias}", "embedding.{kind}"),
        Row("z_proj_ln.{kind:weight|bias}", "backbone.enter.{kind}"),
        Row("mask_token", "placeholder", squeezed(0, 1)),
        Row("encoder_pos_embed_learned", ("backbone.buffer_places", "position_embeddings.slots.weight"), places),
        Row("decoder_pos_embed_learned", ("backbone.decoder_buffer_places", "backbone.decoder_places.slots.weight"), places),
        Row("diffusion_pos_embed_learned", "backbone.head_places.slots.weight", squeezed(0)),
        Row(f"{halves}_norm.{KIND}", f"backbone.{halves}.norm.{KIND}"),
        Row(f"decoder_embed.{KIND}", f"backbone.between.{KIND}"),
        Row(f"{block}.norm1.{KIND}", f"{layer}.attention_norm.{KIND}"),
        Row(f"{block}.attn.qkv.{KIND}", f"{layer}.attention.qkv.{KIND}"),
        Row(f"{block}.attn.proj.{KIND}", f"{layer}.attention.out.{KIND}"),
        Row(f"{block}.norm2.{KIND}", f"{layer}.forward_norm.{KIND}"),
        Row(f"{block}.mlp.fc1.{KIND}", f"{layer}.feed_forward.up.{KIND}"),
        Row(f"{block}.mlp.fc2.{KIND}", f"{layer}.feed_forward.down.{KIND}"),
        Row(f"{net}.time_embed.mlp.{{i}}.{KIND}", f"head.network.of_times.{{i}}.{KIND}"),
        Row(f"{net}.cond_embed.{KIND}", f"head.network.of_hidden.{KIND}"),
        Row(f"{net}.input_proj.{KIND}", f"head.network.input.{KIND}"),
        Row(f"{net}.res_blocks.{{i}}.in_ln.{KIND}", f"head.network.norms.{{i}}.{KIND}"),
        Row(f"{net}.res_blocks.{{i}}.mlp.{{j}}.{KIND}", f"head.network.blocks.{{i}}.{{j}}.{KIND}"),
        Row(modulations, f"head.network.modulation.{KIND}", _modulations(blocks)),
        Row(f"{final}.linear.{KIND}", f"head.network.output.{KIND}"),
    )
    return KeyMap(rows)


def _places(buffer: int) -> Transform:
    """Positions of the buffer, then of the tokens."""
    return Transform(
        "split into positions of the buffer and of the tokens",
        lambda tensors: tensors[0][0].split([buffer, tensors[0].shape[1] - buffer]),
        lambda tensors: [torch.cat(list(tensors))[None]],
    )


def _modulations(blocks: int) -> Transform:
    """Shift, scale and gate of every block, then shift and scale of the last norm."""
    shares = [3] * blocks + [2]
    return Transform(
        "joined",
        lambda tensors: [torch.cat(list(tensors))],
        lambda tensors: tensors[0].split([len(tensors[0]) // sum(shares) * share for share in shares]),
    )
