"""Memory of an import and of loading: released weights are mapped, and copied once at most."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys, threading
from pathlib import Path
import torch
from reference import var as theirs
from jielong.interop.checkpoints import import_weights
from jielong.system import load
from jielong.training.checkpoint import bytes_of

sizes = theirs.TokenizerSizes(channels=32, multipliers=(1, 2), blocks=1, latent=8, codes=48)


def released(folder: Path, width: int) -> tuple[list[Path], int]:
    # Files, and bytes of weights.
    folder.mkdir()
    states = {
        "var.pth": theirs.Transformer(sizes, 4, classes=5, width=width, heads=8).state_dict(),
        "vae.pth": theirs.Tokenizer(sizes).state_dict(),
    }
    for name, state in states.items():
        torch.save(state, folder / name)
    return [folder / name for name in states], sum(map(bytes_of, states.values()))


def anonymous() -> int:
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(fields["RssAnon"].split()[0])


def growth(work) -> int:
    before, highest, done = anonymous(), [0], threading.Event()
    def watch() -> None:
        while not done.wait(0.001):
            highest[0] = max(highest[0], anonymous())
    watching = threading.Thread(target=watch)
    watching.start()
    result = work()
    done.set()
    watching.join()
    return max(highest[0], anonymous()) - before


for name, width in (("small", 16), ("large", 512)):  # the first for what is imported and allocated once
    folder = Path(sys.argv[1]) / name
    files, size = released(folder, width)
    grown = {"size": size, "import": growth(lambda: import_weights("var", files, folder / "ours"))}
    grown["load"] = growth(lambda: load(str(folder / "ours"), "cpu"))
print(json.dumps(grown))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the process's memory from /proc")
def test_weights_are_mapped_and_copied_once(tmp_path: Path) -> None:
    """Pages of files are no memory of the process. What is put in another order is copied: a third of VAR's weights, its modulations."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    grown = json.loads(done.stdout.splitlines()[-1])
    assert grown["size"] > 40e6
    assert grown["import"] < 0.6 * grown["size"]
    assert grown["load"] < 1.25 * grown["size"]
