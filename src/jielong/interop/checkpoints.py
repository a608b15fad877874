"""Codecs of others as checkpoints of ours, so that everything that takes a checkpoint takes them."""

from __future__ import annotations

import json
import os
from pathlib import Path

from jielong.config.schema import Recipe
from jielong.core.files import write_bytes
from jielong.interop.codecs import Codec
from jielong.media.kinds.base import kind_of
from jielong.system import DESCRIPTION, describe
from jielong.training.checkpoint import save_checkpoint


def keep_codec(codec: Codec, out: str | os.PathLike[str], data: str = "prompts") -> Path:
    """Write a codec as a checkpoint folder: :func:`jielong.load`, ``jielong tokenize``, ``tokenizer: {checkpoint: FOLDER}`` read it.

    Its recipe is what one would go on training it by: published losses are its authors' and are not known to the weights.

    Args:
        codec: From :mod:`jielong.interop.codecs`.
        out: The folder, made if it does not exist.
        data: The set that its recipe names.

    Raises:
        jielong.training.checkpoint.CheckpointError: if it cannot be written.
    """
    media = codec.tokenizer.media
    recipe = Recipe.model_validate(
        {
            "data": {"set": data, **kind_of(media).keys_of(media)},
            "tokenizer": codec.settings,
            "losses": {"regression": {"kind": "l1"}},
            "train": {"samples": 1_000},
        }
    )
    folder = save_checkpoint(out, codec.tokenizer, recipe.to_yaml())
    write_bytes(folder / DESCRIPTION, json.dumps(describe(media, [], codec.tokenizer, None), indent=2).encode())
    return folder
