"""A home folder and caches of their own for the tests, their child processes and every worker of pytest-xdist."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

FOLDERS = {
    "HOME": "",
    "USERPROFILE": "",
    "XDG_CACHE_HOME": ".cache",
    "XDG_CONFIG_HOME": ".config",
    "XDG_DATA_HOME": ".local/share",
    "XDG_STATE_HOME": ".local/state",
    "JIELONG_CACHE": ".cache/jielong",
}
UNSET = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "TORCH_HOME",
    "TORCHINDUCTOR_CACHE_DIR",
    "MPLCONFIGDIR",
    "JIELONG_DEBUG",
    "COLUMNS",
    "NO_COLOR",
    "FORCE_COLOR",
)
WORKER = "PYTEST_XDIST_WORKER"
HOME = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Point every variable of :data:`FOLDERS` into a temporary folder; a worker's is inside that of the main process."""
    # Here and not in a fixture: collecting test modules imports packages that read these variables once.
    worker = os.environ.get(WORKER)
    home = Path(os.environ["HOME"], worker) if worker else Path(tempfile.mkdtemp(prefix="jielong-tests-"))
    config.stash[HOME] = home
    for name, folder in FOLDERS.items():
        path = home / folder
        path.mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(path)
    for name in UNSET:
        os.environ.pop(name, None)
    os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the folder once the workers have ended."""
    if WORKER not in os.environ:
        shutil.rmtree(config.stash[HOME], ignore_errors=True)
