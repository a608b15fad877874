"""Checkpoint folders and shipped models: find, describe and load."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from jielong.config.recipe import parse
from jielong.config.registry import nearest
from jielong.config.schema import Recipe, Trained
from jielong.core.device import resolve_device
from jielong.core.medium import Medium
from jielong.generation.generator import Generator
from jielong.networks.time_layer import fold
from jielong.system.build import build_generator
from jielong.system.pipeline import System
from jielong.tokenizers.base import Tokenizer
from jielong.training.checkpoint import CheckpointError, fingerprint, load_weights

DESCRIPTION = "model.json"


def zoo() -> dict[str, Path]:
    """Shipped models by name: the checkpoint folders of the ``jielong-zoo`` distribution, if it is installed."""
    try:
        folder = Path(importlib.import_module("jielong_zoo").path()) / "models"
    except ImportError:
        return {}
    return {item.name: item for item in sorted(folder.glob("*")) if (item / "recipe.yaml").exists()}


def find(name_or_folder: str) -> Path:
    """The folder of a checkpoint.

    Raises:
        CheckpointError: if it is neither a shipped model's name nor a folder with a model in it.
    """
    models = zoo()
    if name_or_folder in models:
        return models[name_or_folder]
    folder = Path(name_or_folder)
    if not folder.is_dir():
        hint = nearest(name_or_folder, models) if models else "no shipped models are installed: pip install jielong-zoo"
        raise CheckpointError(f"there is no model called {name_or_folder!r} and no such folder; {hint}")
    for needed in ("recipe.yaml", DESCRIPTION, "model.safetensors"):
        if not (folder / needed).exists():
            raise CheckpointError(
                f"{folder} is not a finished checkpoint: it has no {needed}; go on training it with the command that began it"
            )
    return folder


def build_tokenizer(recipe: Recipe, media: Medium, kept: Path | None = None) -> Tokenizer:
    """The recipe's tokenizer: trained weights where it names a checkpoint, initial ones where it describes a tokenizer.

    Args:
        recipe: The recipe.
        media: The format of the media.
        kept: A checkpoint of this recipe, whose copies of other stages have precedence.

    Raises:
        ValueError: if a trained stage reads other media.
    """
    stages = {}
    for name, checkpoint in recipe.requires.items():
        copy = None if kept is None else kept / name
        stages[name] = load(str(copy) if copy is not None and copy.is_dir() else checkpoint, "cpu", media).tokenizer
        if stages[name].media != media:
            trained = stages[name].media
            raise ValueError(f"the {name} {checkpoint!r} was trained on {trained}, but the data are {media}: change `data` to fit")
    if not isinstance(recipe.tokenizer, Trained):
        return recipe.tokenizer.build(media, stages)
    if recipe.tokenizer.num_codebooks is not None:
        stages["tokenizer"].keep_codebooks(recipe.tokenizer.num_codebooks)
    return stages["tokenizer"]


def describe(media: Medium, classes: Sequence[str], tokenizer: Tokenizer, generator: Generator | None) -> dict[str, Any]:
    """What a checkpoint must remember beside recipe and weights: sizes and names that came from the data, and what it was built on."""
    condition = generator.condition if generator is not None else None
    return {
        "media": media.to_json(),
        "classes": list(classes),
        "tokenizer_sha256": None if generator is None else fingerprint(tokenizer),
        "condition": None if condition is None else condition.describe(),
    }


def _description(path: Path) -> tuple[dict[str, Any], Medium]:
    """What :func:`describe` wrote, and the media format in it."""
    try:
        description = json.loads(path.read_text())
        missing = {"media", "classes", "tokenizer_sha256"} - set(description)
        if missing:
            raise KeyError(*missing)
        return description, Medium.from_json(description["media"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}: {error}); copy or train the checkpoint again") from None


def load(name_or_folder: str, device: torch.device | str = "auto", media: Medium | None = None) -> System:
    """Load a shipped model by name, or a checkpoint folder.

    Args:
        name_or_folder: Which.
        device: Where its weights go: ``auto``, ``cpu``, ``cuda[:i]`` or ``mps``.
        media: What a tokenizer reads, if that differs from what it was trained on along time alone.

    Raises:
        DeviceError: if there is no such device.
        CheckpointError: if it is missing, unfinished, damaged, or not what its recipe says.
    """
    target, folder = resolve_device(device), find(name_or_folder)
    recipe = parse((folder / "recipe.yaml").read_text(), str(folder / "recipe.yaml"))
    description, made_for = _description(folder / DESCRIPTION)
    if media is None or recipe.trains_generator or made_for.differs_in(media) != {"time"}:
        media = made_for
    tokenizer = build_tokenizer(recipe, media, kept=folder)
    generator = None
    if recipe.trains_generator:
        generator = build_generator(recipe, tokenizer, description["classes"])
        if description["tokenizer_sha256"] != fingerprint(tokenizer):
            raise CheckpointError(
                f"{name_or_folder} was trained on another tokenizer than the one its recipe leads to now; "
                "its tokens would mean other pictures"
            )
        load_weights(generator, folder)
        generator.eval().requires_grad_(False)
    else:
        load_weights(tokenizer, folder)
    tokenizer.eval().requires_grad_(False)
    fold(tokenizer)
    return System(name_or_folder, recipe, tokenizer, generator).to(target)
