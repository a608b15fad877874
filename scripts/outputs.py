"""Record what every shipped model produces, or compare it with a recording, bit for bit.

A refactoring must not change what a shipped model draws or how well a tokenizer reconstructs. Record before it and compare after it, on
one machine:

    python scripts/outputs.py record outputs.json
    python scripts/outputs.py compare outputs.json --models vq-emoji maskgit-emoji
    python scripts/outputs.py record outputs.json --quick    # a smoke run: one model

Generators draw two items with seed 0 by ``jielong generate``, and the files are hashed. Tokenizers are measured on eight held-out items by
``jielong evaluate``. Both run in child processes with one thread. Values are compared without their names,
which a refactoring may change. The exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from recording import Recording

TEXTS = {
    "emoji": ("cat face, Noto style", "pizza, Twemoji style"),
    "faces": ("Micah style, blue quiff, smiling", "pixel art style, pink bob, glasses"),
    "sounds": ("hi-hat", "bass"),
    "speech": ("Good morning.", "See you."),
}


def run(words: list[str], scratch: Path) -> str:
    """Run a command with one thread; what it prints.

    Raises:
        RuntimeError: if it fails, with the end of its errors.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "JIELONG_CACHE": str(scratch / "cache")}
    done = subprocess.run([sys.executable, "-m", "jielong", *words], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-1500:])
    return done.stdout


def produced(folder: Path, scratch: Path) -> dict[str, Any]:
    """Hashes of what a generator draws, or figures of a tokenizer."""
    recipe, name = yaml.safe_load((folder / "recipe.yaml").read_text()), folder.name
    kind = name.rsplit("-", 1)[-1]
    if not recipe.get("head"):
        data = {"emoji": "emoji", "faces": "faces", "fashion": "fashion"}.get(kind, "sounds")
        found = json.loads(run(["evaluate", name, "--data", data, "--count", "8", "--json"], scratch))
        return {key: value for key, value in found.items() if isinstance(value, float) and key != "seconds"}
    out = scratch / name
    words = [word for text in TEXTS.get(kind, ()) for word in ("--text", text)] or ["--class", "3"]
    if "length" in json.dumps(recipe.get("condition")) and kind == "sounds":
        words += ["--seconds", "0.5"]
    run(["generate", name, *words, "--seed", "0", "--out", str(out)], scratch)
    files = sorted(path for path in out.iterdir() if not path.name.startswith(("sheet", "provenance")))
    return {str(index): hashlib.sha256(path.read_bytes()).hexdigest() for index, path in enumerate(files)}


def main() -> None:
    """Record, or compare and exit with 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--models", nargs="*", help="names of shipped models; all by default")
    parser.add_argument("--quick", action="store_true", help="maskgit-emoji alone: whether it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.models = arguments.models or ["maskgit-emoji"]
    import jielong_zoo

    models = Path(jielong_zoo.path()) / "models"
    names = arguments.models or sorted(path.parent.name for path in models.glob("*/recipe.yaml"))
    with tempfile.TemporaryDirectory() as scratch:
        Recording(
            "models",
            compute=lambda name: produced(models / name, Path(scratch)),
            difference=lambda new, old: None if sorted(map(str, new.values())) == sorted(map(str, old.values())) else "DIFFERS",
            summary=lambda found: f"{len(found)} values",
        ).run(arguments, names)


if __name__ == "__main__":
    main()
