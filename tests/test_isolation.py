"""Tests neither read nor write the caches of whoever runs them (the root's ``conftest.py``)."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from jielong.core.storage import cache_folder

SHOW = "from pathlib import Path; import platformdirs; print(Path.home(), platformdirs.user_cache_path(), platformdirs.user_config_path())"


def test_home_and_caches_are_temporary() -> None:
    home = Path.home()
    assert home.is_relative_to(tempfile.gettempdir())
    assert cache_folder().is_relative_to(home)


def test_child_processes_inherit_them() -> None:
    done = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True)
    assert all(Path(folder).is_relative_to(Path.home()) for folder in done.stdout.split())
