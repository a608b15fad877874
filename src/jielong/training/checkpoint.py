"""Weights on disk: safetensors only, written whole or not at all."""

from __future__ import annotations

import hashlib
import math
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jielong.core.files import replacing, write_bytes
from jielong.quantizers.base import Quantizer
from jielong.training import int8
from jielong.training.derived_codes import with_codes, without_codes

WEIGHTS = "model.safetensors"
ADAPTER = "adapter.safetensors"
"""What a run of a recipe with `adapter` leaves in place of :data:`WEIGHTS`."""
RECIPE = "recipe.yaml"
CHECKSUMS = "SHA256SUMS"
"""The file beside weights with their SHA-256, as ``sha256sum -c SHA256SUMS`` reads it."""
MAX_HEADER = 16 << 20
"""Most bytes of a safetensors header; a tensor takes about a hundred."""
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_OS_ERROR = re.compile(r"os error (\d+)")
"""How safetensors words an error of the operating system."""
_PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")

StorageDtype = Literal["bf16", "int8"]
"""How :func:`save_checkpoint` may round a model's parameters."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the text names the file, what is wrong and what to do."""


def save_checkpoint(folder: str | os.PathLike[str], model: nn.Module, recipe_yaml: str, dtype: StorageDtype | None = None) -> Path:
    """Write ``recipe.yaml``, ``model.safetensors`` and its checksum into a folder, each whole or not at all.

    Args:
        folder: Created if it does not exist.
        model: Its state dict is written.
        recipe_yaml: The recipe that rebuilds the model.
        dtype: ``bf16`` halves the file: floating-point parameters are rounded to it. Buffers (codebooks, statistics) stay as they are,
            but for codes that are the quotient of their averages (:mod:`jielong.training.derived_codes`): reading computes them again.
            ``int8`` takes about half of that: matrices are stored by :func:`~jielong.training.int8.quantize`, other parameters as bf16,
            and the parameters of quantizers stay as they are too. Reading needs no option.

    Raises:
        StorageError: if the disk is full or the folder cannot be written.
    """
    folder = Path(folder)
    tensors = _rounded(model, dtype)
    write_bytes(folder / RECIPE, recipe_yaml.encode())
    (folder / CHECKSUMS).unlink(missing_ok=True)  # that of older weights: a run killed before the new one leaves none, not a wrong one
    write_tensors(folder / WEIGHTS, tensors, int8.METADATA if dtype == "int8" else None)
    write_checksums(folder, [WEIGHTS])
    return folder


def _rounded(model: nn.Module, dtype: StorageDtype | None) -> dict[str, Tensor]:
    """A model's tensors as they are stored."""
    tensors: dict[str, Tensor] = model.state_dict()
    if dtype is None:
        return tensors
    parameters = {name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter.is_floating_point()}
    if dtype == "int8":  # tokens depend on every bit of a codebook and of what leads to it within a quantizer
        quantizers = [name for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, Quantizer)]
        parameters -= {name for name in parameters if any(name.startswith(f"{quantizer}.") for quantizer in quantizers)}
    stored: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name not in parameters:
            stored[name] = value
        elif dtype == "int8" and int8.quantizable(value):
            stored[name + int8.DATA], stored[name + int8.SCALE] = int8.quantize(value)
        else:
            stored[name] = value.to(torch.bfloat16)
    return without_codes(model, stored)


def write_checksums(folder: Path, names: Iterable[str]) -> None:
    """Write :data:`CHECKSUMS` of files of a folder.

    Raises:
        StorageError: if it cannot be written.
    """
    write_bytes(folder / CHECKSUMS, "".join(f"{_sha256(folder / name)}  {name}\n" for name in sorted(names)).encode())


def checksums_of(folder: Path) -> dict[str, str]:
    """The recorded SHA-256 of files of a folder by name; none in a folder of an earlier version.

    Raises:
        CheckpointError: if :data:`CHECKSUMS` is damaged.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        return {}
    with open(path, "rb") as file:
        lines = file.read(1 << 20).decode("ascii", "replace").splitlines()
    found = [re.fullmatch(r"([0-9a-f]{64})  ([^/\\]+)", line) for line in lines]
    if not lines or None in found:
        raise CheckpointError(f"{path} is damaged: every line of it is the SHA-256 of a file and its name; copy or train it again")
    return {match[2]: match[1] for match in found if match is not None}


def check_checksum(path: Path) -> bool:
    """Compare a file with its recorded SHA-256; ``False`` if none is recorded.

    Raises:
        CheckpointError: if they differ.
    """
    recorded = checksums_of(path.parent).get(path.name)
    if recorded is None or not path.is_file():
        return False
    if (found := _sha256(path)) != recorded:
        raise CheckpointError(
            f"{path} is damaged: its SHA-256 is {found[:12]}..., and {CHECKSUMS} beside it says {recorded[:12]}...; copy or train it again"
        )
    return True


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(folder: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of ``model.safetensors`` of a folder (or of a ``.safetensors`` file), compared with the checksum beside it.

    Raises:
        CheckpointError: if the file is missing, truncated, a pickle, or changed since it was written, or holds NaN or infinite values.
    """
    path = Path(folder)
    path = path if path.suffix == ".safetensors" else path / WEIGHTS
    tensors = read_tensors(path)  # first, as it names a cut file and a pickle
    if not check_checksum(path):
        warnings.warn(f"{path} has no {CHECKSUMS} beside it, so damage cannot be found out: jielong verify {path.parent}", stacklevel=2)
    check_finite(tensors, str(path))
    return tensors


def check_finite(tensors: Mapping[str, Tensor], origin: str) -> None:
    """Refuse NaN and infinite values, and types of a byte or less, which PyTorch cannot check.

    Raises:
        CheckpointError: naming the first tensor that holds one.
    """
    for name, value in tensors.items():
        if value.is_floating_point() and value.dtype not in _FLOATS:
            raise CheckpointError(f"{origin}: the tensor {name!r} is of {value.dtype}; convert it to torch.bfloat16 or wider")
        # NaN is in both ends; isfinite takes thirty times as long, and memory.
        if value.is_floating_point() and value.numel() and not all(map(math.isfinite, value.aminmax())):
            count = int((~torch.isfinite(value)).sum())
            raise CheckpointError(f"{origin}: {count:,} of {value.numel():,} values of the tensor {name!r} are not finite; train it again")


def load_weights(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Load the weights of a folder (:func:`read_weights`) into a model, in the model's own dtypes.

    Raises:
        CheckpointError: as :func:`read_weights`, or if they do not fit the model; nothing was changed then.
    """
    fit_tensors(model, read_weights(folder), str(folder))


def fit_tensors(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Copy tensors into a model's state.

    Raises:
        CheckpointError: naming the first tensor that is missing, unknown, of another shape or kind; nothing was changed then.
    """
    state = model.state_dict()
    missing, unknown = [name for name in state if name not in tensors], [name for name in tensors if name not in state]
    hint = "the recipe beside it describes another model"
    if missing:
        raise CheckpointError(f"{origin} lacks {len(missing)} of {len(state)} tensors, first {missing[0]!r}: {hint}")
    if unknown:
        raise CheckpointError(f"{origin} holds {len(unknown)} tensors that the model does not have, first {unknown[0]!r}: {hint}")
    for name, value in state.items():
        if tensors[name].shape != value.shape:
            stored, wanted = tuple(tensors[name].shape), tuple(value.shape)
            raise CheckpointError(f"{origin}: tensor {name!r} is {stored}, but the model's is {wanted}: {hint}")
        if tensors[name].dtype not in (_FLOATS if value.is_floating_point() else {value.dtype}):
            raise CheckpointError(f"{origin}: tensor {name!r} is of {tensors[name].dtype}, but the model's is of {value.dtype}: {hint}")
    with torch.no_grad():
        for name, value in state.items():
            value.copy_(tensors[name])


def init_from_checkpoint(model: nn.Module, folder: Path) -> tuple[int, list[str]]:
    """Initialise a model from the tensors of a checkpoint that have the same name and shape.

    Args:
        model: Changed in place.
        folder: With ``model.safetensors``.

    Returns:
        How many tensors were copied, and the names of the others.

    Raises:
        CheckpointError: if none fits.
    """
    stored, state = read_weights(folder), model.state_dict()
    fitting = [name for name, value in state.items() if name in stored and stored[name].shape == value.shape]
    if not fitting:
        raise CheckpointError(
            f"none of the {len(stored)} tensors of {folder} fits this model: set train.init_from to one of a similar recipe"
        )
    with torch.no_grad():
        for name in fitting:
            state[name].copy_(stored[name])
    return len(fitting), [name for name in state if name not in set(fitting)]


def bytes_of(tensors: Mapping[str, Tensor]) -> int:
    """Size of tensors, tied ones counted once per name, as they are stored."""
    return sum(value.numel() * value.element_size() for value in tensors.values())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file under a temporary name, flush it to the disk, and rename it.

    Args:
        path: The file.
        tensors: By name.
        metadata: Of the file; ``format: pt`` if not given.

    Raises:
        StorageError: if it cannot be written; an older file is left intact.
    """
    plain: dict[str, Tensor] = {}
    pointers: set[int] = set()
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        # The format has no shared memory: tied weights are stored once per name.
        plain[name] = value.clone() if value.data_ptr() in pointers else value
        pointers.add(plain[name].data_ptr())
    try:
        with replacing(path, bytes_of(plain)) as beside:
            try:
                save_file(plain, beside, metadata=dict(metadata or {"format": "pt"}))
            except SafetensorError as error:
                if (code := _OS_ERROR.search(str(error))) is None:
                    raise
                raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
            with open(beside, "rb") as file:
                os.fsync(file.fileno())
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; tensors in eight bits (:mod:`jielong.training.int8`) become float32, quotients codes.

    Raises:
        CheckpointError: if it is missing, truncated, something else, such as a pickle, or holds a wrong tensor in eight bits.
    """
    if not path.is_file():
        pickles = sorted(file.name for file in path.parent.glob("*") if file.suffix in _PICKLES) if path.parent.is_dir() else []
        also = f"; {pickles[0]} beside it is a pickle, which can run any code when it is read, and is not opened" if pickles else ""
        raise CheckpointError(f"there are no weights at {path}{also}")
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(16)
    # A safetensors file begins with the length of its header (8 bytes) and the header's brace; a length may look like a pickle's mark.
    if start[8:9] != b"{" and (start[:4] == b"PK\x03\x04" or start[:1] == b"\x80"):
        raise CheckpointError(
            f"{path} is a pickle (a torch.save file), which can run any code when it is read, and is not opened; save it with safetensors"
        )
    declared = int.from_bytes(start[:8], "little") + 8
    if MAX_HEADER < declared <= size:
        raise CheckpointError(
            f"{path} has a header of {declared:,} bytes, and at most {MAX_HEADER:,} are read; save its tensors in several files"
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        cut = len(start) < 8 or declared > size or "incomplete" in str(error).lower()
        what = f"is truncated ({size:,} bytes are there)" if cut else "is not a safetensors file"
        raise CheckpointError(f"{path} {what}: {error}; copy or train it again") from None
    try:
        return with_codes(int8.dequantize(tensors))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}; copy or train it again") from None


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's weights and buffers: names, shapes and values, whatever the device, dtype or memory layout.

    Floating-point values are compared as float32, so a model that was stored in a narrower type and read back has the same fingerprint.
    """
    total = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        value = value.detach().cpu()
        value = value.to(torch.float32) if value.is_floating_point() else value.long()
        total.update(f"{name} {tuple(value.shape)};".encode())
        total.update(value.contiguous().numpy().tobytes())
    return total.hexdigest()
