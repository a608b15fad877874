"""The report of a run: as JSON, and every dropped file and clip as a line of JSON."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np

from jielong.config.registry import plain
from jielong.core.files import write_bytes
from jielong.core.json import JSON, printable, to_text
from jielong.curation.funnel import BROKEN, SHOTS, Funnel, Row, clip_of, limits_of, stages
from jielong.curation.naming import why
from jielong.curation.page import html
from jielong.curation.ranges import Measure, Range
from jielong.curation.run import REPORT, Curated, lines
from jielong.curation.store import versions

PAGE, DROPPED = "report.html", "dropped.jsonl"
BINS = 24
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def write_report(result: Curated) -> list[str]:
    """Write ``report.json``, ``report.html`` and, for each set, ``NAME.dropped.jsonl`` into the output folder; their paths.

    Raises:
        StorageError: if one cannot be written.
    """
    data = as_dict(result)
    found = {REPORT: to_text(data, indent=2).encode(), PAGE: html(result, data).encode()}
    for each in result.funnels:
        found[f"{each.name}.{DROPPED}"] = lines(_dropped(result, each))
    return [str(write_bytes(result.out / name, content)) for name, content in found.items()]


def as_dict(result: Curated) -> JSON:
    """Everything but the list of what is dropped; the same clips and rules give the same report wherever they are measured."""
    return {
        "clips": printable(os.fspath(result.clips)),
        "files": len(result.items),
        "varying_frame_rate": [item.key for item, record in zip(result.items, result.records, strict=True) if record.varies],
        "unused": result.unused.as_dict(),
        "incomplete": result.incomplete,
        "rules": plain(result.rules),
        "libraries": versions(),
        "sets": {each.name: _set(result, each) for each in result.funnels},
    }


def _set(result: Curated, each: Funnel) -> JSON:
    seconds = sum(clip_of(entry, result.records).span.seconds for entry in each.kept)
    folder = result.folders.get(each.name)
    return {
        "kept": len(each.kept),
        "seconds": seconds,
        "folder": None if folder is None else folder.name,
        "stages": [_stage(result, each, row) for row in each.rows],
    }


def _stage(result: Curated, each: Funnel, row: Row) -> JSON:
    about: JSON = {"stage": row.stage, "of": row.of, "before": row.before, "dropped": len(row.dropped), "kept": row.kept}
    about |= {"applied": row.applied, "note": row.note, "reasons": row.reasons}
    known = {stage.name: stage for stage in stages(result.rules)}
    if row.stage in (BROKEN, SHOTS):
        return about
    stage = known[row.stage]
    limits = limits_of(result.rules.sets[each.name], stage)
    measures = {measure.name: measure for measure in stage.measures}
    return about | {"measures": {name: histogram(values, measures[name], limits.get(name)) for name, values in row.values.items()}}


def histogram(values: Sequence[float], measure: Measure, limit: Range | None) -> JSON:
    """Quantiles of values, and how many lie in each of :data:`BINS` bins: of equal width, or of equal ratios for a logarithmic measure."""
    array = np.asarray(values, float)
    low, high = float(array.min()), float(array.max())
    positive = array[array > 0]
    log = measure.log and len(positive) > 0
    if log:
        edges = np.geomspace(float(positive.min()), max(high, float(positive.min()) * 1.001), BINS + 1)
    else:
        edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    places = np.clip(np.searchsorted(edges, array, side="right") - 1, 0, BINS - 1)
    quantiles = np.quantile(array, QUANTILES)
    return {
        "about": measure.about,
        "unit": measure.unit,
        "count": len(array),
        "quantiles": {f"{level:g}": float(value) for level, value in zip(QUANTILES, quantiles, strict=True)},
        "limits": None if limit is None else limit.model_dump(),
        "log": log,
        "edges": [float(edge) for edge in edges],
        "counts": np.bincount(places, minlength=BINS).tolist(),
    }


def _dropped(result: Curated, each: Funnel) -> Iterator[JSON]:
    for row in each.rows:
        for entry in row.dropped:
            if entry.fault is None:
                continue
            words: JSON = {"file": result.items[entry.file].key}
            if entry.clip is not None:
                span = clip_of(entry, result.records).span
                words |= {"start": span.start, "end": span.end}
            yield words | {"stage": row.stage, "reason": entry.fault.reason, "detail": why(result, entry)}
