"""The zoo of Jielong: built-in data sets (``data/``) and trained models (``models/``), as plain files."""

from pathlib import Path


def path() -> Path:
    """The folder that holds ``data/`` and ``models/``."""
    return Path(__file__).resolve().parent
