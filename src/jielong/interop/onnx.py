"""Tokenizers as ONNX graphs: ``encode`` and ``decode`` for any program that runs ONNX, each compared with ours before it is kept.

The number of items is free; sizes and lengths are those of the tokenizer's media. A graph does not check its inputs.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jielong.core.files import new_folder, write_bytes
from jielong.core.text import shorten
from jielong.core.tokens import Tokens
from jielong.core.version import __version__
from jielong.data.licences import Licence
from jielong.media.reading.libraries import library
from jielong.system import System
from jielong.system.checkpoint import folder_of
from jielong.tokenizers.base import Tokenizer

ENCODER, DECODER, DESCRIPTION = "encoder.onnx", "decoder.onnx", "tokenizer.json"
TOLERANCE = 1e-4
"""Largest difference of media and of continuous tokens, over the largest absolute value where that is above 1."""
EQUAL_CODES = 0.999
"""Least share of equal codes: two codes that are equally near up to rounding may change places."""
SEED, BATCHES = 0, (2, 3)
"""Of the media that the graphs are compared on, and their numbers of items: that of the example in the export, and another."""
_SINGLE_FILE = 1 << 30
"""Most bytes of weights in the graph's own file, since a message of protobuf holds 2 GiB; more are in a file beside it."""


class ExportError(ValueError):
    """A model cannot be exported; the text names it and the reason."""


@dataclass(frozen=True)
class Comparison:
    """The graphs in onnxruntime beside the tokenizer.

    Attributes:
        codes: Codes that were compared; 0 of continuous tokens.
        equal: How many are equal.
        tokens: Largest difference of continuous tokens; 0 of codes.
        media: Largest difference of decoded media, of the same tokens.
    """

    codes: int = 0
    equal: int = 0
    tokens: float = 0.0
    media: float = 0.0

    def __str__(self) -> str:
        tokens = f"{self.equal:,} of {self.codes:,} codes are equal" if self.codes else f"tokens differ by at most {self.tokens:.1e}"
        return f"{tokens}, media differ by at most {self.media:.1e}"


class _Encode(nn.Module):
    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, media: Tensor) -> Tensor:
        return self.tokenizer.encode(media).values


class _Decode(nn.Module):
    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, tokens: Tensor) -> Tensor:
        return self.tokenizer.decode(Tokens(tokens, self.tokenizer.layout))


def export_onnx(system: System, out: Path) -> Comparison:
    """Write ``encoder.onnx``, ``decoder.onnx`` and ``tokenizer.json`` of a system's tokenizer into a new folder, whole or not at all.

    The encoder takes ``media`` ``(B, C, *size)`` in [-1, 1] and gives ``tokens`` ``(B, N, C)``: codes as int64, or float32. The decoder
    takes these and gives media.

    Args:
        system: On the CPU; of a generator its tokenizer.
        out: The folder, which must not exist.

    Returns:
        How the graphs compare with the tokenizer in onnxruntime.

    Raises:
        ExportError: if a part of the tokenizer has no ONNX form, or a graph differs from it.
        MissingLibraryError: without the packages of the extra `onnx`.
        StorageError: if the folder cannot be written, or exists.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        library(name, "onnx", "the export to ONNX")
    tokenizer = system.tokenizer
    with new_folder(out) as folder:
        media = torch.rand(BATCHES[0], *tokenizer.media.shape, generator=torch.Generator().manual_seed(SEED)) * 2 - 1
        tokens = tokenizer.encode(media).values
        opset = _write(_Encode(tokenizer), media, ("media", "tokens"), folder / ENCODER)
        _write(_Decode(tokenizer), tokens, ("tokens", "media"), folder / DECODER)
        found = compare(tokenizer, folder)
        _check(found, system.name)
        write_bytes(folder / DESCRIPTION, json.dumps(_description(system, opset, found), indent=2).encode())
    return found


def compare(tokenizer: Tokenizer, folder: Path) -> Comparison:
    """Run the graphs of a folder in onnxruntime, on random media of each number of items in :data:`BATCHES`."""
    encoder, decoder = (_session(folder / name) for name in (ENCODER, DECODER))
    codes = equal = 0
    worst_tokens = worst_media = 0.0
    generator = torch.Generator().manual_seed(SEED)
    for count in BATCHES:
        media = torch.rand(count, *tokenizer.media.shape, generator=generator) * 2 - 1
        ours = tokenizer.encode(media)
        theirs = _run(encoder, "media", media)
        if theirs.shape != ours.values.shape or theirs.dtype != ours.values.dtype:
            raise ExportError(f"the graph gives tokens {tuple(theirs.shape)} of {theirs.dtype}, not {tuple(ours.values.shape)}")
        if tokenizer.layout.discrete:
            codes, equal = codes + theirs.numel(), equal + int((theirs == ours.values).sum())
        else:
            worst_tokens = max(worst_tokens, _difference(theirs, ours.values))
        decoded = _run(decoder, "tokens", ours.values)
        worst_media = max(worst_media, _difference(decoded, tokenizer.decode(ours)))
    return Comparison(codes, equal, worst_tokens, worst_media)


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors: what it optimises away is no news
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _run(session: Any, name: str, values: Tensor) -> Tensor:
    """The result of a graph, which has one input."""
    try:
        return torch.from_numpy(session.run(None, {name: values.numpy()})[0])
    except Exception as error:  # of onnxruntime, whose types are no part of its interface
        raise ExportError(f"onnxruntime cannot run the graph on {len(values)} items of {name}: {_reason(error)}") from error


def _difference(theirs: Tensor, ours: Tensor) -> float:
    """Largest absolute difference, over our largest absolute value where that is above 1."""
    return float((theirs - ours).abs().max()) / max(1.0, float(ours.abs().max()))


def _check(found: Comparison, name: str) -> None:
    """Refuse graphs that compute something else."""
    if found.equal < EQUAL_CODES * found.codes or max(found.tokens, found.media) > TOLERANCE:
        raise ExportError(f"the ONNX graphs of {name} differ from its tokenizer in onnxruntime ({found}); nothing was written")


def _write(half: nn.Module, example: Tensor, names: tuple[str, str], path: Path) -> int:
    """Export a half and write its file; the version of the operators."""
    size = sum(value.numel() * value.element_size() for value in half.state_dict().values())
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                half.eval(),
                (example,),
                dynamo=True,
                input_names=names[:1],
                output_names=names[1:],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                verbose=False,
            )
            assert program is not None
            program.save(path, external_data=size > _SINGLE_FILE)
    except Exception as error:  # of the exporter, whose types are no part of its interface
        if isinstance(error, OSError):
            raise
        reason = shorten(" ".join(_reason(error).split()), 300)
        tokenizer = half.tokenizer
        raise ExportError(f"the {names[0]} of a {type(tokenizer).__name__} cannot be exported to ONNX: {reason}") from error
    return int(program.model.opset_imports[""])


def _reason(error: BaseException) -> str:
    """What is wrong: the words of the first cause, without the exporter's advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".split("\n\n", 1)[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out the exporter's warnings, of operators of packages that no tokenizer uses."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _description(system: System, opset: int, found: Comparison) -> dict[str, object]:
    """What ``tokenizer.json`` holds."""
    tokenizer, terms = system.tokenizer, Licence.beside(folder_of(system.name))
    return {
        "made_by": f"jielong {__version__}",
        "checkpoint": Path(system.name).name,
        "tokenizer": type(tokenizer).__name__,
        "opset": opset,
        "media": tokenizer.media.to_json(),
        "range": [-1, 1],
        "layout": tokenizer.layout.to_json(),
        "tokens": "int64" if tokenizer.layout.discrete else "float32",
        "compared": asdict(found),
        "licence": None if terms is None else asdict(terms),
    }
