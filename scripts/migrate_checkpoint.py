"""Rename the tensors of a generator's checkpoint as this version names them.

    python scripts/migrate_checkpoint.py runs/my-generator

Only the header of ``model.safetensors`` is rewritten; the numbers stay bit for bit as they are. ``weights_sha256`` in an
``evaluation.json`` beside it, which depends on the names, is computed again. Checkpoints inside the folder (``tokenizer/``) are migrated
too. A second run changes nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import struct
from pathlib import Path

import torch
from safetensors.torch import load_file

from jielong.training.checkpoint import CHECKSUMS, write_checksums

NAMES = {
    "places": "position_embeddings",
    "stop": "durations.stop_head",
    "stretch": "durations.regulator",
    "durations.regulator.map": "durations.regulator.state_projection",
    "durations.regulator.phase": "durations.regulator.phase_projection",
    "durations.regulator.pace": "durations.regulator.rate",
    "durations.regulator.guess": "durations.regulator.emission",
    "durations.regulator.before": "durations.regulator.conv1",
    "durations.regulator.after": "durations.regulator.conv2",
    "durations.regulator.said": "durations.regulator.duration",
}
"""Old and new beginnings of names; they are renamed one after the other."""


def renamed(name: str) -> str:
    """The name of a tensor in this version."""
    for old, new in NAMES.items():
        if name == old or name.startswith(f"{old}."):
            name = new + name.removeprefix(old)
    return name


def migrate(file: Path) -> int:
    """Rewrite the header of a safetensors file; how many tensors got another name."""
    data = file.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    changed = sum(renamed(name) != name for name in header)
    if changed:
        text = json.dumps({renamed(name): value for name, value in header.items()}, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
        beside = file.with_name(file.name + ".tmp")
        beside.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
        beside.replace(file)
    return changed


def fingerprint(file: Path) -> str:
    """As :func:`jielong.training.checkpoint.fingerprint`, of a file."""
    total = hashlib.sha256()
    for name, value in sorted(load_file(file).items()):
        value = value.float() if value.is_floating_point() else value.to(torch.long)
        total.update(f"{name} {tuple(value.shape)};".encode())
        total.update(value.contiguous().numpy().tobytes())
    return total.hexdigest()


def main() -> None:
    """Migrate the folders on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="checkpoint folders")
    for folder in parser.parse_args().folders:
        for file in sorted(folder.rglob("model.safetensors")):
            before = fingerprint(file)
            changed, results = migrate(file), file.with_name("evaluation.json")
            if changed and (file.parent / CHECKSUMS).exists():
                write_checksums(file.parent, [file.name])
            if changed and results.exists():
                results.write_text(results.read_text(encoding="utf-8").replace(before, fingerprint(file)), encoding="utf-8")
            print(f"{file}: {changed} tensors renamed")


if __name__ == "__main__":
    main()
