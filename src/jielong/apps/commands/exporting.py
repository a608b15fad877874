"""``jielong export``: a checkpoint in the files of another program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jielong.apps.commands.screen import say
from jielong.apps.commands.tokenizing import Checkpoint

if TYPE_CHECKING:
    from jielong.system import System


HELP = (
    "onnx: the tokenizer's encoder and decoder (needs the extra `onnx`). diffusers: an autoencoder resnet of kl or vq, or a DiT. "
    "transformers: EnCodec, Mimi or DAC."
)


class Format(StrEnum):
    """What is written."""

    onnx = "onnx"
    diffusers = "diffusers"
    transformers = "transformers"


def export(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option(help="The folder to write, which must not exist.")],
    form: Annotated[Format, typer.Option("--format", help=HELP)],
) -> None:
    """Write a checkpoint in the files of another program, compared with the checkpoint before they are kept."""
    from jielong.system import load

    if out.exists():
        raise typer.BadParameter(f"{out} exists: choose a new folder", param_hint="--out")
    for line in _WRITERS[form](load(checkpoint, "cpu"), out):
        say(line)
    typer.echo(out)


def _onnx(system: System, out: Path) -> list[str]:
    from jielong.interop.onnx import DECODER, ENCODER, export_onnx

    left_out = [f"the generator of {system.name} is left out: ONNX holds its tokenizer alone"] if system.generator is not None else []
    return [*left_out, f"{ENCODER} and {DECODER} in onnxruntime: {export_onnx(system, out)}"]


def _folder(form: Format) -> Callable[[System, Path], list[str]]:
    def write(system: System, out: Path) -> list[str]:
        from jielong.interop.exporting import export_folder

        return export_folder(system, form, out)

    return write


_FOLDERS = (Format.diffusers, Format.transformers)
_WRITERS: Mapping[Format, Callable[[System, Path], list[str]]] = {Format.onnx: _onnx} | {form: _folder(form) for form in _FOLDERS}
"""Each format's function: a system on the CPU and the new folder to lines that say what was written and what was left out."""
