"""Released weights as checkpoints of ours, so that everything that takes a checkpoint takes them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from jielong.config.registry import RecipeError, nearest, read_settings
from jielong.config.schema import Recipe
from jielong.core.allocation import without_parameters
from jielong.core.files import new_folder, write_bytes
from jielong.interop.codecs import Codec
from jielong.interop.released import Imported
from jielong.interop.systems import RELEASES, Release
from jielong.interop.systems.codecs import of_codec
from jielong.media.kinds.base import kind_of
from jielong.system import DESCRIPTION, System, build_generator, build_tokenizer, describe, load, tokenizers_of
from jielong.system.checkpoint import STAGES
from jielong.system.model_card import CARD, ModelCard
from jielong.training.checkpoint import CheckpointError, check_finite, save_checkpoint

SAMPLES = 1_000
"""The budget in the recipe of an imported system, which nobody has chosen yet."""

FIXED: Mapping[str, object] = {"class": 0, "text": "a photograph of an astronaut"}
"""Inputs that :func:`output_hash` gives to a generator's condition, by name."""


@dataclass(frozen=True)
class Report:
    """What an import did.

    Attributes:
        folder: The checkpoint.
        tensors: Names and shapes of ours, of all stages.
        changes: What was done to their tensors beside renaming.
        notes: What the reader says of the files.
        output: SHA-256 of an output for a fixed input (:func:`output_hash`); ``None`` if there is none, or it was not asked for.
    """

    folder: Path
    tensors: dict[str, tuple[int, ...]]
    changes: list[str]
    notes: list[str]
    output: str | None


def import_weights(system: str, paths: Sequence[Path], out: Path, check: bool = False) -> Report:
    """Write released weights as a checkpoint folder of ours. Nothing is left of it if anything is wrong.

    Args:
        system: A name of :data:`~jielong.interop.systems.RELEASES`.
        paths: Its files or folders.
        out: A new folder.
        check: Also load the checkpoint and compute an output.

    Raises:
        CheckpointError: if there is no such system, or the files are not its.
        StorageError: if the folder is there already or cannot be written.
    """
    if system not in RELEASES:
        raise CheckpointError(f"there is no system called {system!r} to import; {nearest(system, RELEASES)}")
    release = RELEASES[system]
    imported = release.read(paths)
    with new_folder(out) as folder:
        kept = keep(imported, folder, out)
        write_bytes(folder / CARD, str(_card(release, kept.recipe, kept.tokenizer.media.kind, out.name)).encode())
        output = output_hash(load(str(folder), "cpu")) if check else None
    stages = list(_with_stages(imported, kept))
    changes = [f"{name}{line}" for name, each, model in stages for line in each.keys.changes(each.weights, model.state_dict())]
    tensors = {f"{name}{key}": tuple(tensor.shape) for name, _, model in stages for key, tensor in model.state_dict().items()}
    return Report(out, tensors, changes, [note for _, each, _ in stages for note in each.notes], output)


def keep(imported: Imported, folder: Path, place: Path) -> System:
    """Write an imported system and its stages into a folder.

    Args:
        imported: The system.
        folder: The folder.
        place: Where the folder will be: what its recipe calls its stages.

    Returns:
        The system, with their weights and without anything computed from them: not to be used for more than writing.

    Raises:
        CheckpointError: if the weights do not fit the recipe, or a value is not finite.
    """
    stages = {name: keep(stage, folder / STAGES / name, place / STAGES / name) for name, stage in imported.stages.items()}
    system = built(imported, place, stages)
    model = system.tokenizer if system.generator is None else system.generator
    state = imported.keys.apply(imported.weights, model.state_dict())
    check_finite(state, "these weights")  # of ours: masks among theirs hold infinities
    with torch.no_grad():
        model.load_state_dict(state, assign=True)
    save_checkpoint(folder, model, system.recipe.to_yaml())
    described = describe(imported.media, imported.classes, system.tokenizer, system.generator)
    write_bytes(folder / DESCRIPTION, json.dumps(described, indent=2).encode())
    return system


def built(imported: Imported, place: Path, stages: Mapping[str, System]) -> System:
    """An imported system with its parameters on ``meta``.

    Args:
        imported: The system.
        place: What its recipe calls the folder of its stages.
        stages: Its stages.

    Raises:
        CheckpointError: if its sizes are outside those of a recipe, such as a sound of fewer than 1,000 samples a second.
    """
    media = imported.media
    tokenizer = {"tokenizer": {"checkpoint": str(place / STAGES / "tokenizer")}} if "tokenizer" in stages else {}
    data = {**dict(imported.recipe.get("data") or {}), **kind_of(media).keys_of(media)}  # type: ignore[call-overload]
    try:
        recipe = read_settings(Recipe, {"train": {"samples": SAMPLES}, **tokenizer, **imported.recipe, "data": data})
    except RecipeError as error:
        raise CheckpointError(f"no recipe can describe these weights: {error}") from None
    with without_parameters():
        units = build_tokenizer(recipe, media, stages)
        generator = build_generator(recipe, units, imported.classes, tokenizers_of(stages)) if recipe.trains_generator else None
    return System(str(place), recipe, units, generator, stages)


def keep_codec(codec: Codec, out: str | os.PathLike[str], data: str = "prompts") -> Path:
    """Write a codec as a checkpoint folder: :func:`jielong.load`, ``jielong tokenize``, ``tokenizer: {checkpoint: FOLDER}`` read it.

    Its recipe is what one would go on training it by: published losses are its authors' and are not known to the weights.

    Args:
        codec: From :mod:`jielong.interop.codecs`.
        out: The folder, made if it does not exist.
        data: The set that its recipe names.

    Raises:
        CheckpointError: if it cannot be written.
    """
    folder = Path(out)
    keep(of_codec(codec, data), folder, folder)
    return folder


def output_hash(system: System, digits: int = 3) -> str | None:
    """SHA-256 of what a system makes of a fixed input, rounded: a tokenizer's reconstruction of noise, a generator's tokens for seed 0.

    Machines and versions of PyTorch round differently, so that it is to be compared on one of them. ``None`` for a generator of inputs
    that have no fixed value (:data:`FIXED`).
    """
    if system.generator is None:
        media = system.tokenizer.media
        noise = torch.rand(1, media.channels, *media.size, generator=torch.Generator().manual_seed(0)) * 2 - 1
        with torch.no_grad():
            output = system.tokenizer.decode(system.tokenizer.encode(noise))
        return _hash(output, digits)
    condition = system.recipe.condition
    names = () if condition is None else [each.name for each in condition.inputs]
    if any(name not in FIXED for name in names):
        return None
    conditions = None if condition is None else condition.values({name: [FIXED[name]] for name in names})
    return _hash(system.generate_tokens(conditions, 1, seed=0).values, digits)


def _hash(output: Tensor, digits: int) -> str:
    exact = (output.detach().double() * 10**digits).round() if output.is_floating_point() else output
    return hashlib.sha256(exact.long().contiguous().numpy().tobytes()).hexdigest()


def _with_stages(imported: Imported, kept: System, above: str = "") -> Iterator[tuple[str, Imported, nn.Module]]:
    """Systems with the models that hold their weights, stages first; names begin with those of the stages that lead there."""
    for name, stage in imported.stages.items():
        yield from _with_stages(stage, kept.stages[name], f"{above}{name}: ")
    yield above, imported, kept.tokenizer if kept.generator is None else kept.generator


def _card(release: Release, recipe: Recipe, kind: str, name: str) -> ModelCard:
    terms = f"Licence of the weights: {release.licence}. They are those of {release.source}, with other names and in another layout."
    return ModelCard(
        name, f"{release.about}: released weights, imported.", recipe, kind, {"source": release.source}, [terms], licence=release.licence
    )
