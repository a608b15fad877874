"""Train recipes at an equal budget and compare them and checkpoints in one table with provenance."""

from jielong.apps.comparison.contestants import Budget, Entry
from jielong.apps.comparison.running import Comparison, compare

__all__ = ["Budget", "Comparison", "Entry", "compare"]
