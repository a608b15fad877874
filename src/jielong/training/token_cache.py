"""A content-addressed cache of tokens on disk: tokenise a set once, train on it many times."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from jielong.core.files import remove_leftovers
from jielong.core.progress import counting
from jielong.core.storage import cache_folder, check_room, optional
from jielong.core.tokens import Layout, Tokens
from jielong.data.sets import MediaSet
from jielong.data.stored import DamagedError, not_finite, read_tensors, write_tensors
from jielong.tokenizers.base import Tokenizer
from jielong.training.checkpoint import fingerprint

SAMPLES = "samples"
"""The name under which a file of one sound's tokens keeps its length; the last token may cover silence behind it."""


class StaleTokensError(ValueError):
    """A token file of another tokenizer or other data."""


def tokenizer_identity(tokenizer: Tokenizer) -> str:
    """What the meaning of stored tokens depends on: the tokenizer's structure and weights."""
    tokenizer = tokenizer.stored_by
    # Weights alone do not identify it: pixels of 16 and of 256 levels have none, a normalised codebook looks like a plain one.
    described = f"{fingerprint(tokenizer)} {tokenizer.media} {tokenizer.layout} {tokenizer!r}"
    return hashlib.sha256(described.encode()).hexdigest()


def identity(tokenizer: Tokenizer, images: MediaSet) -> dict[str, str]:
    """What tokens depend on: the tokenizer, and the data with their preprocessing."""
    return {"tokenizer": tokenizer_identity(tokenizer), "data": images.fingerprint}


@torch.no_grad()
def tokenize(tokenizer: Tokenizer, images: MediaSet, batch: int = 64) -> Tokens:
    """Tokens of a whole set in order, ``(n, N, C)``, or the distributions they are sampled from (:meth:`Tokenizer.encode_to_cache`)."""
    was_training = tokenizer.training
    tokenizer.eval()
    weight = next(tokenizer.parameters(), None)
    parts: list[Tensor] = []
    samples: list[int] = []
    with counting("tokenizing", len(images), images.kind.noun[1]) as advance:
        for first in range(0, len(images), batch):
            rows = list(range(first, min(first + batch, len(images))))
            media = images.media(rows)
            parts.append(tokenizer.encode_to_cache(media if weight is None else media.to(weight.device)).values.cpu())
            samples += [images.length(row) for row in rows] if images.medium.timed else []
            advance(len(rows))
    tokenizer.train(was_training)
    return Tokens(torch.cat(parts), tokenizer.cached_layout, tokenizer.positions_of(torch.tensor(samples)) if samples else None)


def write(path: Path, tokens: Tokens, made_of: dict[str, str], replacements: Mapping[int, int] | None = None) -> None:
    """Write tokens beside ``path`` and rename them into place; codes take the smallest whole number that holds them.

    Args:
        path: The file.
        tokens: What to write.
        made_of: Their :func:`identity`.
        replacements: Broken items of the set and the indices of their replacements.

    Raises:
        ValueError: if a code is not of the vocabulary, or a number not finite.
        jielong.core.storage.StorageError: if the file cannot be written.
    """
    layout, values = tokens.layout, tokens.values
    try:
        _check(values, layout)
    except DamagedError as error:
        raise ValueError(f"these tokens cannot be written to {path}: {error}") from None
    if layout.discrete:
        values = values.to(_stored_type(layout))
    # Where a broken picture was replaced, the tokens are the other one's, and so must the words be when they are read again.
    words = {"layout": json.dumps(layout.to_json()), "replacements": json.dumps(dict(replacements or {})), **made_of}
    lengths = {} if tokens.lengths is None else {"lengths": tokens.lengths}
    write_tensors(path, {"values": values, **lengths}, words)


def expected_bytes(tokenizer: Tokenizer, images: MediaSet) -> int:
    """Size of the token file of a set, without its header."""
    layout = tokenizer.cached_layout
    return len(images) * layout.positions * layout.channels * _stored_type(layout).itemsize


def _stored_type(layout: Layout) -> torch.dtype:
    if layout.vocabulary is None:
        return torch.float32
    return torch.uint8 if layout.vocabulary <= 256 else torch.int16 if layout.vocabulary <= 2**15 else torch.int32


def samples_of(path: Path) -> int | None:
    """Samples or frames of a token file, if it holds one file of any length (:data:`SAMPLES`)."""
    with safe_open(path, "pt") as file:
        samples = (file.metadata() or {}).get(SAMPLES)
    return None if samples is None else int(samples)


def read(path: Path, expected: dict[str, str] | None = None, images: MediaSet | None = None, tokenizer: Tokenizer | None = None) -> Tokens:
    """Read a token file.

    Args:
        path: The file.
        expected: The :func:`identity` that the tokens must have.
        images: Their set, which receives the replacements of broken items.
        tokenizer: Whose tokens they must be.

    Raises:
        StaleTokensError: if its identity differs from ``expected``.
        ValueError: if it is no token file, was changed after it was written, or does not fit its layout, the set or the tokenizer.
    """
    try:
        tensors, made_of = read_tensors(path)
        for key, value in (expected or {}).items():
            if made_of.get(key) != value:
                what = "by another tokenizer" if key == "tokenizer" else "from other data or with another preprocessing"
                raise StaleTokensError(f"the tokens in {path} were made {what}; tokenise again: jielong tokenize")
        layout, values = Layout.from_json(json.loads(made_of["layout"])), tensors["values"]
        _check(values, layout)
        tokens = Tokens(values.long() if layout.discrete else values, layout, tensors.get("lengths"))
        replacements = {int(index): int(other) for index, other in json.loads(made_of.get("replacements", "{}")).items()}
        if images is not None:
            _check_set(tokens, images, replacements)
        if tokenizer is not None:
            _check_tokenizer(layout, tokenizer, SAMPLES in made_of)
    except StaleTokensError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ValueError(f"{path} is not a usable token file ({error}); make one with: jielong tokenize") from None
    if images is not None:
        images.replacements.update(replacements)
    return tokens


def read_for(path: Path, tokenizer: Tokenizer, images: MediaSet) -> Tokens:
    """Tokens of a set from a file of it, or of the set that it is a part of, such as one with items that a condition leaves out.

    Raises:
        StaleTokensError: if the file is of another tokenizer or other data.
        ValueError: as :func:`read`.
    """
    try:
        return read(path, identity(tokenizer, images), images, tokenizer)
    except StaleTokensError:
        if images.parent is None:
            raise
    whole, rows = images.parent
    tokens = read_for(path, tokenizer, whole)
    good = [place for place, row in enumerate(rows) if whole.resolve(row) == row]
    if not good:
        raise ValueError(f"{path} holds tokens of no usable item of {images.name}")
    for place in {*range(len(rows))}.difference(good):
        images.replacements[place] = next((other for other in good if other > place), good[0])
    chosen = [rows[images.resolve(place)] for place in range(len(rows))]
    return Tokens(tokens.values[chosen], tokens.layout, None if tokens.lengths is None else tokens.lengths[chosen])


def _check(values: Tensor, layout: Layout) -> None:
    """Raise ``DamagedError`` unless codes are of the vocabulary, and numbers finite."""
    if values.is_floating_point() == layout.discrete or not values.numel():
        raise DamagedError(f"it holds {values.dtype} {tuple(values.shape)} instead of {'codes' if layout.discrete else 'numbers'}")
    if (item := not_finite(values)) is not None:
        raise DamagedError(f"item {item} holds NaN or infinity")
    if layout.vocabulary is not None and not 0 <= int((ends := values.aminmax()).min) <= int(ends.max) < layout.vocabulary:
        outside = (values < 0) | (values >= layout.vocabulary)
        item, code = int(outside.flatten(1).any(1).nonzero()[0]), int(values[outside][0])
        raise DamagedError(f"item {item} has the code {code}, but codes are 0 to {layout.vocabulary - 1}")


def _check_set(tokens: Tokens, images: MediaSet, replacements: Mapping[int, int]) -> None:
    """Raise ``DamagedError`` unless there are tokens of each item, and replacements are items."""
    count = len(images)
    if len(tokens) != count:
        raise DamagedError(f"it holds tokens of {len(tokens)} items, but {images.name} has {count}")
    for pair in replacements.items():
        if not all(0 <= index < count for index in pair):
            raise DamagedError(f"item {pair[0]} is replaced by item {pair[1]}, but {images.name} has {count} items")


def _check_tokenizer(layout: Layout, tokenizer: Tokenizer, any_length: bool) -> None:
    """Raise ``DamagedError`` unless the layout is the tokenizer's, apart from the grid of one file of any length."""
    known = tokenizer.layout if any_length else tokenizer.cached_layout
    if (replace(layout, grid=known.grid) if any_length else layout) != known:
        raise DamagedError(f"it holds tokens of {layout.describe()}, but the tokenizer's have {known.describe()}")


def cached(tokenizer: Tokenizer, images: MediaSet, folder: Path | None = None) -> Tokens:
    """Tokens of a set from the user's cache; computed if missing, and again, with a warning, if damaged.

    Where they cannot be written they are not kept, with a warning.
    """
    made_of = identity(tokenizer, images)
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]
    folder = folder or cache_folder() / "tokens"
    path = folder / f"{key}.safetensors"
    try:
        if path.exists():
            return read(path, made_of, images, tokenizer)
    except ValueError as error:
        warnings.warn(f"{str(error).partition('; ')[0]}: its tokens are computed again", stacklevel=2)
    room = False
    with optional():
        check_room(path, expected_bytes(tokenizer, images))
        room = True
    tokens = tokenize(tokenizer, images)
    if room:
        with optional():
            remove_leftovers(folder)
            write(path, tokens, made_of, images.replacements)
    return tokens
