"""Autoencoders and DiT as folders of ``diffusers``: the importers' tables of names, inverted, and configurations that say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch

from jielong.autoencoders.resnet import Resnet
from jielong.backbones.none import NoBackbone
from jielong.conditions.base import Condition
from jielong.conditions.classes import Class, ClassCondition
from jielong.config.registry import Config
from jielong.core.files import write_bytes
from jielong.core.json import JSON, to_text
from jielong.heads.diffusion import Diffusion
from jielong.heads.diffusion_schedule import ENDS
from jielong.interop.diffusers_folders import INDEX, SCHEDULER
from jielong.interop.files import CONFIG
from jielong.interop.key_map import KeyMap, Weights
from jielong.interop.systems import diffusers_autoencoders as autoencoders
from jielong.interop.systems import diffusers_dit
from jielong.interop.systems.diffusers_schedulers import PREDICTIONS, SCHEDULES
from jielong.networks.dit import DiT
from jielong.orders.at_once import AtOnce
from jielong.quantizers.vector import Vector
from jielong.system.pipeline import System
from jielong.tokenizers.kl import KL, KLTokenizer
from jielong.tokenizers.vq import VQ
from jielong.training.checkpoint import CheckpointError, write_tensors

WEIGHTS = "diffusion_pytorch_model.safetensors"
LIBRARY = "diffusers"


def export_diffusers(system: System, folder: Path) -> list[str]:
    """Write a system into an empty folder: an autoencoder as ``AutoencoderKL`` or ``VQModel``, a DiT as ``DiTPipeline``.

    Returns:
        What the folder's reader should know.

    Raises:
        CheckpointError: naming the part or the setting that ``diffusers`` has no counterpart of.
    """
    settings = system.recipe.tokenizer
    if system.generator is not None:
        return _dit(system, folder)
    if isinstance(settings, KL) and isinstance(system.tokenizer, KLTokenizer):
        return _kl(system.tokenizer, folder)
    if isinstance(settings, VQ):
        return _vq(system, settings, folder)
    raise CheckpointError(f"diffusers has no counterpart of the tokenizer {getattr(settings, 'name', settings)}: it has those of kl and vq")


def same(part: Config, expected: Config, what: str, free: Sequence[str] = ()) -> None:
    """Raise :class:`CheckpointError` naming settings of a part that differ from what ``diffusers`` has, but for the ``free`` ones."""
    pairs = {name: (getattr(part, name), getattr(expected, name)) for name in type(expected).model_fields if name not in free}
    other = [f"{name}: {ours!r}, not {theirs!r}" for name, (ours, theirs) in pairs.items() if ours != theirs]
    if other:
        raise CheckpointError(f"diffusers has no counterpart of these settings of {what}: {'; '.join(other)}")


def _network(network: Config, what: str) -> Resnet:
    if not isinstance(network, Resnet):
        raise CheckpointError(
            f"diffusers has no counterpart of the autoencoder {getattr(network, 'name', network)} of {what}: it has resnet"
        )
    free = ("channels", "blocks", "groups", "attention", "decoder_attention", "projections", "z_channels")
    same(network, Resnet(channels=network.channels, groups=network.groups), f"the autoencoder of {what}", free)
    return network


def _kl(tokenizer: KLTokenizer, folder: Path) -> list[str]:
    settings = tokenizer.settings
    network = _network(settings.autoencoder, "kl")
    free = ("autoencoder", "dim", "patch", "weight", "noise", "standardize", "outliers")
    same(settings, KL(autoencoder=network), "the tokenizer kl", free)
    if network.z_channels is not None:
        raise CheckpointError(f"diffusers has no counterpart of z_channels {network.z_channels} in kl: its projections keep their channels")
    shift, scale = tokenizer.shift.cpu(), tokenizer.scale.cpu()
    one = bool((scale == scale[0]).all() and (shift == shift[0]).all())
    standard: JSON = (
        {"scaling_factor": float(scale[0]), "shift_factor": float(shift[0]) or None}
        if one
        else {"scaling_factor": 1.0, "latents_mean": shift.tolist(), "latents_std": (1 / scale).tolist()}
    )
    projections = {"use_quant_conv": network.projections, "use_post_quant_conv": network.projections}
    config = {"latent_channels": settings.dim, **standard, **projections}
    _write(folder, "AutoencoderKL", {**_config(tokenizer.media.channels, tokenizer.media.size, network), **config},
           KeyMap([*autoencoders.rows_of(network), *autoencoders.standard_rows(shift, scale)]).invert(tokenizer.state_dict()))  # fmt: skip
    return [] if one else ["latents are standardised channel by channel: pipelines that read scaling_factor alone do not do so"]


def _vq(system: System, settings: VQ, folder: Path) -> list[str]:
    network = _network(settings.autoencoder, "vq")
    codes = settings.quantizer
    if not isinstance(codes, Vector) or codes.normalize or codes.metric != "euclidean" or settings.likelihood is not None:
        raise CheckpointError("diffusers has vq with the quantizer vector alone, by Euclidean distance, and a decoder of colours")
    if not network.projections:
        raise CheckpointError("diffusers has no counterpart of projections: false in vq: its VQModel always has them")
    width = settings.dim if network.z_channels is None else network.z_channels
    config: JSON = {"latent_channels": width, "vq_embed_dim": settings.dim, "num_vq_embeddings": codes.codebook_size}
    media = system.tokenizer.media
    weights = KeyMap(autoencoders.vq_rows(network, codes, settings.dim)).invert(system.tokenizer.state_dict())
    _write(folder, "VQModel", {**_config(media.channels, media.size, network), **config}, weights)
    return []


def _config(channels: int, size: tuple[int, ...], network: Resnet) -> JSON:
    stages, up = len(network.channels), network.attention if network.decoder_attention is None else network.decoder_attention
    down_types, up_types = [autoencoders.DOWN] * stages, [autoencoders.UP] * stages
    down_types[-1] = autoencoders.ATTENTION * network.attention + down_types[-1]
    up_types[0] = autoencoders.ATTENTION * up + up_types[0]
    rows, columns = size
    return {
        "in_channels": channels,
        "out_channels": channels,
        "down_block_types": down_types,
        "up_block_types": up_types,
        "block_out_channels": list(network.channels),
        "layers_per_block": network.blocks,
        "act_fn": "silu",
        "norm_num_groups": network.groups,
        "sample_size": rows if rows == columns else [rows, columns],
    }


def _write(folder: Path, name: str, config: JSON, weights: Weights) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / CONFIG, to_text({"_class_name": name, **config}, indent=2).encode())
    write_tensors(folder / WEIGHTS, weights)


def _dit(system: System, folder: Path) -> list[str]:
    recipe, tokenizer, model = system.recipe, system.tokenizer, system.generator
    head, backbone, condition = recipe.head, recipe.backbone, recipe.condition
    parts: Mapping[str, tuple[object, type]] = {
        "condition": (condition, Class), "order": (recipe.order, AtOnce), "backbone": (backbone, NoBackbone), "head": (head, Diffusion),
    }  # fmt: skip
    for family, (part, kind) in parts.items():
        if not isinstance(part, kind):
            name = getattr(part, "name", "none")
            raise CheckpointError(f"of generators diffusers has a counterpart of DiT here, and {system.name} has the {family} {name}")
    head, backbone = cast("Diffusion", head), cast("NoBackbone", backbone)
    if not isinstance(head.network, DiT) or not isinstance(tokenizer, KLTokenizer):
        raise CheckpointError(f"of generators diffusers has a counterpart of DiT over kl here, not of {head.network.name} over {tokenizer}")
    network, (rows, columns), patch = head.network, tokenizer.layout.grid, tokenizer.settings.patch
    published = DiT(positions="sincos", hidden_vectors="mean", freq_shift=1)
    same(network, published, "the network dit", ("layers", "width", "heads", "dropout"))
    same(backbone, NoBackbone(width=network.width, pooled="as_is"), "the backbone")
    same(cast("Class", condition), Class(width=network.width), "the condition class", ("cfg_dropout",))
    same(cast("AtOnce", recipe.order), AtOnce(), "the order at_once")
    free: Sequence[str] = (
        "network",
        "steps",
        "schedule",
        "beta_ends",
        "timestep_spacing",
        "steps_offset",
        "prediction",
        "variance",
        "sampler",
        "eta",
    )
    same(
        head,
        Diffusion(start=None),
        "the head diffusion",
        (*free, "diffusion_batch_mul", "clamp_variance", "s_churn", "s_tmin", "s_tmax", "s_noise"),
    )
    if rows != columns or head.prediction == "edm" or model is None or model.condition is None:
        raise CheckpointError(
            f"diffusers has DiT of square pictures and without prediction: edm, and this one is of {rows} x {columns} tokens"
        )
    notes = _kl(tokenizer, folder / "vae")
    kinds, names = 2 if head.variance == "learned" else 1, _classes(model.condition)
    classes = len(names)
    config: JSON = {
        "num_attention_heads": network.heads, "attention_head_dim": network.width // network.heads, "in_channels": tokenizer.dim,
        "out_channels": kinds * tokenizer.dim, "num_layers": network.layers, "sample_size": rows * patch, "patch_size": patch,
        "num_embeds_ada_norm": classes, "norm_type": "ada_norm_zero", "norm_elementwise_affine": False, "norm_eps": diffusers_dit.NORM[1],
        "activation_fn": "gelu-approximate", "attention_bias": True, "dropout": 0.0,
    }  # fmt: skip
    table = diffusers_dit.rows_of(network.layers, network.width, tokenizer.dim, patch, kinds, (rows, columns))
    with torch.no_grad():
        weights = KeyMap(table).invert(model.state_dict())
    _write(folder / "transformer", diffusers_dit.CLASSES[0], config, weights)
    notes += _scheduler(head, folder / "scheduler")
    parts_of = {
        "transformer": diffusers_dit.CLASSES[0],
        "vae": "AutoencoderKL",
        "scheduler": "DDPMScheduler" if head.sampler == "ddpm" else "DDIMScheduler",
    }
    index: JSON = {"_class_name": "DiTPipeline", **{name: [LIBRARY, kind] for name, kind in parts_of.items()}}
    index["id2label"] = {str(number): name for number, name in enumerate(names)}
    write_bytes(folder / INDEX, to_text(index, indent=2).encode())
    if classes != 1000:
        notes.append(f"DiTPipeline guides by class number 1000 as none, and here that is number {classes}: guide with the network itself")
    return notes


def _classes(condition: Condition) -> Sequence[str]:
    assert isinstance(condition, ClassCondition)
    return condition.names


def _scheduler(head: Diffusion, folder: Path) -> list[str]:
    name = "DDPMScheduler" if head.sampler == "ddpm" else "DDIMScheduler"
    schedules, predictions = ({ours: theirs for theirs, ours in each.items()} for each in (SCHEDULES, PREDICTIONS))
    first, last = head.beta_ends or ENDS.get(head.schedule, (1e-4, 0.02))
    config: JSON = {
        "_class_name": name, "num_train_timesteps": 1000, "beta_schedule": schedules[head.schedule], "beta_start": first, "beta_end": last,
        "prediction_type": predictions[head.prediction], "timestep_spacing": head.timestep_spacing, "steps_offset": head.steps_offset,
        "clip_sample": False,
    }  # fmt: skip
    if name == "DDPMScheduler":
        config["variance_type"] = "fixed_small"  # DiTPipeline leaves out the variance that a network predicts
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / SCHEDULER, to_text(config, indent=2).encode())
    return [] if head.sampler in ("ddim", "ddpm") else [f"the sampler {head.sampler} is left out: the folder has a {name}"]
