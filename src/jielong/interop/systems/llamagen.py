"""LlamaGen (arXiv 2406.06525): its tokenizers VQ-16 and VQ-8, and its transformers over their codes, given a class or a text.

Sizes are read from the shapes of weights. Two things that no shape tells are the width of a head (64 but for the widest models) and the
size of pictures, which released files have in their names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from jielong.autoencoders.resnet import Resnet
from jielong.core.json import JSON
from jielong.interop.files import CONFIG, Source, check_codes, parts, read, read_json
from jielong.interop.key_map import Dropped, KeyMap, Row, Transform, given, joined, numbers
from jielong.interop.released import CLASSES_AND_NULL, Imported, numbered
from jielong.media.kinds.image import image_medium
from jielong.quantizers.vector import Vector
from jielong.tokenizers.vq import VQ
from jielong.training.checkpoint import CheckpointError

CODEBOOK, TOKENS = "quantize.embedding.weight", "tok_embeddings.weight"
CLASSES = "cls_embedding.embedding_table.weight"
SIDE = 256
"""Pixels of a side that a tokenizer alone is imported for; its networks take any number."""
HEADS = {3200: 32, 4096: 32}
"""Heads of the models whose heads are not of 64 channels, by width."""
SCALES = {768: 2.0, 1024: 2.0, 1280: 1.75, 1536: 1.75, 3200: 1.65}
"""Scales of guidance of the paper's figures, by width."""
KIND = "{kind:weight|bias}"


def read_tokenizer(paths: Sequence[Path]) -> Imported:
    """A tokenizer from its file.

    Raises:
        CheckpointError: if it is another file.
    """
    return _tokenizer(parts([read(path) for path in paths], tokenizer=CODEBOOK)["tokenizer"])


def read_generator(paths: Sequence[Path]) -> Imported:
    """A transformer with its tokenizer, from a file each; one of texts also with the folder of its text encoder, Flan-T5 XL.

    Raises:
        CheckpointError: if one is missing or another file.
    """
    folders = [path for path in paths if path.is_dir()]
    found = parts([read(path) for path in paths if path not in folders], tokenizer=CODEBOOK, transformer=TOKENS)
    return _generator(found["transformer"], found["tokenizer"], folders)


def _tokenizer(source: Source, side: int = SIDE) -> Imported:
    weights = source.weights
    if "encoder.conv_blocks.0.res.0.conv1.weight" not in weights or "quant_conv.weight" not in weights:
        raise CheckpointError(f"{source.path} has codes but not the encoder of LlamaGen's tokenizer")
    stages, blocks = (
        numbers(weights, "encoder.conv_blocks.{i}.res.0.norm1.weight"),
        numbers(weights, "encoder.conv_blocks.0.res.{i}.norm1.weight"),
    )
    channels = [weights[f"encoder.conv_blocks.{stage}.res.0.conv1.weight"].shape[0] for stage in range(stages)]
    size, dim = weights[CODEBOOK].shape
    attention = f"encoder.conv_blocks.{stages - 1}.attn.0.norm.weight" in weights
    z_channels = weights["post_quant_conv.weight"].shape[0]
    network = Resnet(channels=tuple(channels), blocks=blocks, attention=attention, z_channels=z_channels)
    codes = Vector(codebook_size=size, codebook="gradient", normalize=True, kmeans_iterations=0, restart_below=0)
    counted = {name: tensor for name, tensor in codes.build(dim).state_dict().items() if name != "codebook"}
    rows = [
        *_rows_of("encoder", stages, blocks, attention),
        *_rows_of("decoder", stages, blocks + 1, attention),
        Row(CODEBOOK, "quantizer.codebook"),
        *(Row((), f"quantizer.{name}", given(tensor)) for name, tensor in counted.items()),
    ]
    recipe: JSON = {
        "data": {"set": "imagenet"},
        "tokenizer": VQ(autoencoder=network, dim=dim, quantizer=codes),
        "losses": {"regression": {"kind": "l2"}},
    }
    dropped = (Dropped("quantize.codebook_used", "codes of the last training steps, which its usage was counted from"),)
    return Imported(recipe, image_medium(3, (side, side)), weights, KeyMap(rows, dropped), notes=source.notes)


def _rows_of(half: str, stages: int, blocks: int, attention: bool) -> list[Row]:
    """Rows of the encoder or the decoder, whose layers are one list of ours; the first stage of a decoder is the coarsest."""
    encoder = half == "encoder"
    middle, layers = ["mid.0", "mid.1", "mid.2"], ["conv_in"]
    layers += [] if encoder else middle
    for stage in range(stages):
        attends = attention and stage == (stages - 1 if encoder else 0)
        layers += [f"conv_blocks.{stage}.{kind}.{block}" for block in range(blocks) for kind in (("res", "attn") if attends else ("res",))]
        layers += [f"conv_blocks.{stage}.{'downsample' if encoder else 'upsample'}"] * (stage < stages - 1)
    layers += middle if encoder else []
    rows = [row for index, layer in enumerate(layers) for row in _layer(f"{half}.{layer}", f"{half}.layers.{index}")]
    projection = "quant_conv" if encoder else "post_quant_conv"
    ends = (f"{half}.norm_out", f"{half}.norm"), (f"{half}.conv_out", f"{half}.out"), (projection, f"{half}.projection")
    return rows + [Row(f"{theirs}.{KIND}", f"{ours}.{KIND}") for theirs, ours in ends]


def _layer(theirs: str, ours: str) -> list[Row]:
    if ".attn." in theirs or theirs.endswith("mid.1"):
        maps = tuple(f"{theirs}.{part}.{KIND}" for part in "qkv")
        out = Row(f"{theirs}.proj_out.{KIND}", f"{ours}.out.{KIND}")
        return [Row(f"{theirs}.norm.{KIND}", f"{ours}.norm.{KIND}"), Row(maps, f"{ours}.qkv.{KIND}", joined(3)), out]
    if ".res." in theirs or ".mid." in theirs:
        inside = "{part:norm1|conv1|norm2|conv2}"
        return [Row(f"{theirs}.{inside}.{KIND}", f"{ours}.{inside}.{KIND}"), Row(f"{theirs}.nin_shortcut.{KIND}", f"{ours}.skip.{KIND}")]
    conv = f"conv.{KIND}" if theirs.endswith("sample") else KIND
    return [Row(f"{theirs}.{conv}", f"{ours}.{conv}")]


def _generator(source: Source, tokenizer: Source, folders: Sequence[Path] = ()) -> Imported:
    weights = source.weights
    given = _given_classes(source, folders) if CLASSES in weights else _given_texts(source, folders)
    side = _side(source.path)
    units = _tokenizer(tokenizer, side)
    width = weights[TOKENS].shape[1]
    heads = HEADS.get(width, width // 64)
    if not heads or width % heads:
        raise CheckpointError(f"{source.path}: LlamaGen has no model {width} wide whose number of heads is known")
    check_codes(source, len(weights[TOKENS]), tokenizer, len(tokenizer.weights[CODEBOOK]))
    transformer = {
        "layers": numbers(weights, "layers.{i}.attention_norm.weight"),
        "width": width,
        "heads": heads,
        "hidden": weights["layers.0.feed_forward.w1.weight"].shape[0],
        "dropout": 0.1,
        "condition": given.path,
        "start": "condition",
        "rotary_at": "token",
        "positions": "none",
    }
    recipe: JSON = {
        "data": {"set": given.data},
        "condition": given.condition,
        "order": "raster",
        "backbone": {"transformer": transformer},
        "head": "softmax",
        "sampling": given.sampling,
    }
    notes = [f"{source.path.name}: pictures of {side} x {side} pixels, by its name", *source.notes]
    keys = KeyMap([*_rows_of_transformer(heads), *given.rows])
    return Imported(recipe, units.media, weights, keys, given.classes, {"tokenizer": units}, (*notes, *given.notes))


@dataclass(frozen=True)
class _Given:
    """What a transformer is conditioned on."""

    condition: JSON
    path: str  # how it enters: backbone.transformer.condition
    rows: tuple[Row, ...]
    sampling: JSON
    data: str
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def _given_classes(source: Source, folders: Sequence[Path]) -> _Given:
    if folders:
        raise CheckpointError(f"{source.path} is conditioned on classes, and no text encoder reads these: leave {folders[0]} out")
    count, width = source.weights[CLASSES].shape
    scale = SCALES.get(width)
    notes = () if scale else (f"the paper states no scale of guidance for a model {width} wide: set sampling.guidance",)
    condition: JSON = {"class": {"width": width, "cfg_dropout": 0.1}}
    rows = (Row(CLASSES, ("condition.table.weight", "condition.null"), CLASSES_AND_NULL),)
    return _Given(condition, "pooled", rows, {"guidance": scale or 1.0}, "imagenet", numbered(count - 1), notes)


def _given_texts(source: Source, folders: Sequence[Path]) -> _Given:
    null = source.weights.get("cls_embedding.uncond_embedding")
    if null is None:
        raise CheckpointError(f"{source.path} has codes but neither classes nor texts of LlamaGen's transformers")
    if len(folders) != 1:
        raise CheckpointError(
            f"{source.path} reads texts through Flan-T5 XL, whose folder (huggingface.co/google/flan-t5-xl) is no part of the release: "
            "name it as well, once"
        )
    encoder, (length, channels) = folders[0].resolve(), null.shape
    states = read_json(encoder / CONFIG).get("d_model")
    if states != channels:
        raise CheckpointError(f"{source.path} reads states of {channels} channels, and those of {encoder} have {states}: give Flan-T5 XL")
    layout = {"length": length, "padding": "left", "causal": True, "null_condition": "table"}
    maps = ("cls_embedding.cap_proj.fc1.weight", "backbone.prefix.0"), ("cls_embedding.cap_proj.fc2.weight", "backbone.prefix.2")
    zeros = torch.zeros(source.weights[TOKENS].shape[1])
    rows = [Row("cls_embedding.uncond_embedding", "condition.null")]
    for theirs, ours in maps:
        rows += [Row(theirs, f"{ours}.weight"), Row((), f"{ours}.bias", given(zeros))]  # they have no biases
    condition: JSON = {"text": {"encoder": str(encoder), "cfg_dropout": 0.1, **layout}}
    return _Given(condition, "prefix", tuple(rows), {"guidance": 7.5, "top_k": 1000}, "laion-coco")


def _side(path: Path) -> int:
    """Pixels of a side, which released files have at the end of their names."""
    match = re.search(r"_(\d+)$", path.stem)
    if match is None:
        raise CheckpointError(
            f"weights do not tell the size of pictures, and the name {path.name!r} does not end in it, as c2i_B_256.pt does: name the "
            "file so"
        )
    return int(match[1])


def _rows_of_transformer(heads: int) -> list[Row]:
    layer = "backbone.blocks.{i}"
    return [
        Row("tok_embeddings.weight", "embedding.weight"),
        Row("layers.{i}.attention.wqkv.weight", f"{layer}.attention.qkv.weight", _halves(heads)),
        Row("layers.{i}.attention.wo.weight", f"{layer}.attention.out.weight"),
        Row("layers.{i}.attention_norm.weight", f"{layer}.attention_norm.weight"),
        Row("layers.{i}.ffn_norm.weight", f"{layer}.forward_norm.weight"),
        Row(("layers.{i}.feed_forward.w1.weight", "layers.{i}.feed_forward.w3.weight"), f"{layer}.feed_forward.up.weight", joined(2)),
        Row("layers.{i}.feed_forward.w2.weight", f"{layer}.feed_forward.down.weight"),
        Row("norm.weight", "backbone.norm.weight"),
        Row("output.weight", "head.logits.weight"),
    ]


def _halves(heads: int) -> Transform:
    """Queries and keys whose neighbouring channels are rotated together, as ours with channels ``i`` and ``i + half``."""

    def moved(weight: Tensor, sizes: tuple[int, int]) -> Tensor:
        q_and_k, values = weight.split([2 * len(weight) // 3, len(weight) // 3])
        pairs = q_and_k.unflatten(0, (2 * heads, *sizes)).transpose(1, 2)
        return torch.cat([pairs.flatten(0, 2), values])

    return Transform(
        "with the channels of rotated pairs half a head apart",
        lambda tensors: [moved(tensors[0], (-1, 2))],
        lambda tensors: [moved(tensors[0], (2, -1))],
    )
