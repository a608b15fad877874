"""Shipped models: the checkpoint folders of the distribution ``jielong-zoo``. Nothing here imports torch."""

from __future__ import annotations

import importlib
from pathlib import Path


def zoo() -> dict[str, Path]:
    """Shipped models by name; none where ``jielong-zoo`` is not installed."""
    try:
        folder = Path(importlib.import_module("jielong_zoo").path()) / "models"
    except ImportError:
        return {}
    return {item.name: item for item in sorted(folder.glob("*")) if (item / "recipe.yaml").exists()}


def card_line(folder: Path) -> str:
    """The first line of a model's card that is no heading and no metadata; empty without a card."""
    card = folder / "README.md"
    text = card.read_text("utf-8") if card.exists() else ""
    lines = (text.split("\n---\n", 1)[-1] if text.startswith("---\n") else text).splitlines()
    return next((line for line in lines if line.strip() and not line.startswith("#")), "")
