"""A content-addressed cache of tokens on disk: tokenise a set once, train on it many times."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from jielong.core.files import remove_leftovers, write_bytes
from jielong.core.storage import cache_folder, check_room, optional
from jielong.core.tokens import Layout, Tokens
from jielong.data.sets import MediaSet
from jielong.tokenizers.base import Tokenizer
from jielong.training.checkpoint import fingerprint

SAMPLES = "samples"
"""The name under which a file of one sound's tokens keeps its length; the last token may cover silence behind it."""


class StaleTokensError(ValueError):
    """A token file of another tokenizer or other data."""


def tokenizer_identity(tokenizer: Tokenizer) -> str:
    """What the meaning of tokens depends on: the tokenizer's structure and weights."""
    # Weights alone do not identify it: pixels of 16 and of 256 levels have none, a normalised codebook looks like a plain one.
    described = f"{fingerprint(tokenizer)} {tokenizer.media} {tokenizer.layout} {tokenizer!r}"
    return hashlib.sha256(described.encode()).hexdigest()


def identity(tokenizer: Tokenizer, images: MediaSet) -> dict[str, str]:
    """What tokens depend on: the tokenizer, and the data with their preprocessing."""
    return {"tokenizer": tokenizer_identity(tokenizer), "data": images.fingerprint}


@torch.no_grad()
def tokenize(tokenizer: Tokenizer, images: MediaSet, batch: int = 64, progress: Callable[[int], None] | None = None) -> Tokens:
    """Tokens of a whole set in order, ``(n, N, C)``, or the distributions they are sampled from (:meth:`Tokenizer.encode_to_cache`)."""
    was_training = tokenizer.training
    tokenizer.eval()
    weight = next(tokenizer.parameters(), None)
    parts: list[Tensor] = []
    samples: list[int] = []
    for first in range(0, len(images), batch):
        rows = list(range(first, min(first + batch, len(images))))
        media = images.media(rows)
        parts.append(tokenizer.encode_to_cache(media if weight is None else media.to(weight.device)).values.cpu())
        samples += [images.length(row) for row in rows] if images.medium.timed else []
        if progress is not None:
            progress(len(rows))
    tokenizer.train(was_training)
    return Tokens(torch.cat(parts), tokenizer.cached_layout, tokenizer.positions_of(torch.tensor(samples)) if samples else None)


def write(path: Path, tokens: Tokens, made_of: dict[str, str], replacements: Mapping[int, int] | None = None) -> None:
    """Write tokens beside ``path`` and rename them into place; codes take the smallest whole number that holds them.

    Args:
        path: The file.
        tokens: What to write.
        made_of: Their :func:`identity`.
        replacements: Broken items of the set and the indices of their replacements.
    """
    layout = tokens.layout
    values = tokens.values.contiguous()
    if layout.discrete:
        values = values.to(_stored_type(layout))
    # Where a broken picture was replaced, the tokens are the other one's, and so must the words be when they are read again.
    words = {"layout": json.dumps(layout.to_json()), "replacements": json.dumps(dict(replacements or {})), **made_of}
    lengths = {} if tokens.lengths is None else {"lengths": tokens.lengths.contiguous()}
    write_bytes(path, save({"values": values, **lengths}, metadata=words))


def expected_bytes(tokenizer: Tokenizer, images: MediaSet) -> int:
    """Size of the token file of a set, without its header."""
    layout = tokenizer.cached_layout
    return len(images) * layout.positions * layout.channels * _stored_type(layout).itemsize


def _stored_type(layout: Layout) -> torch.dtype:
    if layout.vocabulary is None:
        return torch.float32
    return torch.uint8 if layout.vocabulary <= 256 else torch.int16 if layout.vocabulary <= 2**15 else torch.int32


def samples_of(path: Path) -> int | None:
    """Samples of a token file's audio, if it holds one file of any length (:data:`SAMPLES`)."""
    with safe_open(path, "pt") as file:
        samples = (file.metadata() or {}).get(SAMPLES)
    return None if samples is None else int(samples)


def read(path: Path, expected: dict[str, str] | None = None, images: MediaSet | None = None) -> Tokens:
    """Read a token file.

    Args:
        path: The file.
        expected: The :func:`identity` that the tokens must have.
        images: Their set, which receives the replacements of broken items.

    Raises:
        StaleTokensError: if its identity differs from ``expected``.
        ValueError: if it is no token file.
    """
    try:
        with safe_open(path, "pt") as file:
            made_of, values = dict(file.metadata() or {}), file.get_tensor("values")
            lengths = file.get_tensor("lengths") if "lengths" in file.keys() else None  # noqa: SIM118  it is no mapping
        described, replacements = json.loads(made_of.pop("layout")), json.loads(made_of.pop("replacements", "{}"))
    except (SafetensorError, KeyError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a token file ({error}); make one with: jielong tokenize") from None
    for key, value in (expected or {}).items():
        if made_of.get(key) != value:
            what = "by another tokenizer" if key == "tokenizer" else "from other data or with another preprocessing"
            raise StaleTokensError(f"the tokens in {path} were made {what}; tokenise again: jielong tokenize")
    if images is not None:
        images.replacements.update({int(index): stand_in for index, stand_in in replacements.items()})
    layout = Layout.from_json(described)
    return Tokens(values.long() if layout.discrete else values, layout, lengths)


def cached(tokenizer: Tokenizer, images: MediaSet, progress: Callable[[int], None] | None = None, folder: Path | None = None) -> Tokens:
    """Tokens of a set from the user's cache; computed if missing or damaged, and not kept, with a warning, where they cannot be written."""
    made_of = identity(tokenizer, images)
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]
    folder = folder or cache_folder() / "tokens"
    path = folder / f"{key}.safetensors"
    with contextlib.suppress(ValueError):  # no file yet, or not a whole one
        return read(path, made_of, images)
    room = False
    with optional():
        check_room(path, expected_bytes(tokenizer, images))
        room = True
    tokens = tokenize(tokenizer, images, progress=progress)
    if room:
        with optional():
            remove_leftovers(folder)
            write(path, tokens, made_of, images.replacements)
    return tokens
