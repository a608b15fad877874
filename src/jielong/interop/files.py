"""Weights of others from files: safetensors, and pickles of tensors alone, which ``jielong import`` turns into safetensors.

A pickle can run any code when it is read. :func:`read` opens one with ``weights_only``, which builds tensors, numbers and texts and
refuses everything else, so it is the one place of this package that opens them at all.
"""

from __future__ import annotations

import argparse
import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from jielong.core.json import JSON
from jielong.core.text import shorten
from jielong.training.checkpoint import CheckpointError, read_tensors

CONFIG = "config.json"
OUTER = ("model_ema", "ema", "model", "state_dict", "trainer/var_wo_ddp", "trainer/vae_local")
"""Keys under which training scripts keep a model's weights, the averaged ones first; ``/`` leads into a dictionary."""
PREFIXES = ("module.", "_orig_mod.")
"""What wrappers put before every name: ``DistributedDataParallel``, ``torch.compile``."""
_PICKLES = (".pt", ".pth", ".bin", ".ckpt")
_IN_FOLDERS = ("model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin", "diffusion_pytorch_model.bin")
_INDEX = "*.safetensors.index.json"


@dataclass(frozen=True)
class Source:
    """Weights as they were found.

    Attributes:
        path: The file or folder.
        weights: By name, on the CPU; pages of the file where it can be mapped.
        config: What ``config.json`` of a folder says; empty without.
        notes: Which of several sets of weights were taken, and prefixes that were left out.
        under: The key of the set that was taken; empty where a file has one set alone.
    """

    path: Path
    weights: Mapping[str, Tensor]
    config: JSON = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    under: str = ""


def read(path: Path, outer: Sequence[str] = OUTER) -> Source:
    """Read weights from a file (``.safetensors``, ``.pt``, ``.pth``, ``.bin``, ``.ckpt``), or from a folder with one and a configuration.

    Args:
        path: The file or folder.
        outer: Keys under which weights may be kept, the preferred ones first.

    Raises:
        CheckpointError: if there are no weights, the file is damaged or holds more than weights.
    """
    if not path.exists():
        raise CheckpointError(f"there is no file or folder {path}")
    return _read_folder(path, outer) if path.is_dir() else _read_file(path, outer)


def parts(sources: Sequence[Source], **marks: str) -> dict[str, Source]:
    """Which source holds which part of a system, in whatever order they were given.

    Args:
        sources: As read.
        marks: The name of a tensor that a part alone has, by the part's name.

    Raises:
        CheckpointError: if a source holds none of them, two the same, or no source a part.
    """
    found: dict[str, Source] = {}
    for source in sources:
        part = next((part for part, mark in marks.items() if mark in source.weights), None)
        if part is None:
            listed = " nor ".join(f"{mark!r} of a {part}" for part, mark in marks.items())
            first = next(iter(source.weights), "nothing")
            raise CheckpointError(f"{source.path} is no part of this system: it has neither {listed}; its first tensor is {first!r}")
        if part in found:
            raise CheckpointError(f"{found[part].path} and {source.path} are both a {part}: give one")
        found[part] = source
    if missing := [part for part in marks if part not in found]:
        whole = " and a ".join(marks)
        raise CheckpointError(f"this system is a {whole}, each in a file, and that of the {missing[0]} is missing: name it too")
    return found


def check_codes(transformer: Source, predicted: int, tokenizer: Source, codes: int) -> None:
    """Raise ``CheckpointError`` unless a transformer predicts the codes of the tokenizer that was given with it."""
    if predicted != codes:
        raise CheckpointError(
            f"{transformer.path} predicts {predicted} codes, and {tokenizer.path} has {codes}: give the tokenizer that it was trained with"
        )


def _read_folder(folder: Path, outer: Sequence[str]) -> Source:
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if index := next(iter(sorted(folder.glob(_INDEX))), None):
        places = read_json(index).get("weight_map")
        if not isinstance(places, dict):
            raise CheckpointError(f"{index} is damaged: it has no weight_map")
        names = sorted({Path(str(name)).name for name in places.values()})  # beside the index: no path leads out of the folder
        return Source(folder, {key: tensor for name in names for key, tensor in read_tensors(folder / name).items()}, config)
    file = next((folder / name for name in _IN_FOLDERS if (folder / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{folder} has none of {', '.join(_IN_FOLDERS)}, and no index of several files")
    found = _read_file(file, outer)
    return replace(found, path=folder, config=config)


def read_json(path: Path) -> JSON:
    """A dictionary from a file of JSON.

    Raises:
        CheckpointError: if it cannot be read, or is no dictionary.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: it is no dictionary")
    return content


def _read_file(path: Path, outer: Sequence[str]) -> Source:
    if path.suffix == ".safetensors":
        return _without_prefix(Source(path, read_tensors(path)))
    if path.suffix not in _PICKLES:
        raise CheckpointError(f"{path} has an unknown ending: weights are read from .safetensors, {', '.join(_PICKLES)}")
    content = _unpickled(path)
    whole = _tensors(content)
    if whole is not None:
        return _without_prefix(Source(path, whole))
    inside = {key: tensors for key in outer if (tensors := _tensors(_under(content, key))) is not None}
    if not inside:
        keys = shorten(", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__, 200)
        raise CheckpointError(f"{path} holds no weights that are known: it has {keys}, and weights are looked for under {', '.join(outer)}")
    taken = next(iter(inside))
    others = [key for key in inside if key != taken]
    note = f"{path.name}: took the weights under {taken!r}" + (f", not those under {', '.join(map(repr, others))}" if others else "")
    return _without_prefix(Source(path, inside[taken], notes=(note,), under=taken))


def _unpickled(path: Path) -> object:
    try:
        # Scripts keep their arguments beside the weights: a plain record of numbers and texts.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        lines = [line.strip() for line in str(error).splitlines() if "Unsupported" in line or "GLOBAL" in line]
        reason = shorten(lines[0] if lines else str(error), 200)
        known = "" if "GLOBAL" in reason else "is damaged, or "  # operations that no state dict has: of other pickles, or of no pickle
        raise CheckpointError(
            f"{path} {known}holds more than weights, which reading could run as code, so it is not opened ({reason}); get the weights as "
            "safetensors, or save the state dict alone where you trust the file"
        ) from None
    except (RuntimeError, EOFError, ValueError, LookupError) as error:
        raise CheckpointError(f"{path} is no file of torch.save, or truncated ({shorten(str(error), 200)})") from None


def _under(content: object, key: str) -> object:
    """What a path of keys leads to; ``None`` if nothing."""
    for step in key.split("/"):
        content = content.get(step) if isinstance(content, Mapping) else None
    return content


def _tensors(content: object) -> dict[str, Tensor] | None:
    """A state dict; ``None`` if it is something else."""
    if not isinstance(content, Mapping) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        return None
    return {str(name): value.detach() for name, value in content.items()}


def _without_prefix(source: Source) -> Source:
    """Weights without a wrapper's prefix, if all names have it."""
    for prefix in PREFIXES:
        if source.weights and all(name.startswith(prefix) for name in source.weights):
            plain = {name.removeprefix(prefix): tensor for name, tensor in source.weights.items()}
            return _without_prefix(replace(source, weights=plain, notes=(*source.notes, f"{source.path.name}: names without {prefix!r}")))
    return source
