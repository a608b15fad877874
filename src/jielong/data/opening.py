"""One door to every set: a built-in name or a path, recognised by what is there."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from jielong.config.registry import nearest
from jielong.data.built import built_path
from jielong.data.folder import FolderSource, files_below
from jielong.data.idx import is_idx_folder, open_fashion_mnist, open_idx_folder
from jielong.data.joined import Joined, joined_name, listed
from jielong.data.selection import Selected, chooses, split_name
from jielong.data.sets import ImageSet
from jielong.data.shards import ShardSource, expand
from jielong.data.sound_sources import SoundFolder, SoundTable, holds_sound
from jielong.data.sounds import RATE, AudioSet
from jielong.data.source import DataError, Source
from jielong.data.splits import Split, declares, splits
from jielong.data.table import TableSource

MediaSet = ImageSet | AudioSet
SetName = str | os.PathLike[str] | Sequence[str]
"""A built-in set's name, a path, or several of them as a list or with commas between."""


def open_set(
    name: SetName,
    size: int | None = None,
    split: Split | None = None,
    channels: int | None = None,
) -> ImageSet:
    """Open a built-in set (see :data:`BUILT_IN`) or your own pictures.

    A path may be a folder (class sub-folders; or pictures beside ``.txt``/``.json`` captions; or ``metadata.csv``/``.jsonl``), WebDataset
    shards (a folder of ``.tar`` files, one file, or a pattern such as ``shards/{000..009}.tar``),
    Parquet (a file, folder or pattern), or the idx files of the MNIST family.

    Args:
        name: the set's name or the path; several, as a list or with commas between, are joined (:class:`~jielong.data.joined.Joined`).
        size: side of the square pictures; by default the set's own (emoji 64, fashion-mnist 28, your own 64).
        split: ``train``, ``heldout`` or None for all. If the set does not say which pictures are held out, 5 % are, chosen by a hash of
            their names, so the choice stays when pictures are added.
        channels: 3 (RGB) or 1 (grey); by default the set's own.

    Raises:
        DataError: if there is no such set, it is empty, or it cannot be understood.
    """
    if split not in (None, "train", "heldout"):
        raise DataError(f"split is 'train', 'heldout' or None, not {split!r}")
    source = open_source(name)
    if source.medium == "sound":
        raise DataError(f"{name} is a set of sound: say how it is to be read, data: {{set: {name}, rate: 16000, seconds: 1.0}}")
    return ImageSet(source, _indices_of(source, split), size, channels)


def open_sounds(
    name: SetName,
    rate: int = RATE,
    seconds: float = 1.0,
    split: Split | None = None,
    channels: int = 1,
    level: float | None = None,
    whole: bool = False,
) -> AudioSet:
    """Open a built-in set of sound or your own: a folder as of pictures, or Parquet with a column ``audio``.

    Args:
        name: as of :func:`open_set`.
        rate: samples a second to resample to.
        seconds: length of an item; longer clips are cut, shorter ones end in silence.
        split: as of :func:`open_set`.
        channels: 1 (mono) or 2.
        level: decibels of full scale that every clip is brought to; as it is by default.
        whole: leave out clips that are longer, so that no item says more in words than in sound.

    Raises:
        DataError: as :func:`open_set` does, and if the set holds pictures.
    """
    if split not in (None, "train", "heldout"):
        raise DataError(f"split is 'train', 'heldout' or None, not {split!r}")
    source = open_source(name, meant="sound")
    if source.medium != "sound":
        raise DataError(f"{name} is a set of pictures, which have no rate and no seconds; say data: {{set: {name}, size: 64}}")
    opened = partial(AudioSet, source, rate=rate, seconds=seconds, channels=channels, level=level)
    sounds = opened(_indices_of(source, split))
    if not whole:
        return sounds
    short = [item for index, item in enumerate(sounds.indices) if sounds.full_length(index) <= sounds.samples]
    if not short:
        raise DataError(f"{name} holds no clip of {seconds:g} s or less; give more seconds")
    return opened(short)


def open_source(name: SetName, meant: str = "pictures") -> Source:
    """The source behind a built-in name or a path, ``?column=value`` choosing some of its items (:mod:`jielong.data.selection`).

    Args:
        name: as of :func:`open_set`.
        meant: ``pictures`` or ``sound``: what a folder is said to lack that holds neither.

    Raises:
        DataError: as :func:`open_set` does.
    """
    text = os.fspath(name) if isinstance(name, str | os.PathLike) else joined_name(name)
    if text in BUILT_IN:
        return BUILT_IN[text]()
    if len(names := listed(text)) > 1:
        return Joined([open_source(each, meant) for each in names], names)
    if chooses(text) and not Path(text).expanduser().exists():
        base, chosen = split_name(text)
        return Selected(open_source(base, meant), chosen)
    path = Path(text).expanduser()
    files = expand(str(path))
    tables, shards = _of_kind(files, ".parquet"), _of_kind(files, ".tar")
    if tables and shards:
        raise DataError(f"{text} holds both Parquet files and tar shards; keep one kind, or give a pattern such as {text}/*.parquet")
    if (tables or shards) and path.is_dir() and files_below(path):
        raise DataError(f"{text} holds loose pictures beside its {'Parquet files' if tables else 'tar shards'}; move one of them elsewhere")
    if tables:
        return SoundTable(tables, text) if holds_sound(tables[0]) else TableSource(tables, text)
    if shards:
        return ShardSource(shards, text)
    if path.is_dir():
        if is_idx_folder(path):
            return open_idx_folder(path)
        heard = not files_below(path) and (meant == "sound" or files_below(path, SoundFolder.suffixes))
        return SoundFolder(path) if heard else FolderSource(path)
    if path.exists():
        raise DataError(f"{text} is not a set of pictures or sound; give a folder, .tar shards or .parquet files")
    raise DataError(f"there is no set and no folder called {text!r}; {nearest(text, list(BUILT_IN))} Or give the path of your own pictures")


def _of_kind(files: Sequence[Path], suffix: str) -> list[Path]:
    return [file for file in files if file.suffix.lower() == suffix]


def _indices_of(source: Source, split: Split | None) -> list[int]:
    everything = range(len(source.items))
    if split is None:
        return list(everything)
    chosen = [index for index, each in enumerate(splits(source)) if each == split]
    if not chosen and declares(source):
        raise DataError(f"{source.name} marks no item as {split!r}")
    if not chosen and split == "heldout":
        raise DataError(f"{source.name} has too few pictures ({len(source.items)}) to hold any out")
    return chosen or list(everything)


def _emoji() -> Source:
    try:
        zoo = importlib.import_module("jielong_zoo")
    except ImportError as error:
        raise DataError("the set 'emoji' is in the distribution jielong-zoo, which is not installed; pip install ./zoo") from error
    return TableSource([Path(zoo.path()) / "data" / "emoji.parquet"], "emoji")


def _emoji_full() -> Source:
    path = built_path("emoji-full")
    if not path.is_file():
        raise DataError("the set 'emoji-full' is not built yet; run `jielong data build emoji-full` (needs npm)")
    return TableSource([path], "emoji-full")


def _prompts() -> Source:
    path = built_path("prompts")
    if not path.is_file():
        raise DataError("the set 'prompts' is not built yet; run `jielong data build prompts` (fetches 55 MB of Debian packages)")
    return SoundTable([path], "prompts")


def _spoken_words() -> Source:
    path = built_path("spoken-words")
    if not path.is_file():
        raise DataError("the set 'spoken-words' is not built yet; run `jielong data build spoken-words` (fetches 161 MB from Debian)")
    return SoundTable([path], "spoken-words")


def _synthetic_speech() -> Source:
    path = built_path("synthetic-speech")
    if not path.is_file():
        raise DataError("the set 'synthetic-speech' is not built yet; run `jielong data build synthetic-speech --minutes 10`")
    return SoundTable([path], "synthetic-speech")


def _sounds() -> Source:
    path = built_path("sounds")
    if path.is_file():
        return SoundTable([path], "sounds")
    try:
        shipped = Path(importlib.import_module("jielong_zoo").path()) / "data" / "sounds.parquet"
    except ImportError:
        shipped = path
    if not shipped.is_file():
        raise DataError("the set 'sounds' is in the distribution jielong-zoo (pip install ./zoo); or run `jielong data build sounds`")
    return SoundTable([shipped], "sounds")


BUILT_IN: dict[str, Callable[[], Source]] = {
    "emoji": _emoji,
    "emoji-full": _emoji_full,
    "fashion-mnist": open_fashion_mnist,
    "prompts": _prompts,
    "sounds": _sounds,
    "spoken-words": _spoken_words,
    "synthetic-speech": _synthetic_speech,
}
