"""Sets that are built in the user's cache because their licence or size keeps them out of the distribution."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def built_path(name: str) -> Path:
    """Where a built set is kept: ``<user cache>/jielong/data/<name>.parquet``."""
    return Path(platformdirs.user_cache_dir("jielong", appauthor=False)) / "data" / f"{name}.parquet"
