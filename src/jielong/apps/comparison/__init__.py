"""Recipes and checkpoints side by side: trained at an equal budget, measured alike, in one table that says how each figure was made."""

from jielong.apps.comparison.contestants import Budget, Contestant
from jielong.apps.comparison.running import Comparison, compare

__all__ = ["Budget", "Comparison", "Contestant", "compare"]
