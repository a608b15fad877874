"""The stages in order, and which clips each set keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from jielong.curation.ranges import Fault, Range, Values, beyond
from jielong.curation.records import ClipRecord, FileRecord
from jielong.curation.rules import Rules, SetRules
from jielong.curation.stages.base import ClipStage, Stage
from jielong.curation.stages.blur import Blur
from jielong.curation.stages.brightness import Brightness
from jielong.curation.stages.caption import CaptionAgreement
from jielong.curation.stages.duplicates import Duplicates, Hashes, nearest_before
from jielong.curation.stages.length import Length
from jielong.curation.stages.metadata import Metadata
from jielong.curation.stages.motion import Motion
from jielong.curation.stages.text import TextArea

BROKEN = "broken"
SHOTS = "shots"


def clip_stages(rules: Rules) -> list[ClipStage]:
    """The stages that measure frames, in order."""
    return [Brightness(), Motion(rules.motion), Blur(), TextArea(rules.text), CaptionAgreement(rules.caption)]


def stages(rules: Rules) -> list[Stage]:
    """All stages in order, without those that are always applied (broken files, shots)."""
    return [Metadata(), Length(), *clip_stages(rules), Duplicates()]


def applied(rules: Rules) -> list[Stage]:
    """The stages that at least one set limits."""
    return [stage for stage in stages(rules) if any(getattr(each, stage.name) is not None for each in rules.sets.values())]


def limits_of(limits: SetRules, stage: Stage) -> dict[str, Range]:
    """The limits of a stage's measures in a set; empty where it has none."""
    given = getattr(limits, stage.name)
    if given is None or isinstance(stage, Duplicates):
        return {}
    if isinstance(given, Range):
        return {stage.measures[0].name: given}
    found = {measure.name: getattr(given, measure.name) for measure in stage.measures}
    return {name: limit for name, limit in found.items() if limit is not None}


def fault_of(stage: Stage, limits: SetRules, values: Values) -> Fault | None:
    """Why a set drops values at a stage; ``None`` if it keeps them.

    Raises:
        KeyError: if a value that it needs was not measured.
    """
    return beyond(stage.name, stage.measures, limits_of(limits, stage), values)


def is_complete(record: FileRecord, rules: Rules) -> bool:
    """Whether everything was measured that the sets need."""
    try:
        for limits in rules.sets.values():
            if record.fault is not None or record.values is None or fault_of(Metadata(), limits, record.values) is not None:
                continue
            if record.clips is None:
                return False
            for clip in record.clips:
                if _clip_fault(clip, limits, rules) is None and limits.duplicates is not None and clip.hashes is None:
                    return False
    except KeyError:
        return False
    return True


def _clip_fault(clip: ClipRecord, limits: SetRules, rules: Rules) -> Fault | None:
    """The first stage up to near-duplicates that drops a clip."""
    found = (fault_of(stage, limits, clip.values) for stage in [Length(), *clip_stages(rules)])
    return next((fault for fault in found if fault is not None), None)


@dataclass(frozen=True)
class Entry:
    """A file of the funnel, or a clip of it.

    Attributes:
        file: Index of the file.
        clip: Index of the clip in it; ``None`` for the whole file.
        fault: Why it is dropped; ``None`` if it is kept.
        like: Of a near-duplicate, the clip that is kept, as ``(file, clip)``.
    """

    file: int
    clip: int | None
    fault: Fault | None = None
    like: tuple[int, int] | None = None


@dataclass
class Row:
    """A stage of the funnel.

    Attributes:
        stage: Its name.
        of: What it counts, ``files`` or ``clips``.
        before: How many come to it.
        kept: How many it keeps; behind the stage ``shots`` these are clips.
        dropped: Those that it drops, in order.
        applied: Whether the set limits it.
        note: What else is to be said.
        values: What it measured, by name, of all that come to it.
    """

    stage: str
    of: str
    before: int
    kept: int = 0
    dropped: list[Entry] = field(default_factory=list)
    applied: bool = True
    note: str = ""
    values: dict[str, list[float]] = field(default_factory=dict)

    @property
    def reasons(self) -> dict[str, int]:
        """How many are dropped for each reason, the most frequent first."""
        counts: dict[str, int] = {}
        for entry in self.dropped:
            if entry.fault is not None:
                counts[entry.fault.reason] = counts.get(entry.fault.reason, 0) + 1
        return dict(sorted(counts.items(), key=lambda each: (-each[1], each[0])))


@dataclass(frozen=True)
class Funnel:
    """What a set keeps, and what each stage drops.

    Attributes:
        name: Of the set.
        rows: Its stages, in order.
        kept: The clips that are left.
    """

    name: str
    rows: list[Row]
    kept: list[Entry]


def funnel(name: str, rules: Rules, records: Sequence[FileRecord], captioned: Sequence[bool]) -> Funnel:
    """Apply the limits of a set to what was measured; nothing is decoded.

    Args:
        name: Of the set.
        rules: All rules.
        records: Of every file, in the order of files.
        captioned: Whether each file has a caption.

    Raises:
        KeyError: if something that is needed was not measured (:func:`is_complete`).
    """
    limits = rules.sets[name]
    rows: list[Row] = []
    broken = Row(BROKEN, "files", len(records))
    broken.dropped = [Entry(index, None, record.fault) for index, record in enumerate(records) if record.fault is not None]
    broken.kept = broken.before - len(broken.dropped)
    files = [Entry(index, None) for index, record in enumerate(records) if record.fault is None]
    rows += [broken]
    files = _filtered(Metadata(), limits, files, records, rows)
    shots = Row(SHOTS, "files", len(files), applied=rules.shots.detector != "none")
    clips = [Entry(entry.file, clip) for entry in files for clip in range(len(records[entry.file].clips or ()))]
    shots.kept = len(clips)
    shots.note = f"{len(files):,} files become {len(clips):,} clips"
    rows += [shots]
    for stage in [Length(), *clip_stages(rules)]:
        clips = _filtered(stage, limits, clips, records, rows)
        if isinstance(stage, CaptionAgreement):
            rows[-1].note = _caption_note(rules, limits, rows[-1], sum(not captioned[entry.file] for entry in clips))
    clips = _without_duplicates(limits, clips, records, rows)
    return Funnel(name, rows, clips)


def _filtered(stage: Stage, limits: SetRules, entries: list[Entry], records: Sequence[FileRecord], rows: list[Row]) -> list[Entry]:
    """Those that a stage keeps; its row is added."""
    row = Row(stage.name, stage.of, len(entries), applied=bool(limits_of(limits, stage)))
    row.note = "" if row.applied else "no limits"
    kept = []
    for entry in entries:
        values = _values(entry, records)
        fault = fault_of(stage, limits, values)
        kept += [entry] if fault is None else []
        row.dropped += [] if fault is None else [Entry(entry.file, entry.clip, fault)]
        for name in limits_of(limits, stage):
            if (value := values.get(name)) is not None:
                row.values.setdefault(name, []).append(value)
    row.kept = len(kept)
    rows.append(row)
    return kept


def _values(entry: Entry, records: Sequence[FileRecord]) -> Values:
    record = records[entry.file]
    return (record.values or {}) if entry.clip is None else clip_of(entry, records).values


def clip_of(entry: Entry, records: Sequence[FileRecord]) -> ClipRecord:
    """The record of an entry's clip."""
    clips = records[entry.file].clips
    if clips is None or entry.clip is None:
        raise KeyError(f"file {entry.file} was not cut")
    return clips[entry.clip]


def _caption_note(rules: Rules, limits: SetRules, row: Row, without: int) -> str:
    if rules.caption.scorer is None:
        return "not looked for: caption.scorer names no scorer"
    if not row.applied:
        return "no limits"
    return f"not looked for in {without:,} clips without a caption, which are kept" if without else ""


def _without_duplicates(limits: SetRules, clips: list[Entry], records: Sequence[FileRecord], rows: list[Row]) -> list[Entry]:
    row = Row(Duplicates.name, "clips", len(clips), applied=limits.duplicates is not None)
    rows.append(row)
    if limits.duplicates is None:
        row.kept, row.note = len(clips), "no limits"
        return clips
    hashes = [_hashes(entry, records) for entry in clips]
    plain = sum(not any(value is not None for value in each) for each in hashes)
    row.note = f"{plain:,} clips of one colour are compared with none" if plain else ""
    kept = []
    for entry, found in zip(clips, nearest_before(hashes, limits.duplicates.bits), strict=True):
        if found is None:
            kept.append(entry)
            continue
        other = clips[found[0]]
        like = (other.file, other.clip or 0)
        row.values.setdefault("bits", []).append(found[1])
        row.dropped.append(Entry(entry.file, entry.clip, Fault(Duplicates.name, Duplicates.reason, f"{found[1]:.3g} bits from"), like))
    row.kept = len(kept)
    return kept


def _hashes(entry: Entry, records: Sequence[FileRecord]) -> Hashes:
    hashes = clip_of(entry, records).hashes
    if hashes is None:
        raise KeyError("hashes")
    return hashes


def live_sets(rules: Rules, names: Sequence[str], stage: Stage, values: Values) -> list[str]:
    """Those of the named sets that keep values at a stage."""
    return [name for name in names if fault_of(stage, rules.sets[name], values) is None]


def limiting(rules: Rules, names: Sequence[str], stage: Stage) -> Iterator[str]:
    """Those of the named sets that limit a stage."""
    return (name for name in names if getattr(rules.sets[name], stage.name) is not None)
