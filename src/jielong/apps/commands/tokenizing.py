"""``jielong tokenize`` and ``jielong detokenize``: encode data to a token file, and decode it."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from jielong.apps.commands.devices import Device, chosen_device
from jielong.apps.commands.outputs import Out, output_of
from jielong.apps.commands.screen import notes, say

if TYPE_CHECKING:
    from jielong.system import System

Checkpoint = Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A shipped model's name, a checkpoint folder, or hf://USER/NAME.")]


class Split(StrEnum):
    """Split of a data set."""

    train = "train"
    heldout = "heldout"
    all = "all"


_PARTS: dict[Split, Literal["train", "heldout"] | None] = {Split.train: "train", Split.heldout: "heldout", Split.all: None}


def tokenize(
    checkpoint: Checkpoint,
    data: Annotated[str, typer.Option(help="A data set's name or a path; a single audio file keeps its length.")],
    out: Annotated[Path, typer.Option(help="The token file to write, .safetensors.")],
    split: Annotated[Split, typer.Option(help="Split of the data set; training uses `train`.")] = Split.train,
    device: Device = "auto",
) -> None:
    """Encode images or audio with the checkpoint's tokenizer, for `train --tokens` or `detokenize`."""
    if out.suffix != ".safetensors":
        raise typer.BadParameter(f"a token file ends in .safetensors, got {out}", param_hint="--out")
    from jielong.core.locks import one_writer
    from jielong.core.progress import progress_on
    from jielong.core.storage import check_room
    from jielong.data.opening import open_data
    from jielong.media.kinds.base import kind_of, kinds
    from jielong.system import load
    from jielong.training import token_cache as cache

    system = load(checkpoint, chosen_device(device))
    tokenizer = system.tokenizer
    if Path(data).is_file() and any(Path(data).suffix.lower() in kind.suffixes for kind in kinds().values()):
        with one_writer(out):
            _one_file(system, Path(data), out)
        return
    images = open_data(data, _PARTS[split], medium=tokenizer.media, settings=system.recipe.data, whole=True)
    started = time.perf_counter()
    check_room(out, cache.expected_bytes(tokenizer, images))
    with one_writer(out), progress_on(notes):
        tokens = cache.tokenize(tokenizer, images)
        cache.write(out, tokens, cache.identity(tokenizer, images), images.replacements)
    layout, more = tokenizer.layout, "" if tokens.layout == tokenizer.layout else ", each with its log-variance"
    kind = f"{layout.channels} x {layout.vocabulary} codes" if layout.discrete else f"{layout.channels} channels{more}"
    items, grid = kind_of(tokenizer.media).noun[1], " x ".join(map(str, layout.grid))
    say(f"{len(tokens):,} {items} of {grid} tokens of {kind}, {time.perf_counter() - started:.1f} s")
    typer.echo(out)


def _one_file(system: System, path: Path, out: Path) -> None:
    """Encode one file of any length."""
    import hashlib

    from jielong.media.kinds.base import kind_of
    from jielong.training import token_cache as cache

    tokenizer, kind = system.tokenizer, kind_of(system.tokenizer.media)
    if path.suffix.lower() not in kind.suffixes or not tokenizer.any_length:
        raise ValueError(f"{system.name} reads data sets of {tokenizer.media}, not the single file {path}: give a data set to --data")
    started = time.perf_counter()
    item = kind.read(path, tokenizer.media, system.recipe.data)
    tokens = system.encode(item[None])
    origin = {
        "tokenizer": cache.tokenizer_identity(tokenizer),
        "data": hashlib.sha256(path.read_bytes()).hexdigest(),
        cache.SAMPLES: str(item.shape[1]),
    }
    cache.write(out, tokens, origin)
    seconds, took = item.shape[1] / (tokenizer.media.rate or 1), time.perf_counter() - started
    say(f"{seconds:.1f} s of {kind.name}, {tokens.layout.positions:,} tokens, {took:.1f} s")
    typer.echo(out)


def detokenize(
    checkpoint: Checkpoint,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Token file from `jielong tokenize`.")],
    out: Out,
    count: Annotated[int | None, typer.Option("-n", min=1, help="Decode only the first items.")] = None,
    device: Device = "auto",
) -> None:
    """Decode a token file of the same tokenizer."""
    from jielong.core.tokens import Tokens
    from jielong.media.kinds.base import kind_of
    from jielong.system import load
    from jielong.training import token_cache as cache

    system = load(checkpoint, chosen_device(device))
    media = system.tokenizer.media
    output = output_of(out, media)
    tokens = cache.read(file, {"tokenizer": cache.tokenizer_identity(system.tokenizer)}, tokenizer=system.tokenizer)
    lengths = None if tokens.lengths is None else tokens.lengths[:count]
    chosen = Tokens(tokens.values[:count], tokens.layout, lengths)
    samples, decoded = cache.samples_of(file), system.decode(chosen)
    items = kind_of(media).wrap(decoded if samples is None else decoded[:, :, :samples], media)
    notice = output.write(items, {"checkpoint": checkpoint, "tokens": str(file)}, grid=False)
    say(f"{len(chosen):,} {kind_of(media).noun[1]}")
    if notice:
        say(notice)
    typer.echo(out)
