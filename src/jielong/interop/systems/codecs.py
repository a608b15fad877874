"""EnCodec, Mimi and DAC in the format of ``transformers``, by :mod:`jielong.interop.codecs`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jielong.interop.codecs import Codec, read_codec
from jielong.interop.key_map import SAME
from jielong.interop.released import Imported
from jielong.training.checkpoint import CheckpointError


def read(paths: Sequence[Path]) -> Imported:
    """A codec from its folder.

    Raises:
        CheckpointError: if it is not one folder of a codec.
    """
    if len(paths) != 1:
        raise CheckpointError(f"a codec is one folder with config.json and model.safetensors, but {len(paths)} paths were given")
    return of_codec(read_codec(paths[0]))


def of_codec(codec: Codec, data: str = "prompts") -> Imported:
    """A codec with a recipe that one would go on training it by: losses of the release are not known to its weights."""
    recipe = {"data": {"set": data}, "tokenizer": codec.settings, "losses": {"regression": {"kind": "l1"}}}
    return Imported(recipe, codec.tokenizer.media, codec.tokenizer.state_dict(), SAME)
