"""Memory of importing released weights and of loading what was imported: random weights of released sizes, counted by the system.

    python benchmarks/import_memory.py                         # VAR-d30 and LlamaGen-XXL: 14 GB of files in the folder for temporary files
    python benchmarks/import_memory.py --only llamagen-xxl --folder /data
    python benchmarks/import_memory.py --quick                 # a smoke run with tiny sizes

Counted is anonymous memory (RssAnon of /proc): the system reclaims pages of a mapped file when memory is short, and copies stay. Files are
written, and each system is measured, in processes of their own, because an allocator reuses what was freed before; a tiny system is
measured first, so that modules and buffers that are loaded once do not count. The last line of the output is one JSON object. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from official import reference
from timing import machine
from torch import Tensor

from jielong.interop.checkpoints import import_weights
from jielong.system import load

Files = dict[str, dict[str, Tensor]]
"""Weights by the name of their file."""


def var(depth: int, width: int | None = None, heads: int | None = None, small: bool = False) -> Files:
    """VAR with ``depth`` layers and its tokenizer; ``width`` is ``64 depth`` and ``heads`` is ``depth`` by default."""
    theirs = reference("var")
    sizes = theirs.TokenizerSizes(**({"channels": 32, "multipliers": (1, 2), "blocks": 1, "latent": 8, "codes": 48} if small else {}))
    transformer = theirs.Transformer(sizes, depth, classes=5 if small else 1000, width=width, heads=heads)
    return {"var.pth": transformer.state_dict(), "vae.pth": theirs.Tokenizer(sizes).state_dict()}


def llamagen(layers: int, heads: int, width: int, small: bool = False) -> Files:
    """LlamaGen of classes at 384 pixels, and its tokenizer."""
    theirs = reference("llamagen")
    sizes = theirs.Sizes(layers, heads, width, grid=4 if small else 24, **({"vocabulary": 64, "classes": 5} if small else {}))
    units = theirs.tokenizer_shapes((32, 64, 64), inner=8, codes=64) if small else theirs.tokenizer_shapes((128, 128, 256, 256, 512))
    return {f"c2i_{16 if small else 384}.pt": theirs.drawn(sizes.shapes()), "vq.pt": theirs.drawn(units)}


@dataclass(frozen=True)
class Released:
    """A system at its released size, at a tiny one for what is allocated once, and at one that is measured quickly."""

    system: str
    whole: Callable[[], Files]
    tiny: Callable[[], Files]
    quick: Callable[[], Files]


RELEASED = {
    "var-d30": Released("var", lambda: var(30), lambda: var(4, 16, 8, small=True), lambda: var(4, 512, 8, small=True)),
    "llamagen-xxl": Released(
        "llamagen", lambda: llamagen(48, 24, 1536), lambda: llamagen(2, 2, 128, small=True), lambda: llamagen(4, 8, 512, small=True)
    ),
}


def anonymous() -> int:
    """Bytes of anonymous memory of this process."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(fields["RssAnon"].split()[0])


def growth(work: Callable[[], object]) -> int:
    """Peak of anonymous memory during a call, in bytes above that before it."""
    before, highest, done = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            highest[0] = max(highest[0], anonymous())

    watching = threading.Thread(target=watch)
    watching.start()
    result = work()  # kept until its memory was counted
    done.set()
    watching.join()
    grown = max(highest[0], anonymous()) - before
    del result
    return grown


def write(name: str, size: str, folder: Path) -> None:
    """Files of random weights of a system at one of its sizes, ``whole``, ``tiny`` or ``quick``."""
    folder.mkdir()
    for file, state in getattr(RELEASED[name], size)().items():
        torch.save(state, folder / file)


def measure(name: str, folder: Path) -> dict[str, float]:
    """Import the weights in a folder, and load what was imported: bytes and seconds."""
    files = sorted(folder.iterdir())
    start = time.perf_counter()
    importing = growth(lambda: import_weights(RELEASED[name].system, files, folder / "ours"))
    between = time.perf_counter()
    loading = growth(lambda: load(str(folder / "ours"), "cpu"))
    seconds = {"import_s": between - start, "load_s": time.perf_counter() - between}
    return {"bytes": sum(file.stat().st_size for file in files), "import": importing, "load": loading, **seconds}


def measure_all(name: str, folders: Sequence[Path]) -> list[dict[str, float]]:
    """One row for each folder, measured in this process one after the other."""
    return [measure(name, folder) for folder in folders]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(RELEASED), default=list(RELEASED))
    parser.add_argument("--folder", type=Path, help="where the files are written, and removed; that for temporary files by default")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    arguments = parser.parse_args()
    if arguments.folder is not None and not arguments.folder.is_dir():
        parser.error(f"--folder: there is no folder {arguments.folder}; make it first")
    rows = []
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as alone:
        for name in arguments.only:
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                sizes = {size: Path(folder, size) for size in ("tiny", "quick" if arguments.quick else "whole")}
                for size, place in sizes.items():
                    alone.submit(write, name, size, place).result()
                row = alone.submit(measure_all, name, list(sizes.values())).result()[-1]
            rows.append({"system": name, **row})
            print(
                f"{name}: {row['bytes'] / 1e9:.2f} GB of weights; importing adds {row['import'] / 1e9:.2f} GB in {row['import_s']:.0f} s, "
                f"loading {row['load'] / 1e9:.2f} GB in {row['load_s']:.0f} s"
            )
    print(json.dumps({"machine": machine(), "rows": rows}))


if __name__ == "__main__":
    main()
