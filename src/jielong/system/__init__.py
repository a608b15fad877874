"""Trained systems: checkpoints in, pictures and sound out."""

from jielong.config.zoo import zoo
from jielong.system.build import build_generator
from jielong.system.checkpoint import (
    DESCRIPTION,
    build_tokenizer,
    copy_stages,
    describe,
    find,
    load,
    load_stages,
    read_description,
    tokenizers_of,
)
from jielong.system.inputs import condition_inputs, durations_of, is_timed, lengths_of
from jielong.system.pipeline import System

__all__ = [
    "DESCRIPTION",
    "System",
    "build_generator",
    "build_tokenizer",
    "condition_inputs",
    "copy_stages",
    "describe",
    "durations_of",
    "find",
    "is_timed",
    "lengths_of",
    "load",
    "load_stages",
    "read_description",
    "tokenizers_of",
    "zoo",
]
