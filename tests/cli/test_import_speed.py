"""What answers at once must not wait for torch."""

from __future__ import annotations

import re
import subprocess
import sys

SLOW = ("torch", "transformers", "accelerate", "pyarrow", "numpy")


LINES = ("--help", "train --help", "list", "list recipes", "list parts --medium audio", "--version", "show train", "show head")


def test_nothing_slow_is_imported() -> None:
    """All in one process, which names what each command has imported beyond the one before."""
    lines = [*LINES, "train maskgit-tiny --budget soon"]
    program = (
        "import sys\n"
        "from jielong.apps.cli import app\n"
        f"for line in {lines!r}:\n"
        "    try: app(line.split())\n"
        "    except SystemExit: pass\n"
        f"    print('loaded by', line + ':', [name for name in {SLOW!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert re.findall("^loaded by .*", done.stdout, re.M) == [f"loaded by {line}: []" for line in lines], done.stdout[-300:]


def test_training_without_fsdp_imports_none_of_it() -> None:
    program = (
        "import sys, torch, accelerate\n"
        "before = {name for name in sys.modules if name.startswith('torch.distributed')}\n"
        "import jielong.training.experiment\n"
        "print({'torch.distributed.tensor', 'torch.distributed.fsdp'} & sys.modules.keys() - before or 'nothing')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "nothing"
