"""Stable Diffusion 3 (arXiv 2403.03206): ``SD3Transformer2DModel`` of ``diffusers``, with its pipeline's autoencoder and scheduler.

Its text encoders (two of CLIP, one of T5) are not read: the condition ``features`` takes what they compute, ``prompt_embeds`` and
``pooled_prompt_embeds`` of the pipeline's ``encode_prompt``, and those of the negative prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from jielong.core.json import JSON
from jielong.interop import diffusers_folders
from jielong.interop.config_keys import Key, Only, Read, checked, whole
from jielong.interop.files import Source, read
from jielong.interop.key_map import Dropped, KeyMap, Row, Transform, each, given
from jielong.interop.released import Imported
from jielong.interop.systems import diffusers_autoencoders as autoencoders
from jielong.interop.systems.diffusers_schedulers import settings_of
from jielong.interop.systems.diffusers_transformers import KIND, constants, patch_input, patch_output, reversed_times, stacked
from jielong.training.checkpoint import CheckpointError

CLASS = "SD3Transformer2DModel"
KEYS: Mapping[str, Key] = {
    "sample_size": whole(128),
    "patch_size": whole(2),
    "in_channels": whole(16),
    "out_channels": Read(16, lambda value: value is None or isinstance(value, int), "a whole number"),
    "num_layers": whole(18),
    "attention_head_dim": whole(64),
    "num_attention_heads": whole(18),
    "joint_attention_dim": whole(4096),
    "caption_projection_dim": whole(1152),
    "pooled_projection_dim": whole(2048),
    "pos_embed_max_size": whole(96),
    "dual_attention_layers": Only(((),), "a second attention, of the picture alone, in layers of SD3.5 medium"),
    "qk_norm": Only((None, "rms_norm"), "queries and keys have a root-mean-square norm or none"),
}
WORDS = 77 + 256
"""States of a text in the pipeline: those of CLIP and, behind them, of T5."""
STEPS, GUIDANCE = 28, 7.0
"""Of ``StableDiffusion3Pipeline``."""
SUPPLY = (
    "the text encoders are not imported: give the condition what encode_prompt of the pipeline returns, a safetensors file with states "
    "(prompt_embeds), pooled (pooled_prompt_embeds), and negative_states and negative_pooled of the negative prompt, as --features FILE"
)


def read_sd3(paths: Sequence[Path]) -> Imported:
    """SD3 from the folder of its pipeline, or from those of its network, its autoencoder and its scheduler.

    Raises:
        CheckpointError: if a part is missing, or a configuration has no counterpart.
    """
    folders = diffusers_folders.find(paths)
    network, autoencoder = folders.model(CLASS), folders.model("AutoencoderKL")
    lacking = [
        name
        for name, found in ((CLASS, network), ("AutoencoderKL", autoencoder), (diffusers_folders.SCHEDULER, folders.scheduler))
        if found is None
    ]
    if network is None or autoencoder is None or folders.scheduler is None:
        raise CheckpointError(
            f"{' and '.join(map(str, paths))}: SD3 is the folders transformer, vae and scheduler of its pipeline, or the pipeline, and "
            f"there is no {' and no '.join(lacking)}"
        )
    head = settings_of(folders.scheduler[0], str(folders.scheduler[1]), "FlowMatchEulerDiscreteScheduler")
    return sd3(read(network), read(autoencoder), head)


def sd3(source: Source, latents: Source, head: JSON) -> Imported:
    """SD3's transformer over the latents of an autoencoder; ``head``: of :func:`settings_of`."""
    values = checked(source.config, KEYS, f"{source.path}/config.json")
    width, heads, layers = (values.integer(name) for name in ("caption_projection_dim", "num_attention_heads", "num_layers"))
    channels, patch, side = (values.integer(name) for name in ("in_channels", "patch_size", "sample_size"))
    states, pooled, table = (values.integer(name) for name in ("joint_attention_dim", "pooled_projection_dim", "pos_embed_max_size"))
    for name, found, wanted in (
        ("caption_projection_dim", width, heads * values.integer("attention_head_dim")),
        ("out_channels", values["out_channels"] or channels, channels),
        ("pooled_projection_dim", pooled, min(pooled, states)),
    ):
        if found != wanted:
            raise CheckpointError(
                f"{source.path}/config.json describes a model that has no counterpart here: {name} is {found}, and {wanted} would be right"
            )
    norm = values["qk_norm"] is not None
    network: JSON = {"layers": layers, "width": width, "heads": heads, "qk_norm": norm, "positions": "table", "table": table}
    recipe: JSON = {
        "data": {"set": "faces"},
        "condition": {"features": {"width": states, "pooled": pooled, "length": WORDS, "null_condition": "given", "cfg_dropout": 0.1}},
        "order": "at_once",
        "backbone": {"none": {"width": width, "pooled": "mlp"}},
        "head": {
            "flow_matching": {"network": {"mmdit": {**network, "hidden_vectors": "mean"}}, "steps": STEPS, "diffusion_batch_mul": 1, **head}
        },
        "sampling": {"guidance": {"scale": GUIDANCE}},
    }
    tokenizer = autoencoders.at_size(autoencoders.kl(latents, patch), side, channels, str(source.path))
    queries = f"transformer_blocks.{layers - 1}.attn.{{part:add_q_proj|norm_added_q}}.{KIND}"
    dropped = (Dropped(queries, "queries of the text in the last layer, which nothing reads"),)
    rows = rows_of(layers, width, channels, patch, states, table, (side // patch, side // patch))
    notes = (*source.notes, SUPPLY)
    return Imported(recipe, tokenizer.media, source.weights, KeyMap(rows, dropped), stages={"tokenizer": tokenizer}, notes=notes)


def rows_of(layers: int, width: int, channels: int, patch: int, states: int, table: int, grid: tuple[int, int]) -> list[Row]:
    """Rows of the network, with the maps of the pooled text before it."""
    net, time, text, last = "head.network", "time_text_embed.timestep_embedder.linear", "time_text_embed.text_embedder.linear", layers - 1
    blocks = [f"transformer_blocks.{layer}" for layer in range(layers)]
    of_picture = (*(f"{block}.norm1.linear.{KIND}" for block in blocks), f"norm_out.linear.{KIND}")
    of_text = tuple(f"{block}.norm1_context.linear.{KIND}" for block in blocks)
    final = f"{net}.blocks.{last}.text"
    ends = f"transformer_blocks.{last}.attn"
    return [
        Row("pos_embed.proj.weight", f"{net}.input.weight", patch_input(channels, patch)),
        Row("pos_embed.proj.bias", f"{net}.input.bias"),
        Row("pos_embed.pos_embed", f"{net}.table.table", _table(table)),
        Row(f"{time}_1.weight", f"{net}.of_times.0.weight", reversed_times()),
        Row(f"{time}_1.bias", f"{net}.of_times.0.bias"),
        Row(f"{time}_2.weight", f"{net}.of_times.2.weight"),
        constants(f"{time}_2.bias", f"{net}.of_times.2.bias", width, grid),
        Row(f"{text}_1.weight", "backbone.pooled.0.weight", _padded(states)),
        Row(f"{text}_1.bias", "backbone.pooled.0.bias"),
        Row(f"{text}_2.{KIND}", f"backbone.pooled.2.{KIND}"),
        Row((), "condition.null", given(torch.zeros(states))),
        Row(f"context_embedder.{KIND}", f"{net}.of_text.{KIND}"),
        Row(of_picture, f"{net}.modulation.{KIND}", stacked([6 * width] * layers + [2 * width], [layers])),
        Row(of_text, f"{net}.text_modulation.{KIND}", stacked([6 * width] * last + [2 * width], [last])),
        Row(tuple(f"{ends}.add_{part}_proj.{KIND}" for part in "kv"), f"{final}.qkv.{KIND}", stacked([width] * 2)),
        *_stream("picture", tuple(f"to_{part}" for part in "qkv"), "to_out.0", "ff", "norm_{part:q|k}"),
        *_stream("text", tuple(f"add_{part}_proj" for part in "qkv"), "to_add_out", "ff_context", "norm_added_{part:q|k}"),
        Row(f"proj_out.{KIND}", f"{net}.output.{KIND}", patch_output(patch, 1, sign=-1)),
    ]


def _stream(name: str, maps: tuple[str, ...], out: str, forward: str, norm: str) -> list[Row]:
    """Rows of one of the two streams of a layer."""
    block, ours = "transformer_blocks.{i}", f"head.network.blocks.{{i}}.{name}"
    rows = [Row(f"{block}.attn.{norm.replace('{part:q|k}', short)}.weight", f"{ours}.{long}_norm.weight") for short, long in _NORMS]
    return [
        *rows,
        Row(tuple(f"{block}.attn.{each}.{KIND}" for each in maps), f"{ours}.qkv.{KIND}", _joined_maps()),
        Row(f"{block}.attn.{out}.{KIND}", f"{ours}.project.{KIND}"),
        Row(f"{block}.{forward}.net.0.proj.{KIND}", f"{ours}.up.{KIND}"),
        Row(f"{block}.{forward}.net.2.{KIND}", f"{ours}.down.{KIND}"),
    ]


_NORMS = (("q", "query"), ("k", "key"))


def _joined_maps() -> Transform:
    return Transform(
        "joined queries, keys and values", lambda tensors: [torch.cat(list(tensors))], lambda tensors: list(tensors[0].chunk(len("qkv")))
    )


def _table(side: int) -> Transform:
    """A table of positions in one row, as rows and columns."""
    return each("positions as rows and columns", lambda table: table[0].unflatten(0, (side, side)), lambda table: table.flatten(0, 1)[None])


def _padded(states: int) -> Transform:
    """Columns of the pooled vector, with zeros up to the width of states."""
    return each("zeros for what fills up a pooled vector", lambda weight: F.pad(weight, (0, states - weight.shape[1])))
