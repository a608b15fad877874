"""DiT of ``diffusers`` (arXiv 2212.09748): ``DiTTransformer2DModel``, by itself or in a ``DiTPipeline`` with autoencoder and scheduler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from jielong.core.json import JSON
from jielong.interop import diffusers_folders
from jielong.interop.config_keys import Key, NoEffect, Only, Read, Values, checked, whole
from jielong.interop.files import Source, read
from jielong.interop.key_map import Dropped, KeyMap, Row, Transform
from jielong.interop.released import Imported
from jielong.interop.systems import diffusers_autoencoders as autoencoders
from jielong.interop.systems.diffusers_schedulers import settings_of
from jielong.interop.systems.diffusers_transformers import KIND, constants, patch_input, patch_output, repeated, stacked
from jielong.training.checkpoint import CheckpointError

CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")
"""Of the network; early folders name the second."""
NORM = (1e-5, 1e-6)
KEYS: Mapping[str, Key] = {
    "num_attention_heads": whole(16),
    "attention_head_dim": whole(72),
    "in_channels": whole(4),
    "out_channels": Read(None, lambda value: value is None or isinstance(value, int), "a whole number"),
    "num_layers": whole(28),
    "sample_size": whole(32),
    "patch_size": whole(2),
    "num_embeds_ada_norm": whole(1000),
    "dropout": Only((0.0, 0), "no channel is dropped in training"),
    "attention_bias": Only((True,), "queries, keys and values have biases"),
    "activation_fn": Only(("gelu-approximate",), "the feed-forward part has GELU in its tanh form"),
    "norm_type": Only(("ada_norm_zero",), "norms are modulated"),
    "norm_elementwise_affine": Only((False,), "norms have no weights"),
    "norm_eps": Only(NORM, "of the norms"),
    "norm_num_groups": NoEffect("there are no group norms"),
    "upcast_attention": NoEffect("attention is in float32"),
    "cross_attention_dim": Only((None,), "there is no cross-attention"),
    "only_cross_attention": Only((False,), "there is no cross-attention"),
    "num_vector_embeds": Only((None,), "tokens are continuous"),
    "use_linear_projection": NoEffect("patches are projected by a convolution of their size"),
    "double_self_attention": Only((False,), "a layer has one attention"),
    "attention_type": Only(("default",), "a layer has one attention"),
    "caption_channels": Only((None,), "there are no captions"),
    "interpolation_scale": Only((None, 1.0, 1), "positions are whole numbers"),
    "use_additional_conditions": Only((None, False), "times and classes alone modulate"),
}
DRAWING: JSON = {"steps": 50, "guidance": 4.0}
"""The steps and the scale that ``DiTPipeline`` has by default."""


def read_dit(paths: Sequence[Path]) -> Imported:
    """A DiT from the folder of its pipeline, or from those of its network, its autoencoder and, if it is there, its scheduler.

    Raises:
        CheckpointError: if a part is missing, or a configuration has no counterpart.
    """
    folders = diffusers_folders.find(paths)
    network, autoencoder = folders.model(*CLASSES), folders.model("AutoencoderKL")
    if network is None or autoencoder is None:
        raise CheckpointError(
            f"{' and '.join(map(str, paths))}: a DiT is the folder of a {CLASSES[0]} and that of the AutoencoderKL whose latents it draws, "
            f"or a DiTPipeline with both, and there is no {CLASSES[0] if network is None else 'AutoencoderKL'}"
        )
    if folders.scheduler is None:
        raise CheckpointError(
            f"{' and '.join(map(str, paths))}: there is no {diffusers_folders.SCHEDULER}, which says how noise grows and what is "
            "predicted: give the pipeline, or the folder of its scheduler too"
        )
    head = settings_of(folders.scheduler[0], str(folders.scheduler[1]), "DDIMScheduler", "DDPMScheduler")
    return dit(read(network), read(autoencoder), head, labels_of(folders.index))


def labels_of(index: JSON) -> dict[int, str]:
    """``id2label`` of a pipeline, as it is or after ``[library, ...]``; empty without."""
    labels = index.get("id2label")
    if not isinstance(labels, Mapping):
        return {}
    return {int(str(number)): str(name) for number, name in labels.items() if str(number).isdecimal()}


def dit(source: Source, latents: Source, head: JSON, labels: Mapping[int, str] | None = None) -> Imported:
    """A DiT over the latents of an autoencoder; ``head``: of :func:`settings_of`; ``labels``: names of classes by number."""
    values = checked(source.config, KEYS, f"{source.path}/config.json")
    patch, channels, side = values.integer("patch_size"), values.integer("in_channels"), values.integer("sample_size")
    kinds, classes = _kinds(values, source), values.integer("num_embeds_ada_norm")
    tokenizer = autoencoders.at_size(autoencoders.kl(latents, patch), side, channels, str(source.path))
    width, layers = values.integer("num_attention_heads") * values.integer("attention_head_dim"), values.integer("num_layers")
    network: JSON = {"layers": layers, "width": width, "heads": values["num_attention_heads"], "positions": "sincos"}
    network |= {"hidden_vectors": "mean", "freq_shift": 1}
    settings = {"network": {"dit": network}, "variance": "learned" if kinds == 2 else "fixed", "steps": DRAWING["steps"], **head}
    recipe: JSON = {
        "data": {"set": "faces"},
        "condition": {"class": {"width": width, "cfg_dropout": 0.1}},
        "order": "at_once",
        "backbone": {"none": {"width": width, "pooled": "as_is"}},
        "head": {"diffusion": {**settings, "diffusion_batch_mul": 1}},
        "sampling": {"guidance": {"scale": DRAWING["guidance"]}},
    }
    notes = [
        "freq_shift is 1, as the frequencies of times are in diffusers; the authors' code, by which the released DiT was trained, has 0: "
        "set head.diffusion.network.dit.freq_shift in recipe.yaml to compare"
    ]
    if values["norm_eps"] == NORM[0]:
        notes.append("norms add 1e-6 to the variance, as the authors' do; diffusers adds 1e-5 in the second norm of a layer")
    names = class_names(classes, labels or {})
    stages, grid = {"tokenizer": tokenizer}, (side // patch, side // patch)
    rows = rows_of(layers, width, channels, patch, kinds, grid)
    dropped = (Dropped("pos_embed.pos_embed", "sines and cosines, which are computed"),)
    return Imported(recipe, tokenizer.media, source.weights, KeyMap(rows, dropped), names, stages, (*source.notes, *notes))


def class_names(count: int, labels: Mapping[int, str]) -> tuple[str, ...]:
    """A name for each class: its label, with its number behind one that is there twice; the number without labels."""
    given = [labels.get(number, str(number)) for number in range(count)]
    twice = {name for name, times in Counter(given).items() if times > 1}
    return tuple(f"{name} ({number})" if name in twice else name for number, name in enumerate(given))


def _kinds(values: Values, source: Source) -> int:
    """Numbers that are predicted for each value: the noise, and a variance where it is learned."""
    inputs = values.integer("in_channels")
    outputs = inputs if values["out_channels"] is None else values.integer("out_channels")
    if outputs not in (inputs, 2 * inputs):
        raise CheckpointError(
            f"{source.path}/config.json describes a model that has no counterpart here: out_channels is {outputs}, "
            f"and in_channels {inputs} or twice that would be right"
        )
    return outputs // inputs


def rows_of(layers: int, width: int, channels: int, patch: int, kinds: int, grid: tuple[int, int]) -> list[Row]:
    """Rows of the network with what is around it: the condition's table and the constants of the generator."""
    net, blocks = "head.network", [f"transformer_blocks.{layer}" for layer in range(layers)]
    of_times = [f"{block}.norm1.emb.timestep_embedder.linear" for block in blocks]
    tables = tuple(f"{block}.norm1.emb.class_embedder.embedding_table.weight" for block in blocks)
    modulations = (*(f"{block}.norm1.linear.{KIND}" for block in blocks), f"proj_out_1.{KIND}")
    block, ours, same = "transformer_blocks.{i}", f"{net}.blocks.{{i}}", repeated(layers, "the embedding of times")
    return [
        Row("pos_embed.proj.weight", f"{net}.input.weight", patch_input(channels, patch)),
        Row("pos_embed.proj.bias", f"{net}.input.bias"),
        Row(tuple(f"{each}_1.{KIND}" for each in of_times), f"{net}.of_times.0.{KIND}", same),
        Row(tuple(f"{each}_2.weight" for each in of_times), f"{net}.of_times.2.weight", same),
        constants(tuple(f"{each}_2.bias" for each in of_times), f"{net}.of_times.2.bias", width, grid),
        Row(tables, ("condition.table.weight", "condition.null"), _classes(layers)),
        Row(modulations, f"{net}.modulation.{KIND}", stacked([*(6 * width for _ in blocks), 2 * width])),
        Row(tuple(f"{block}.attn1.to_{part}.{KIND}" for part in "qkv"), f"{ours}.qkv.{KIND}", stacked([width] * 3)),
        Row(f"{block}.attn1.to_out.0.{KIND}", f"{ours}.project.{KIND}"),
        Row(f"{block}.ff.net.0.proj.{KIND}", f"{ours}.up.{KIND}"),
        Row(f"{block}.ff.net.2.{KIND}", f"{ours}.down.{KIND}"),
        Row(f"proj_out_2.{KIND}", f"{net}.output.{KIND}", patch_output(patch, kinds)),
    ]


def _classes(layers: int) -> Transform:
    """The table of all layers, whose last row is that of no class."""
    same = repeated(layers, "the table of classes")
    return Transform(
        "a table of classes taken once, its last row as the null vector",
        lambda tensors: [(table := same.forward(tensors)[0])[:-1], table[-1]],
        lambda tensors: [torch.cat([tensors[0], tensors[1][None]])] * layers,
    )
