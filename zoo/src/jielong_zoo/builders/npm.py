"""Download of npm packages with the user's ``npm``."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from jielong.data.built import BuildError


def install(packages: Sequence[str], folder: Path) -> Path:
    """Unpack npm packages (``name@version``) below ``folder`` without running their scripts; returns the ``node_modules`` folder.

    Raises:
        BuildError: if there is no ``npm``, or it fails.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise BuildError("building this set needs `npm` on the PATH to download its packages; install Node.js (Debian: apt install npm)")
    folder.mkdir(parents=True, exist_ok=True)
    command = [npm, "install", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund", "--no-save", *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise BuildError(f"npm could not download {', '.join(packages)}: {last}")
    return folder / "node_modules"
