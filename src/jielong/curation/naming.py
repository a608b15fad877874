"""What files and clips are called in reports, and why they are dropped."""

from __future__ import annotations

from jielong.curation.funnel import Entry, clip_of
from jielong.curation.run import Curated


def label(result: Curated, entry: Entry) -> str:
    """A file, or a clip with its seconds."""
    name = result.items[entry.file].key
    if entry.clip is None or len(result.records[entry.file].clips or ()) == 1:
        return name
    span = clip_of(entry, result.records).span
    return f"{name}, {span.start:.2f} s to {span.end:.2f} s"


def why(result: Curated, entry: Entry) -> str:
    """Why an entry is dropped, in full."""
    if entry.fault is None:
        return ""
    like = "" if entry.like is None else f" {label(result, Entry(*entry.like))}"
    return f"{entry.fault.detail}{like}"
