"""Built sets are stored in the user's cache, since size or licence excludes them from the distribution."""

from __future__ import annotations

from pathlib import Path

from jielong.core.storage import cache_folder


class BuildError(RuntimeError):
    """A set cannot be built here; the text says what is missing and how to get it."""


def built_path(name: str) -> Path:
    """``<cache>/data/<name>.parquet``."""
    return cache_folder() / "data" / f"{name}.parquet"
