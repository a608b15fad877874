"""Small generators of captioned squares, trained once for all tests of a process."""

from __future__ import annotations

import atexit
import tempfile
from functools import cache
from pathlib import Path

from PIL import Image

from jielong.config import recipe
from jielong.training import experiment

SHORT = ("train.samples=16", "train.batch=8", "train.warmup=0", "train.sample_every=16", "train.save_every=16")
COUNT = 8


@cache
def _folder() -> Path:
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return Path(folder.name)


@cache
def squares() -> Path:
    """A folder of squares of 16 x 16, each of one colour: ``colour 0`` to ``colour 7``."""
    root = _folder() / "pictures"
    root.mkdir()
    for index in range(COUNT):
        Image.new("RGB", (16, 16), (20 * index, 90, 255 - 20 * index)).save(root / f"{index}.png")
        (root / f"{index}.txt").write_text(f"colour {index}")
    return root


@cache
def generator_of_squares(base: str, size: int) -> Path:
    """The checkpoint of a recipe after 16 squares, read at ``size`` x ``size``; tests leave it as it is."""
    out = _folder() / f"{base}-{size}"
    chosen = recipe.load(base, [*SHORT, f"data.size={size}"])
    experiment.run(chosen, out, data=str(squares()), progress=False, evaluate=False, device="cpu")
    return out
