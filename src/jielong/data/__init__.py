"""Data: built-in sets, folders, shards."""

from jielong.data.built import BuildError
from jielong.data.inspecting import Report, inspect
from jielong.data.opening import BUILT_IN, open_set
from jielong.data.order import ShuffledOrder
from jielong.data.sets import Batch, Example, ImageSet, collate
from jielong.data.source import DataError

__all__ = [
    "BUILT_IN",
    "Batch",
    "BuildError",
    "DataError",
    "Example",
    "ImageSet",
    "Report",
    "ShuffledOrder",
    "collate",
    "inspect",
    "open_set",
]
