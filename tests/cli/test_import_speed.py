"""What answers at once must not wait for torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = ("torch", "transformers", "accelerate", "pyarrow", "numpy")


LINES = ("--help", "train --help", "list", "list recipes", "list parts --medium audio", "--version", "show train", "show head")


@pytest.mark.parametrize("words", [*(line.split() for line in LINES), ["train", "maskgit-tiny", "--budget", "soon"]])
def test_nothing_slow_is_imported(words: list[str]) -> None:
    program = (
        "import sys\n"
        "from jielong.apps.cli import app\n"
        f"try: app({words!r})\n"
        "except SystemExit: pass\n"
        f"print('loaded:', [name for name in {SLOW!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded: []", done.stdout[-300:]


def test_training_without_fsdp_imports_none_of_it() -> None:
    program = (
        "import sys, torch, accelerate\n"
        "before = {name for name in sys.modules if name.startswith('torch.distributed')}\n"
        "import jielong.training.experiment\n"
        "print({'torch.distributed.tensor', 'torch.distributed.fsdp'} & sys.modules.keys() - before or 'nothing')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "nothing"
