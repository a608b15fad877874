"""Libraries of extras, by which files are decoded."""

from __future__ import annotations

import importlib
from types import ModuleType


class MissingLibraryError(RuntimeError):
    """A library of an extra is not installed."""


def library(name: str, extra: str = "sound", reads: str = "sound") -> ModuleType:
    """A library of an extra.

    Args:
        name: The module.
        extra: Of `jielong`, which installs it.
        reads: What it is needed for.

    Raises:
        MissingLibraryError: if it is not installed; the text says how to get it.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: soundfile without its libsndfile
        raise MissingLibraryError(f"{reads} needs {name}, which is not here ({error}): pip install 'jielong[{extra}]'") from error
