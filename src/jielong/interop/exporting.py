"""Checkpoints as folders of other programs: ``diffusers`` and ``transformers``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from jielong.core.files import new_folder
from jielong.interop.export_codecs import export_codec
from jielong.interop.export_diffusers import export_diffusers
from jielong.system.pipeline import System

WRITERS: Mapping[str, Callable[[System, Path], list[str]]] = {"diffusers": export_diffusers, "transformers": export_codec}
"""Each library's function: a system on the CPU and an empty folder to what the reader of the folder should know."""


def export_folder(system: System, library: str, out: Path) -> list[str]:
    """Write a system as a folder that a library reads; nothing is left of it if anything is wrong.

    Args:
        system: On the CPU.
        library: A name of :data:`WRITERS`.
        out: A new folder.

    Returns:
        What the reader of the folder should know.

    Raises:
        CheckpointError: naming the part or the setting that the library has no counterpart of.
        StorageError: if the folder is there already or cannot be written.
    """
    with new_folder(out) as folder:
        return WRITERS[library](system, folder)
