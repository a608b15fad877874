"""Libraries of the extra ``sound``."""

from __future__ import annotations

import importlib
from types import ModuleType


class MissingLibraryError(RuntimeError):
    """A library of the extra ``sound`` is not installed."""


def library(name: str) -> ModuleType:
    """A library of the extra ``sound``.

    Raises:
        MissingLibraryError: if it is not installed; the text says how to get it.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: soundfile without its libsndfile
        raise MissingLibraryError(f"sound needs {name}, which is not here ({error}): pip install 'jielong[sound]'") from error
