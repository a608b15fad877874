"""Built sets are stored in the user's cache, since size or licence excludes them from the distribution."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


class BuildError(RuntimeError):
    """A set cannot be built here; the text says what is missing and how to get it."""


def cache_folder() -> Path:
    """``$JIELONG_CACHE``, or the user's cache folder of this system."""
    return Path(os.environ.get("JIELONG_CACHE") or platformdirs.user_cache_path("jielong", appauthor=False))


def built_path(name: str) -> Path:
    """``<cache>/data/<name>.parquet``."""
    return cache_folder() / "data" / f"{name}.parquet"
