"""Curate a folder of clips: check everything, measure every file once, apply each set's limits, write the clips and the report."""

from __future__ import annotations

import functools
import json
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jielong.core.files import new_folder, remove_leftovers, write_bytes
from jielong.core.json import JSON, to_text
from jielong.core.locks import one_run
from jielong.core.progress import counting
from jielong.core.storage import check_room
from jielong.curation.funnel import BROKEN, Entry, Funnel, applied, clip_of, funnel, is_complete
from jielong.curation.measuring import Clip, Measured, measure_file
from jielong.curation.ranges import Fault
from jielong.curation.records import FileRecord
from jielong.curation.rules import Rules
from jielong.curation.running import Workers
from jielong.curation.shots import check_detector
from jielong.curation.stages.base import opencv
from jielong.curation.store import Store
from jielong.curation.writing import SUFFIX, Job, link_or_copy, lost_note, write_clip
from jielong.data.folder import FolderSource
from jielong.data.ledger import Ledger
from jielong.data.source import DataError, Item
from jielong.media.kinds.video import VideoKind
from jielong.media.reading.libraries import library

WORK = ".curation"
"""In the output folder: what was measured, and the clips that were written."""
REPORT = "report.json"


class _Unopened(VideoKind):
    """Videos whose headers are not read when a folder is listed: they are read with the rest of the file, in parallel."""

    def check_header(self, source: bytes | Path, name: str = "") -> None:
        """Nothing."""


@dataclass(frozen=True)
class Curated:
    """The result of a run.

    Attributes:
        clips: The folder that was read.
        out: The folder that was written.
        rules: By which.
        items: Every file, in order.
        keys: Of their records in the store.
        records: What was measured of them.
        funnels: Of each set, in the order of the rules.
        unused: What the folder holds besides.
        store: Records, and strips of frames.
        measured: Files that were measured in this run; the others were known.
        folders: The folder of each set that keeps anything; empty where no clips were written.
        incomplete: What is missing of clips, with the number of clips.
    """

    clips: Path
    out: Path
    rules: Rules
    items: list[Item]
    keys: list[str]
    records: list[FileRecord]
    funnels: list[Funnel]
    unused: Ledger
    store: Store
    measured: int
    folders: dict[str, Path]
    incomplete: dict[str, int]


def curate(clips: Path, rules: Rules, out: Path, workers: Workers = Workers(), write: bool = True) -> Curated:
    """Curate a folder of clips into one folder a set, which ``data: {set: OUT/NAME}`` opens.

    A run that was stopped goes on with the same call: what was measured and written is not done again. Nothing is written before the
    rules, the libraries, the folder of clips and the output folder were checked.

    Args:
        clips: Files (or folders of frames) with captions as in any folder of data.
        rules: How they are measured, and what each set keeps.
        out: Folder of the sets and the report.
        workers: Where files are measured and written.
        write: Whether clips are written; otherwise the report alone, and sets of an earlier run stay as they are.

    Raises:
        DataError: if there are no clips, or the folders cannot be used.
        MissingLibraryError: if a library is missing.
        StorageError: if something cannot be written.
        InUseError: if another process curates into ``out``.
    """
    check(rules, workers)
    source = _source(clips)
    _check_out(clips, out)
    with one_run(out / WORK):
        store = Store(out / WORK / "measured", rules)
        store.remove_leftovers()
        contents = source.content_hashes
        keys = [store.key(content, item.caption) for content, item in zip(contents, source.items, strict=True)]
        paths = [_path(source, index) for index in range(len(keys))]
        measured = _measure(
            rules, store, keys, [Clip(path, item.key, item.caption) for path, item in zip(paths, source.items, strict=True)], workers
        )
        records = [_read(store, key) for key in keys]
        captioned = [bool(item.caption) for item in source.items]
        funnels = [funnel(name, rules, records, captioned) for name in rules.sets]
        result = Curated(clips, out, rules, source.items, keys, records, funnels, source.unused, store, measured, {}, {})
        if not write:
            return result
        return _write(result, paths, workers)


def check(rules: Rules, workers: Workers) -> None:
    """Check that all libraries are there that the rules need.

    Raises:
        MissingLibraryError: if one is not.
    """
    workers.check()
    opencv()
    library("av", "video", "video")
    check_detector(rules.shots)
    for stage in applied(rules):
        stage.check()


def _source(clips: Path) -> FolderSource:
    if not clips.is_dir():
        raise DataError(f"{clips} is no folder: curation reads a folder of videos, with captions beside them or in metadata.csv or .jsonl")
    return FolderSource(clips, _Unopened())


def _check_out(clips: Path, out: Path) -> None:
    inside, outside = clips.resolve(), out.resolve()
    if outside == inside or outside.is_relative_to(inside) or inside.is_relative_to(outside):
        raise DataError(
            f"{out} and {clips} are one within the other: choose an output folder elsewhere, or its clips would be read as inputs"
        )
    check_room(out / WORK, 0)
    if out.is_dir() and not (out / WORK).is_dir() and any(not each.name.startswith(".") for each in out.iterdir()):
        raise DataError(f"{out} holds files that curation did not write: choose a new or empty folder")


def _path(source: FolderSource, index: int) -> Path:
    content = source.content(index)
    if not isinstance(content, Path):
        raise DataError(f"{source.items[index].key} is no file")
    return content


def _measure(rules: Rules, store: Store, keys: Sequence[str], clips: Sequence[Clip], workers: Workers) -> int:
    """Measure the files whose records are missing, or lack what the sets need; how many those are."""
    todo: dict[str, Clip] = {}
    for key, clip in zip(keys, clips, strict=True):
        record = None if key in todo else store.read(key)
        if key not in todo and (record is None or not is_complete(record, rules)):
            todo[key] = clip
    waiting = list(todo)
    with counting("measuring", len(waiting), "files") as advance:
        measure = functools.partial(measure_file, rules=rules)
        for index, measured in workers.run(measure, [todo[key] for key in waiting], _crashed):
            store.write(waiting[index], measured)
            advance(1)
    return len(waiting)


def _crashed(clip: Clip) -> Measured:
    return Measured(FileRecord(Fault(BROKEN, "decoder crashed", f"{clip.name}: the process that read it ended without a result")), ())


def _read(store: Store, key: str) -> FileRecord:
    record = store.read(key)
    if record is None:
        raise DataError(f"{store.folder} lost the record {key} while it was used: run the same command again")
    return record


def _write(result: Curated, paths: Sequence[Path], workers: Workers) -> Curated:
    """Write every clip that a set keeps once, and the folder of each set."""
    work = result.out / WORK / "clips"
    remove_leftovers(work)
    jobs: dict[tuple[int, int], Job] = {}
    for each in result.funnels:
        for entry in each.kept:
            jobs.setdefault((entry.file, entry.clip or 0), _job(result, paths, entry, work))
    waiting = list({job.target: job for job in jobs.values()}.values())
    missing: Counter[str] = Counter()
    with counting("writing", len(waiting), "clips") as advance:
        for _, lost in workers.run(write_clip, waiting, _lost):
            missing.update([lost] if lost else [])
            advance(1)
    names = _names(result)
    _warn_of_earlier(result.out, result.rules)
    folders = {}
    for each in result.funnels:
        folder = result.out / each.name
        shutil.rmtree(folder, ignore_errors=True)
        if each.kept:
            _write_set(result, each, folder, jobs, names)
            folders[each.name] = folder
    used = {each.name for job in waiting for each in (job.target, lost_note(job.target))}
    for path in work.iterdir() if work.is_dir() else ():
        if path.name not in used:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return Curated(**vars(result) | {"folders": folders, "incomplete": dict(missing)})


def _warn_of_earlier(out: Path, rules: Rules) -> None:
    """Warn of sets in the folder that these rules do not name."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        earlier = [name for name in json.loads((out / REPORT).read_bytes())["sets"] if name not in rules.sets and (out / name).is_dir()]
        if earlier:
            warnings.warn(f"{out} holds sets of earlier rules, which stay as they were: {', '.join(earlier)}", stacklevel=4)


def _lost(job: Job) -> str:
    raise DataError(f"{job.name}: the process that wrote a clip of it ended without a result; run the same command again")


def _job(result: Curated, paths: Sequence[Path], entry: Entry, work: Path) -> Job:
    record, path, key = result.records[entry.file], paths[entry.file], result.keys[entry.file]
    span, name = clip_of(entry, result.records).span, result.items[entry.file].key
    if len(record.clips or ()) == 1:
        return Job(path, name, work / f"{key}{path.suffix.lower() * path.is_file()}", None, record.sound)
    return Job(path, name, work / f"{key}-{span.first}-{span.stop}{SUFFIX}", span, record.sound)


def _names(result: Curated) -> dict[tuple[int, int], str]:
    """The file of every clip within its set: that of the file it is in, with its frames where there are several."""
    found = [_stem(item, record) for item, record in zip(result.items, result.records, strict=True)]
    counts, names = Counter(stem for stem, _ in found), {}
    for index, ((stem, suffix), record) in enumerate(zip(found, result.records, strict=True)):
        unique = stem if counts[stem] == 1 else f"{stem}-{suffix[1:]}"
        clips = record.clips or ()
        for number, clip in enumerate(clips):
            part = f"_{clip.span.first:06d}-{clip.span.stop:06d}{SUFFIX}"
            names[index, number] = unique + (suffix if len(clips) == 1 else part)
    return names


def _stem(item: Item, record: FileRecord) -> tuple[str, str]:
    """Name and ending of a file; a folder of frames has no ending."""
    if record.kind == "folder":
        return item.key, ""
    stem, suffix = os.path.splitext(item.key)
    return stem, suffix.lower()


def _write_set(result: Curated, kept: Funnel, folder: Path, jobs: dict[tuple[int, int], Job], names: dict[tuple[int, int], str]) -> None:
    with new_folder(folder) as beside:
        rows = []
        for entry in kept.kept:
            at = (entry.file, entry.clip or 0)
            link_or_copy(jobs[at].target, beside / names[at])
            rows.append(_row(result, entry, names[at]))
        write_bytes(beside / "metadata.jsonl", lines(rows))


def _row(result: Curated, entry: Entry, name: str) -> JSON:
    """The words of a clip: its caption, class and split, where it is from, and what was measured."""
    item, record, clip = result.items[entry.file], result.records[entry.file], clip_of(entry, result.records)
    words: JSON = {"file_name": name}
    words |= {"caption": list(item.captions) if len(item.captions) > 1 else item.caption} if item.captions else {}
    words |= {} if item.label is None else {"label": item.label}
    words |= {} if item.split is None else {"split": item.split}
    words |= {"source": item.key, "start": clip.span.start, "end": clip.span.end, "frame_rate": record.rate}
    return (
        words | {"width": record.width, "height": record.height} | {key: value for key, value in clip.values.items() if value is not None}
    )


def lines(rows: Iterable[JSON]) -> bytes:
    """JSON, one row a line."""
    return "".join(to_text(row) + "\n" for row in rows).encode()
