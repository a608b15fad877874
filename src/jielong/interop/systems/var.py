"""VAR (arXiv 2404.02905): its multi-scale tokenizer, and its transformers of 16 to 36 layers over the codes, given a class.

Sizes are read from the shapes of weights. What no shape tells is fixed by the releases: the scales of 256 and 512 pixels, which the number
of positions tells apart, and the half of what a scale adds that its convolution makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from jielong.core.json import JSON
from jielong.interop.files import Source, check_codes, parts, read
from jielong.interop.key_map import Dropped, KeyMap, Row, Transform, each, given, joined, numbers, squeezed
from jielong.interop.released import CLASSES_AND_NULL, Imported, numbered
from jielong.interop.resnet_names import KIND, network_of, rows_of
from jielong.media.kinds.image import image_medium
from jielong.quantizers.multi_scale import MultiScale
from jielong.tokenizers.vq import VQ
from jielong.training.checkpoint import CheckpointError

CODEBOOK, START = "quantize.embedding.weight", "pos_start"
SCALES = {680: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), 2240: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)}
"""Sides of the released models' scales, by the number of positions: for 256 and 512 pixels."""
ALONE = 680
"""Positions that a tokenizer alone is imported for; its networks take the others too."""
CFG = 1.5
"""The option ``cfg`` of the paper's figures: a ramp of our scale from 1 to ``1 + cfg``."""
OF_LAYER = (4, 2, 0, 5, 3, 1)
"""Our shift, scale and gate of attention, then of the feed-forward part, in their gains, scales and shifts of both."""
OF_END = (1, 0)
"""Our shift and scale of the last norm, in their scale and shift."""


def read_tokenizer(paths: Sequence[Path]) -> Imported:
    """The tokenizer from its file.

    Raises:
        CheckpointError: if it is another file.
    """
    return _tokenizer(parts([read(path) for path in paths], tokenizer=CODEBOOK)["tokenizer"], ALONE)


def read_generator(paths: Sequence[Path]) -> Imported:
    """A transformer with its tokenizer, from a file each.

    Raises:
        CheckpointError: if one is missing or another file.
    """
    found = parts([read(path) for path in paths], tokenizer=CODEBOOK, transformer=START)
    return _generator(found["transformer"], found["tokenizer"])


def _tokenizer(source: Source, positions: int) -> Imported:
    weights = source.weights
    if "quantize.quant_resi.qresi_ls.0.weight" not in weights or "quant_conv.weight" not in weights:
        raise CheckpointError(f"{source.path} has codes but not those of several scales: it is no tokenizer of VAR")
    network = network_of(weights).model_copy(update={"projection_kernel": weights["quant_conv.weight"].shape[-1]})
    size, dim = weights[CODEBOOK].shape
    codes = MultiScale(
        codebook_size=size,
        scales=SCALES[positions],
        phi=numbers(weights, "quantize.quant_resi.qresi_ls.{i}.weight"),
        codebook="gradient",
        kmeans_iterations=0,
        restart_below=0,
        balance=0,
    )
    counted = {name: tensor for name, tensor in codes.build(dim).state_dict().items() if not name.startswith(("phi.", "codebook.codebook"))}
    rows = [
        *map(_with_one_map, rows_of(network)),
        Row(CODEBOOK, "quantizer.codebook.codebook"),
        Row(f"quantize.quant_resi.qresi_ls.{{i}}.{KIND}", f"quantizer.phi.{{i}}.{KIND}"),
        *(Row((), f"quantizer.{name}", given(tensor)) for name, tensor in counted.items()),
    ]
    side = SCALES[positions][-1] * network.reduction[0]
    recipe: JSON = {
        "data": {"set": "imagenet"},
        "tokenizer": VQ(autoencoder=network, dim=dim, quantizer=codes),
        "losses": {"regression": {"kind": "l2"}},
    }
    dropped = (Dropped("quantize.ema_vocab_hit_SV", "how often codes of a scale were used in training"),)
    return Imported(recipe, image_medium(3, (side, side)), weights, KeyMap(rows, dropped), notes=source.notes)


def _with_one_map(row: Row) -> Row:
    """The row of queries, keys and values with one map for the three, as VAR has, in place of a map each."""
    return Row(row.theirs[0].replace(".q.", ".qkv."), row.ours) if isinstance(row.theirs, tuple) else row


def _generator(source: Source, tokenizer: Source) -> Imported:
    weights = source.weights
    positions, width = weights["pos_1LC"].shape[1:]
    if positions not in SCALES:
        known = " or ".join(map(str, SCALES))
        raise CheckpointError(f"{source.path} has {positions} positions, and the scales of released models have {known}")
    check_codes(source, len(weights["head.weight"]), tokenizer, len(tokenizer.weights[CODEBOOK]))
    units, shared = _tokenizer(tokenizer, positions), "shared_ada_lin.1.weight" in weights
    transformer = {
        "layers": numbers(weights, "blocks.{i}.ffn.fc1.weight"),
        "width": width,
        "heads": weights["blocks.0.attn.scale_mul_1H11"].shape[1],
        "hidden": weights["blocks.0.ffn.fc1.weight"].shape[0],
        "norm": "layer",
        "norm_eps": 1e-6,
        "activation": "gelu",
        "qk_norm": "l2",
        "rotary": False,
        "positions": "slots",
        "bias": True,
        "key_bias": False,
        "condition": "adaln",
        "adaln_hidden": False,
        "adaln_shared": shared,
        "start": "sum",
    }
    recipe: JSON = {
        "data": {"set": "imagenet"},
        "condition": {"class": {"width": width, "cfg_dropout": 0.1}},
        "order": "next_scale",
        "backbone": {"transformer": transformer},
        "head": {"softmax": {"bias": True}},
        "sampling": {"top_k": 900, "top_p": 0.96, "guidance": {"scale": 1 + CFG, "kind": "ramp"}},
    }
    names = numbered(len(weights["class_emb.weight"]) - 1)
    return Imported(recipe, units.media, weights, _keys(shared), names, {"tokenizer": units}, source.notes)


def _keys(shared: bool) -> KeyMap:
    theirs, ours = "blocks.{i}", "backbone.blocks.{i}"
    rows = [
        Row(f"word_embed.{KIND}", f"embedding.linear.{KIND}"),
        Row("class_emb.weight", ("condition.table.weight", "condition.null"), CLASSES_AND_NULL),
        Row(START, "placeholder", squeezed(0, 1)),
        Row("pos_1LC", "position_embeddings.slots.weight", squeezed(0)),
        Row("lvl_embed.weight", "position_embeddings.scales.weight"),
        Row(f"{theirs}.attn.mat_qkv.weight", f"{ours}.attention.qkv.weight"),
        Row((f"{theirs}.attn.q_bias", f"{theirs}.attn.v_bias"), f"{ours}.attention.qv_bias", joined(2)),
        Row(f"{theirs}.attn.scale_mul_1H11", f"{ours}.attention.log_scale", squeezed(0, 2, 3)),
        Row(f"{theirs}.attn.proj.{KIND}", f"{ours}.attention.out.{KIND}"),
        Row(f"{theirs}.ffn.fc1.{KIND}", f"{ours}.feed_forward.up.{KIND}"),
        Row(f"{theirs}.ffn.fc2.{KIND}", f"{ours}.feed_forward.down.{KIND}"),
        Row(f"head_nm.ada_lin.1.{KIND}", f"backbone.last_modulation.{KIND}", _ordered(OF_END)),
        Row(f"head.{KIND}", f"head.logits.{KIND}"),
    ]
    if shared:
        rows += [
            Row(f"shared_ada_lin.1.{KIND}", f"backbone.shared_modulation.{KIND}", _ordered(OF_LAYER)),
            Row(f"{theirs}.ada_gss", f"{ours}.modulation.vector", _OWN_SHARE),
        ]
    else:
        rows.append(Row(f"{theirs}.ada_lin.1.{KIND}", f"{ours}.modulation.{KIND}", _ordered(OF_LAYER)))
    dropped = (
        Dropped("attn_bias_for_masking", "the mask of scales, which is computed"),
        Dropped("lvl_1L", "the scale of each position, which is computed"),
        Dropped(f"{theirs}.attn.zero_k_bias", "zeros in place of a bias of keys"),
    )
    return KeyMap(rows, dropped)


def _reordered(rows: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    """Parts of the first dimension, of equal size, in another order."""
    chunks = rows.chunk(len(order))
    return torch.cat([chunks[part] for part in order])


def _ordered(order: Sequence[int]) -> Transform:
    back = [order.index(part) for part in range(len(order))]
    return each("with shifts, scales and gates in our order", lambda rows: _reordered(rows, order), lambda rows: _reordered(rows, back))


_OWN_SHARE = each(
    "with shifts, scales and gates in our order",
    lambda share: _reordered(share.flatten(), OF_LAYER),
    lambda vector: _reordered(vector, [OF_LAYER.index(part) for part in range(6)]).view(1, 1, 6, -1),
)
