"""Data: built-in sets, folders, shards."""

from jielong.data.opening import BUILT_IN, open_set
from jielong.data.order import ShuffledOrder
from jielong.data.sets import Batch, Example, ImageSet, collate
from jielong.data.source import DataError

__all__ = ["BUILT_IN", "Batch", "DataError", "Example", "ImageSet", "ShuffledOrder", "collate", "open_set"]
