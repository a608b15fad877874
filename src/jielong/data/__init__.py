"""Data: built-in sets, folders, shards."""

from jielong.data.built import BuildError
from jielong.data.inspecting import Report, inspect
from jielong.data.opening import BUILT_IN, open_data
from jielong.data.order import ShuffledOrder
from jielong.data.sets import Batch, MediaSet
from jielong.data.source import DataError

__all__ = ["BUILT_IN", "Batch", "BuildError", "DataError", "MediaSet", "Report", "ShuffledOrder", "inspect", "open_data"]
