"""Adapters merged into a checkpoint, which is an ordinary one then."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from jielong.core.files import new_folder
from jielong.core.json import to_text
from jielong.data.licences import LICENCE
from jielong.system.adapters import find_adapter, parse_reference, read_record
from jielong.system.checkpoint import copy_checkpoint, find, load
from jielong.training.checkpoint import RECIPE, CheckpointError, save_checkpoint

MERGED = "adapters.json"
"""Beside the merged weights: the records of the adapters, with their weights."""


def merge(name_or_folder: str, references: Sequence[str], out: Path) -> Path:
    """Write a checkpoint whose weights are those of another with adapters.

    Args:
        name_or_folder: The base.
        references: Adapters, as of :func:`~jielong.system.adapters.with_adapters`.
        out: A new folder.

    Raises:
        CheckpointError: if the folder exists, or as :func:`~jielong.system.checkpoint.load`.
    """
    if out.exists():
        raise CheckpointError(f"{out} exists: choose a new folder for the merged checkpoint")
    system, source = load(name_or_folder, "cpu", adapters=references), find(name_or_folder)
    assert system.generator is not None
    records = [(weight, read_record(find_adapter(name))) for name, weight in map(parse_reference, references)]
    merged = [{"weight": weight, **vars(record)} for weight, record in records]
    with new_folder(out) as folder:
        copy_checkpoint(source, folder)
        new_words = any(record.words for weight, record in records if weight)
        text = system.recipe.to_yaml() if new_words else (source / RECIPE).read_text("utf-8")
        save_checkpoint(folder, system.generator, text)
        if (source / LICENCE).exists():
            (folder / LICENCE).write_bytes((source / LICENCE).read_bytes())
        (folder / MERGED).write_text(json.dumps(json.loads(to_text(merged)), indent=2), encoding="utf-8")
    return out
