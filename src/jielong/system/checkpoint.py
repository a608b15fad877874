"""Checkpoint folders and shipped models: find, describe and load."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import NotRequired, TypedDict

import torch

from jielong.config.hub_address import HubAddressError, is_address, parse_address
from jielong.config.recipe import parse, read_file
from jielong.config.registry import nearest
from jielong.config.schema import Recipe, Trained
from jielong.config.zoo import zoo
from jielong.core.allocation import bounded
from jielong.core.device import resolve_device
from jielong.core.files import new_folder
from jielong.core.json import JSON
from jielong.core.medium import ALONG_TIME, Medium, MediumJSON
from jielong.core.text import shorten
from jielong.generation.generator import Generator
from jielong.networks.time_layer import fold
from jielong.system.adapters import with_adapters
from jielong.system.build import build_generator
from jielong.system.pipeline import System
from jielong.tokenizers.base import Tokenizer
from jielong.tokenizers.scaled import ScaledTokenizer
from jielong.training.checkpoint import (
    ADAPTER,
    CHECKSUMS,
    RECIPE,
    WEIGHTS,
    CheckpointError,
    bytes_of,
    fingerprint,
    fit_tensors,
    read_weights,
)

DESCRIPTION = "model.json"
STAGES = "stages"
"""The folder of a checkpoint's copies of other stages, each a checkpoint itself."""
MAX_DESCRIPTION = 1 << 24
"""Most bytes of ``model.json``, whose longest part are names of classes."""
MAX_VALUES = 1 << 31
"""Most values of one item."""
ALLOWANCE = 1 << 29
"""Bytes that a model may take beside its checkpoint's weights: frozen encoders, tables, masks."""


def folder_of(name: str) -> Path:
    """The folder that a shipped model's name, an address of the Hub or a path means; whether it is there is not checked.

    Raises:
        CheckpointError: if an address is wrong, or what it means cannot be fetched (:func:`jielong.system.hub.fetch`).
    """
    if not is_address(name):
        return zoo().get(name, Path(name))
    from jielong.system.hub import fetch

    try:
        return fetch(parse_address(name))
    except HubAddressError as error:
        raise CheckpointError(str(error)) from None


def find(name_or_folder: str) -> Path:
    """The folder of a checkpoint.

    Raises:
        CheckpointError: if it is neither a shipped model's name, nor an address of the Hub, nor a folder with a model in it.
    """
    folder = folder_of(name_or_folder)
    if not folder.is_dir():
        models = zoo()
        hint = nearest(name_or_folder, models) if models else "no shipped models are installed: pip install jielong-zoo"
        raise CheckpointError(f"there is no model called {name_or_folder!r} and no such folder; {hint}")
    if (folder / ADAPTER).is_file():
        raise CheckpointError(f"{folder} holds an adapter, not a model: load the model that it was trained for, with it as an adapter")
    for needed in ("recipe.yaml", DESCRIPTION, "model.safetensors"):
        if not (folder / needed).exists():
            raise CheckpointError(
                f"{folder} is not a finished checkpoint: it has no {needed}; go on training it with the command that began it"
            )
    return folder


def load_stages(recipe: Recipe, media: Medium, folder: Path | None = None) -> dict[str, System]:
    """The trained stages that a recipe is built on, on the CPU: ``tokenizer``, those its parts require, and those of a cascade.

    Args:
        recipe: The recipe.
        media: The media of its tokenizer, and of all stages but those of a cascade.
        folder: A checkpoint of the recipe, whose copies of the stages have precedence.

    Raises:
        ValueError: if a stage was trained on other media.
        CheckpointError: if one cannot be loaded.
    """
    stages = {}
    for name, checkpoint in recipe.requires.items():
        copy = None if folder is None else folder / STAGES / name
        earlier = name in recipe.stages
        stages[name] = load(str(copy) if copy is not None and copy.is_dir() else checkpoint, "cpu", None if earlier else media)
        trained = stages[name].tokenizer.media
        if not earlier and trained != media:
            raise ValueError(f"the {name} {checkpoint!r} was trained on {trained}, but the data are {media}: change `data` to fit")
        if earlier and trained.axes == media.axes != ALONG_TIME and trained.size[-2] * media.size[-1] != trained.size[-1] * media.size[-2]:
            other = f"draws {trained}, another aspect than {media}"
            raise ValueError(f"the stage {name} {checkpoint!r} {other}: change data.size to fit")
    return stages


def tokenizers_of(stages: Mapping[str, System]) -> dict[str, Tokenizer]:
    """The stages' tokenizers by name."""
    return {name: stage.tokenizer for name, stage in stages.items()}


def build_tokenizer(recipe: Recipe, media: Medium, stages: Mapping[str, System] | None = None) -> Tokenizer:
    """The recipe's tokenizer: trained weights where it names a checkpoint, initial ones where it describes a tokenizer.

    Where the recipe's order divides tokens into scales, the tokenizer gives those of all scales.

    Args:
        recipe: The recipe.
        media: The format of the media.
        stages: Of :func:`load_stages`; loaded if not given.

    Raises:
        ValueError: as :func:`load_stages`, or if the settings do not fit the media.
    """
    trained = tokenizers_of(load_stages(recipe, media) if stages is None else stages)
    if isinstance(recipe.tokenizer, Trained):
        tokenizer = trained["tokenizer"]
        if recipe.tokenizer.num_codebooks is not None:
            tokenizer.keep_codebooks(recipe.tokenizer.num_codebooks)
    else:
        tokenizer = recipe.tokenizer.build(media, trained)
    scales = () if recipe.order is None else recipe.order.scales_of(tokenizer.layout)
    return ScaledTokenizer(tokenizer, scales) if scales else tokenizer


def copy_stages(recipe: Recipe, out: Path) -> None:
    """Copy the stages that a recipe names as folders, or on the Hub, into its checkpoint, which stands alone then."""
    for name, checkpoint in recipe.requires.items():
        target = out / STAGES / name
        if (is_address(checkpoint) or Path(checkpoint).is_dir()) and not target.exists():
            with new_folder(target) as folder:
                copy_checkpoint(find(checkpoint), folder)


def copy_checkpoint(folder: Path, target: Path) -> None:
    """Copy the files of a checkpoint and of its stages into a folder."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("recipe.yaml", DESCRIPTION, WEIGHTS, CHECKSUMS):
        if name != CHECKSUMS or (folder / name).exists():
            shutil.copyfile(folder / name, target / name)
    for stage in (folder / STAGES).glob("*/"):
        copy_checkpoint(stage, target / STAGES / stage.name)


_loading: ContextVar[tuple[Path, ...]] = ContextVar("loading", default=())
"""The folders that are being loaded, each for the one before it."""


class Description(TypedDict):
    """What ``model.json`` holds."""

    media: MediumJSON
    classes: list[str]
    tokenizer_sha256: str | None
    condition: JSON | None
    stages_sha256: NotRequired[dict[str, str]]


def describe(
    media: Medium,
    classes: Sequence[str],
    tokenizer: Tokenizer,
    generator: Generator | None,
    stages: Mapping[str, Tokenizer] | None = None,
) -> Description:
    """What a checkpoint records beside recipe and weights: sizes and names from the data, and what it was built on.

    Args:
        media: The format of the media.
        classes: Classes of the data.
        tokenizer: Its tokenizer.
        generator: Its generator, if it has one.
        stages: Tokenizers of the earlier stages of a cascade.
    """
    condition = generator.condition if generator is not None else None
    description: Description = {
        "media": media.to_json(),
        "classes": list(classes),
        "tokenizer_sha256": None if generator is None else fingerprint(tokenizer),
        "condition": None if condition is None else condition.describe(),
    }
    if stages:
        description["stages_sha256"] = {name: _identity(stage) for name, stage in stages.items()}
    return description


def _identity(tokenizer: Tokenizer) -> str:
    """SHA-256 of what gives a tokenizer's tokens their meaning: weights, media and layout."""
    return hashlib.sha256(f"{fingerprint(tokenizer)} {tokenizer.media.to_json()} {tokenizer.layout.to_json()}".encode()).hexdigest()


def read_description(path: Path) -> tuple[Description, Medium]:
    """What :func:`describe` wrote, and the media format in it.

    Raises:
        CheckpointError: if it is damaged.
    """
    try:
        with open(path, "rb") as file:
            description = json.loads(file.read(MAX_DESCRIPTION))
        classes, made_of, stages = description["classes"], description["tokenizer_sha256"], description.get("stages_sha256", {})
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise TypeError("classes are no list of names")
        if not isinstance(made_of, str | None) or not isinstance(stages, dict):
            raise TypeError("the checksums are no text")
        medium = Medium.from_json(description["media"])
        if not 0 < (values := medium.channels * math.prod(medium.size)) <= MAX_VALUES:
            raise ValueError(f"an item of its media has {values:,} values")
        return description, medium
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        reason = shorten(f"{type(error).__name__}: {error}", 200)
        raise CheckpointError(f"{path} is damaged ({reason}); copy or train the checkpoint again") from None


def load(name_or_folder: str, device: torch.device | str = "auto", media: Medium | None = None, adapters: Sequence[str] = ()) -> System:
    """Load a shipped model by name, a checkpoint folder, or a checkpoint of the Hub by its address.

    Args:
        name_or_folder: Which; of an address without a commit, the system's name says the commit that was taken.
        device: Where its weights go: ``auto``, ``cpu``, ``cuda[:i]`` or ``mps``.
        media: What a tokenizer reads, if that differs from what it was trained on along time alone.
        adapters: Names or paths of adapters, with ``:WEIGHT`` behind them, as of :func:`~jielong.system.adapters.with_adapters`.

    Raises:
        DeviceError: if there is no such device.
        CheckpointError: if it is missing, unfinished, damaged, or not what its recipe says, or an adapter is of another checkpoint.
        TooLargeError: if its recipe describes a much larger model than its weights fill.
    """
    target, folder = resolve_device(device), find(name_or_folder)
    above, here = _loading.get(), folder.resolve()
    if here in above:
        raise CheckpointError(f"{folder / RECIPE} leads to itself: {' -> '.join(map(str, (*above, here)))}")
    token = _loading.set((*above, here))
    try:
        name = str(parse_address(name_or_folder).at(folder.name)) if is_address(name_or_folder) else name_or_folder
        return with_adapters(_load(name, folder, media), adapters).to(target)
    finally:
        _loading.reset(token)


def _load(name: str, folder: Path, media: Medium | None) -> System:
    recipe = parse(read_file(folder / RECIPE), str(folder / RECIPE))
    description, made_for = read_description(folder / DESCRIPTION)
    if media is None or recipe.trains_generator or made_for.differs_in(media) != {"time"}:
        media = made_for
    weights, path = read_weights(folder), folder / WEIGHTS
    stages = load_stages(recipe, media, folder)
    size = max(path.stat().st_size, bytes_of(weights))  # the latter of a file in eight bits
    with bounded(4 * size + ALLOWANCE, f"and {path} holds {size / 1e9:.1f} GB: the recipe beside it describes another model"):
        tokenizer = build_tokenizer(recipe, media, stages)
        generator = build_generator(recipe, tokenizer, description["classes"], tokenizers_of(stages)) if recipe.trains_generator else None
    if generator is not None:
        if description["tokenizer_sha256"] != fingerprint(tokenizer):
            raise CheckpointError(f"{name} was trained on the tokens of another tokenizer than its recipe leads to now")
        for stage, expected in description.get("stages_sha256", {}).items():
            if expected != _identity(stages[stage].tokenizer):
                raise CheckpointError(f"{name} was trained on the tokens of another stage {stage!r} than its recipe leads to now")
        fit_tensors(generator, weights, str(path))
        generator.eval().requires_grad_(False)
    else:
        fit_tensors(tokenizer, weights, str(path))
    tokenizer.eval().requires_grad_(False)
    fold(tokenizer)
    return System(name, recipe, tokenizer, generator, stages)
