"""Open a set by a built-in name or a path, recognised by what is there."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import tarfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, wraps
from itertools import islice
from pathlib import Path
from typing import ParamSpec

from pydantic import ValidationError

from jielong.config.data import DataSection, DataSettings, settings_kind
from jielong.config.registry import Faults, nearest
from jielong.core.allocation import TooLargeError, may_have, memory_limit
from jielong.core.medium import Medium
from jielong.core.storage import size_words
from jielong.data.built import built_path
from jielong.data.cuts import Cuts
from jielong.data.folder import FolderSource, walk
from jielong.data.hub import HubData, is_hub, is_saved, name_of, open_hub, open_saved
from jielong.data.idx import is_idx_folder, open_fashion_mnist, open_idx_folder
from jielong.data.joined import Joined, joined_name, listed
from jielong.data.ledger import Cause, Ledger
from jielong.data.moving_digits import MovingDigits
from jielong.data.patterns import expand
from jielong.data.selection import Deduplicated, Selected, chooses, split_name
from jielong.data.sets import MediaSet
from jielong.data.shards import ShardSource
from jielong.data.source import DataError, Source
from jielong.data.splits import Split
from jielong.data.table import TableSource, table_kind
from jielong.data.tar_members import tar_members
from jielong.media.kinds.base import MediaKind, kind_of, kinds

P = ParamSpec("P")
_MEMBERS = 1_000
"""Members of a shard by which its kind of media is recognised."""

SetName = str | os.PathLike[str] | Sequence[str]
"""A built-in set's name, a path, or several of them as a list or separated by commas."""


def set_name(data: str | os.PathLike[str] | HubData) -> str:
    """The name that opens a set in this process: a name or path as it is, or that of an object of the library `datasets`."""
    return os.fspath(data) if isinstance(data, str | os.PathLike) else name_of(data)


def warn_of_unused(name: str, unused: Ledger) -> None:
    """Warn once, in a line, of what a set holds beside the items used."""
    if unused:
        warnings.warn(f"{name}: {len(unused):,} not used: {unused.counts()}; why: jielong data inspect {name}", stacklevel=3)


def open_quietly(
    name: SetName,
    split: Split | None = None,
    *,
    settings: DataSettings | None = None,
    medium: Medium | None = None,
    whole: bool = False,
    channels: int | None = None,
    **options: object,
) -> MediaSet:
    """Open a built-in set (see :data:`BUILT_IN`) or your own data.

    A path may be a folder (class sub-folders; or files beside ``.txt``/``.json`` captions; or ``metadata.csv``/``.jsonl``), WebDataset
    shards (a folder of ``.tar`` files, one file, or a pattern such as ``shards/{000..009}.tar``),
    Parquet (a file, folder or pattern), the idx files of the MNIST family, or data sets of Hugging Face (``hf:owner/name``, or a folder of
    ``save_to_disk``).

    >>> open_data("emoji", "heldout", size=32).medium  # doctest: +SKIP
    Medium(kind='image', channels=3, axes=('rows', 'columns'), size=(32, 32), rate=None)

    Args:
        name: The set's name or path; several are joined (:class:`~jielong.data.joined.Joined`).
        split: ``train``, ``heldout`` or ``None`` for all. If the set declares no split, 5 % are held out, chosen by a hash of
            their content (:func:`~jielong.data.splits.split_by_content`), so that equal items are in one split, and the choice stays when
            items are added or renamed.
        settings: A recipe's `data:` section.
        medium: What items are fitted to, as a tokenizer reads them; by default as the settings describe.
        whole: Leave out items longer than the medium along time.
        channels: By default those of the medium or the set.
        options: Keys of the `data:` section in place of ``settings``, such as ``size``, ``sample_rate``, ``duration`` or ``level``.

    Raises:
        DataError: if there is no such set, it is empty or of another kind of media, or a key is unknown.
        TooLargeError: if one item would not fit into memory.
    """
    if split not in (None, "train", "heldout"):
        raise DataError(f"split is 'train', 'heldout' or None, not {split!r}")
    expected = _expected(settings, medium, options)
    source = open_source(name, expected)
    kind = kind_of(source.kind)
    if expected not in (None, kind.name):
        usual = kind.keys_of(kind.medium(kind.settings(), kind.native["channels"]))
        example = ", ".join(f"{key}: {value}" for key, value in usual.items())
        wanted = kind_of(str(expected)).noun[1]
        raise DataError(f"{name} is a set of {kind.noun[1]}, not of {wanted}; a recipe reads it with data: {{set: {name}, {example}}}")
    if settings is None:
        known = kind.settings.model_fields
        try:
            settings = kind.settings.model_validate({key: value for key, value in source.native.items() if key in known} | options)
        except ValidationError as error:
            raise DataError(f"{name} cannot be read so: {_reasons(error)}; the keys of {kind.noun[1]} are {', '.join(known)}") from None
    try:
        medium = medium or kind.medium(settings, channels or source.channels or kind.native["channels"])
    except ValueError as error:
        raise DataError(f"{name} cannot be read so: {error}") from None
    if (size := 4 * math.prod(medium.shape)) > (limit := memory_limit()):
        raise TooLargeError(f"{name} cannot be read so: one {kind.noun[0]} of {medium} takes {size_words(size)}, {may_have(limit)}")
    if settings.deduplicate:
        source = Deduplicated(source)
    if kind.divides(settings):
        source = Cuts(source, kind, medium, settings)
    return _split_of(source, medium, settings, split, whole)


def other_split(opened: MediaSet, split: Split, whole: bool = False) -> MediaSet:
    """Another split of a set that was opened, whose source is not read again.

    Raises:
        DataError: as :func:`open_data`.
    """
    return _split_of(opened.source, opened.medium, opened.settings, split, whole)


def _split_of(source: Source, medium: Medium, settings: DataSettings, split: Split | None, whole: bool) -> MediaSet:
    found = MediaSet(source, medium, _indices_of(source, split), settings)
    return _without_long(found) if whole and medium.timed and not found.kind.fills else found


def _warning(opened: Callable[P, MediaSet]) -> Callable[P, MediaSet]:
    """The same function, which then warns of what is not used."""

    @wraps(opened, ("__module__", "__doc__", "__annotations__"))
    def open_data(*args: P.args, **options: P.kwargs) -> MediaSet:
        found = opened(*args, **options)
        warn_of_unused(found.name, found.unused)
        return found

    return open_data


open_data = _warning(open_quietly)
"""As :func:`open_quietly`, with a warning of what is not used (:attr:`~jielong.data.sets.MediaSet.unused`)."""


def _without_long(found: MediaSet) -> MediaSet:
    """The set without items longer than its medium along time, which are recorded."""
    medium, short, left_out = found.medium, list[int](), Ledger()
    for index in range(len(found)):
        length = found.full_length(index)
        if found.resolve(index) != index:  # it cannot be decoded, and is recorded as broken; the length is that of its replacement
            continue
        if length <= medium.frames:
            short.append(index)
        else:
            seconds = f"{length / (medium.rate or 1):.2f} s, but {medium.duration:g} s are read; set a longer data.duration"
            left_out.add(Cause.LONG, found.keys[index], f"{found.keys[index]} lasts {seconds}")
    if not short:
        raise DataError(f"{found.name} holds no {found.kind.noun[0]} of {medium.duration:g} s or less; set a longer data.duration")
    return found.restricted(short, left_out)


def _expected(settings: DataSettings | None, medium: Medium | None, options: Mapping[str, object]) -> str | None:
    if medium is not None or settings is not None:
        return medium.kind if medium is not None else settings_kind(settings).name if settings is not None else None
    try:
        return DataSection().kind_of(options).name if options.keys() & set(DataSection().keys()) else None
    except Faults as error:
        raise DataError(str(error)) from None


def _reasons(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']} (it is {each['input']!r})" for each in error.errors())


def open_source(name: SetName, kind: str | None = None) -> Source:
    """The source behind a built-in name or a path, ``?column=value`` choosing some of its items (:mod:`jielong.data.selection`).

    Args:
        name: As of :func:`open_data`.
        kind: The kind of media expected, where there may be several; by default that with the most files.

    Raises:
        DataError: As :func:`open_data`.
    """
    text = os.fspath(name) if isinstance(name, str | os.PathLike) else joined_name(name)
    if not text.strip():
        raise DataError("a set needs a name or a path, and this one is empty")
    if text in BUILT_IN:
        return BUILT_IN[text]()
    if len(names := listed(text)) > 1:
        return Joined([open_source(each, kind) for each in names], names)
    if is_hub(text):
        source, chosen = open_hub(text, kind)
        return Selected(source, chosen) if chosen else source
    if chooses(text) and not Path(text).expanduser().exists():
        base, chosen = split_name(text)
        return Selected(open_source(base, kind), chosen)
    path = Path(text).expanduser()
    files = expand(str(path))
    tables, shards = _of_suffix(files, ".parquet"), _of_suffix(files, ".tar")
    if tables and shards:
        raise DataError(f"{text} holds both Parquet files and tar shards; keep one kind, or give a pattern such as {text}/*.parquet")
    if (tables or shards) and path.is_dir() and (loose := kinds_of(file.name for file in walk(path))):
        files_are = f"loose {_chosen(loose, kind).noun[1]} beside its {'Parquet files' if tables else 'tar shards'}"
        raise DataError(f"{text} holds {files_are}; move one of them elsewhere")
    if tables:
        return _with_rest(TableSource(tables, text, table_kind(tables, kind)), path, tables)
    if shards:
        members = [] if kind is not None else next(filter(None, map(_first_members, shards)), [])
        return _with_rest(ShardSource(shards, text, _chosen(kinds_of(members), kind)), path, shards)
    if path.is_dir() and is_saved(path):
        return open_saved(path, kind)
    if path.is_dir():
        return open_idx_folder(path) if is_idx_folder(path) else FolderSource(path, _of_files(walk(path), kind))
    if path.exists():
        raise DataError(f"{text} is not a data set; give a folder, .tar shards or .parquet files")
    raise DataError(f"there is no set and no folder called {text!r}; give a path or a set's name: {nearest(text, list(BUILT_IN))}")


def _with_rest(source: Source, path: Path, opened: Sequence[Path]) -> Source:
    """The source, with the files of its folder that are neither shards nor tables of it as unused."""
    for file in sorted({*walk(path, source.unused)} - {*opened}) if path.is_dir() else ():
        name, suffix = file.relative_to(path).as_posix(), file.suffix.lower()
        if suffix in (".tar", ".parquet"):
            source.unused.add(
                Cause.UNLISTED, name, f"{file} is in a folder below; the pattern {path}/**/*{suffix} reads files at any depth"
            )
        else:
            source.unused.add(Cause.ENDING, name, f"{file} is not a {opened[0].suffix} file, as the set is")
    return source


def kinds_of(names: Iterable[str]) -> dict[str, int]:
    """The kinds of media that files have by their endings, with the number of files of each.

    The kind that most files are taken for is the first; then others that can be asked for.
    """
    suffixes = Counter(os.path.splitext(name)[1].lower() for name in names)
    own = {name: sum(suffixes[suffix] for suffix in kind.suffixes - kind.shared) for name, kind in kinds().items()}
    counts = {name: sum(suffixes[suffix] for suffix in kind.suffixes) for name, kind in kinds().items()}
    ordered = sorted(counts, key=lambda name: (-own[name], -counts[name]))
    return {name: counts[name] for name in ordered if counts[name]}


def _chosen(held: Mapping[str, int], expected: str | None) -> MediaKind:
    """The expected kind if there are files of it, or of none; else the kind with the most files."""
    if expected is not None and (expected in held or not held):
        return kind_of(expected)
    return kind_of(next(iter(held), next(iter(kinds()))))


def _of_files(files: Sequence[Path], expected: str | None) -> MediaKind:
    """The kind of the files below a folder; the expected one also where folders are items of it."""
    if expected is not None and kind_of(expected).folders(files):
        return kind_of(expected)
    return _chosen(kinds_of(file.name for file in files), expected)


def _first_members(shard: Path) -> list[str]:
    """Names of the first members of a shard; none if it cannot be read, which is an error later."""
    with contextlib.suppress(tarfile.TarError, OSError):
        return [member.name for member in islice(tar_members(shard), _MEMBERS)]
    return []


def _of_suffix(files: Sequence[Path], suffix: str) -> list[Path]:
    return [file for file in files if file.suffix.lower() == suffix]


def _indices_of(source: Source, split: Split | None) -> list[int]:
    everything = range(len(source.items))
    if split is None:
        return list(everything)
    chosen = [index for index, each in enumerate(source.splits) if each == split]
    if not chosen and source.declares_splits:
        held = "train" if split == "heldout" else "heldout"
        raise DataError(f"{source.name} marks no item as {split!r}: all {len(source.items)} are {held!r}{source.unused.explained()}")
    if not chosen and split == "heldout":
        raise DataError(
            f"{source.name} has too few different items ({len(set(source.content_hashes))} of {len(source.items)}) to hold any out"
            f"{source.unused.explained()}"
        )
    return chosen or list(everything)


def _emoji() -> Source:
    try:
        zoo = importlib.import_module("jielong_zoo")
    except ImportError as error:
        raise DataError("the set 'emoji' is in the distribution jielong-zoo, which is not installed; pip install ./zoo") from error
    source = TableSource([Path(zoo.path()) / "data" / "emoji.parquet"], "emoji", kind_of("image"))
    source.writing = True
    return source


def _with_writing(name: str, command: str) -> Source:
    source = _built(name, "image", command)
    source.writing = True
    return source


def _built(name: str, kind: str, command: str) -> Source:
    path = built_path(name)
    if not path.is_file():
        raise DataError(f"the set {name!r} is not built yet; run {command}")
    return TableSource([path], name, kind_of(kind))


def shipped_path(name: str, build: str) -> Path:
    """The file of a set that ships with `jielong-zoo`; raises :class:`DataError` where it is neither there nor built."""
    try:
        path = Path(importlib.import_module("jielong_zoo").path()) / "data" / f"{name}.parquet"
    except ImportError:
        path = built_path(name)
    if not path.is_file():
        raise DataError(f"the set {name!r} is in the distribution jielong-zoo (pip install ./zoo); or run `jielong data build {build}`")
    return path


def _shipped(name: str, kind: str, build: str) -> Source:
    return TableSource([shipped_path(name, build)], name, kind_of(kind))


def _digits() -> Source:
    return MovingDigits(shipped_path("digits", "digits"))


def _sounds() -> Source:
    path = built_path("sounds")
    if path.is_file():
        return TableSource([path], "sounds", kind_of("audio"))
    try:
        shipped = Path(importlib.import_module("jielong_zoo").path()) / "data" / "sounds.parquet"
    except ImportError:
        shipped = path
    if not shipped.is_file():
        raise DataError("the set 'sounds' is in the distribution jielong-zoo (pip install ./zoo); or run `jielong data build sounds`")
    return TableSource([shipped], "sounds", kind_of("audio"))


BUILT_IN: dict[str, Callable[[], Source]] = {
    "avatars": partial(_shipped, "avatars", "video", "avatars"),
    "digits": _digits,
    "emoji": _emoji,
    "emoji-full": partial(_with_writing, "emoji-full", "`jielong data build emoji-full` (needs npm)"),
    "faces": partial(_shipped, "faces", "image", "faces"),
    "faces-edits": partial(_shipped, "faces-edits", "image", "faces"),
    "fashion-mnist": open_fashion_mnist,
    "icons": partial(_with_writing, "icons", "`jielong data build icons` (fetches 32 MB of a Debian package)"),
    "missions": partial(_shipped, "missions", "video", "missions"),
    "prompts": partial(_built, "prompts", "audio", "`jielong data build prompts` (fetches 55 MB of Debian packages)"),
    "sounds": _sounds,
    "spoken-words": partial(_built, "spoken-words", "audio", "`jielong data build spoken-words` (fetches 161 MB from Debian)"),
    "strokes": partial(_shipped, "strokes", "video", "strokes"),
    "synthetic-speech": partial(_built, "synthetic-speech", "audio", "`jielong data build synthetic-speech --minutes 10`"),
}
