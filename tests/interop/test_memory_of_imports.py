"""Memory of an import and of loading: released weights are mapped, and copied once at most."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from running_scripts import ROOT

COPIED = {"var-d30": 0.6, "llamagen-xxl": 0.85}
"""The most that an import may copy, of the weights: what is put in another order, of VAR its modulations, of LlamaGen most matrices."""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the process's memory from /proc")
def test_weights_are_mapped_and_copied_once(tmp_path: Path) -> None:
    """Pages of files are no memory of the process."""
    words = [ROOT / "benchmarks" / "import_memory.py", "--quick", "--folder", tmp_path]
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert {row["system"] for row in rows} == set(COPIED)
    for row in rows:
        assert row["bytes"] > 10e6, row
        assert row["import"] < COPIED[row["system"]] * row["bytes"] + 2e6, row
        assert row["load"] < 1.25 * row["bytes"] + 2e6, row
    assert not list(tmp_path.iterdir())
