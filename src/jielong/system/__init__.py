"""Trained systems: checkpoints in, pictures and sound out."""

from jielong.system.build import build_generator, open_media
from jielong.system.checkpoint import DESCRIPTION, build_tokenizer, describe, find, foundations, load, zoo
from jielong.system.inputs import is_timed, lengths_of, parts_told, sampling_of, seconds_told
from jielong.system.pipeline import System

__all__ = [
    "DESCRIPTION",
    "System",
    "build_generator",
    "build_tokenizer",
    "describe",
    "find",
    "foundations",
    "is_timed",
    "lengths_of",
    "load",
    "open_media",
    "parts_told",
    "sampling_of",
    "seconds_told",
    "zoo",
]
