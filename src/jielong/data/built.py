"""Where built sets are kept: in the user's cache, because their size or licence keeps them out of the distribution."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


class BuildError(RuntimeError):
    """A set cannot be built here; the text says what is missing and how to get it."""


def cache_folder() -> Path:
    """Where built things are kept: ``$JIELONG_CACHE``, or the user's cache of this system."""
    return Path(os.environ.get("JIELONG_CACHE") or platformdirs.user_cache_path("jielong", appauthor=False))


def built_path(name: str) -> Path:
    """Where a built set is kept: ``<cache>/data/<name>.parquet``."""
    return cache_folder() / "data" / f"{name}.parquet"
