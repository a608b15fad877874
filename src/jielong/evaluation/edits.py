"""Figures of models that edit: is the attribute what the instruction names, and is everything else as it was, as a judge reads it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from jielong.core.json import JSON
from jielong.data.linked import SOURCE
from jielong.data.pairs import source_media
from jielong.data.selection import chooses, split_name
from jielong.evaluation.attributes import AttributeJudge, JudgeError
from jielong.evaluation.context import EvalContext, EvalResult
from jielong.evaluation.provenance import Measurement, picture_hash

COLUMNS = (SOURCE, "attribute", "after")
SUFFIX = "-edits"
"""Of the name of a set of pairs, after that of the set whose judge reads them."""


def edits(context: EvalContext, made: Tensor) -> EvalResult:
    """``edit_goal``, ``edit_kept``, and the same of the real targets, over pairs that a judge reads."""
    images = context.media
    if "picture" not in context.system.inputs or not set(COLUMNS) <= images.columns.keys():
        return EvalResult()
    name = split_name(images.name)[0] if chooses(images.name) else images.name
    names = ("edit_goal", "edit_kept", "edit_goal_real")
    try:
        judge = AttributeJudge.of(name.removesuffix(SUFFIX))
        if judge is None:
            return EvalResult()
        rows = [images.resolve(row) for row in context.rows]
        wanted = [(str(images.columns["attribute"][row]), str(images.columns["after"][row])) for row in rows]
        before, after, found = (judge.read(each) for each in (source_media(images, rows), context.real, made))
    except JudgeError as error:
        return EvalResult(omitted=dict.fromkeys(names, str(error)))
    goals = {label: reached(read, wanted, judge) for label, read in (("edit_goal", found), ("edit_goal_real", after))}
    kept = unchanged(found, before, after, wanted)
    origin: JSON = {"pictures_sha256": picture_hash(made), "judge": {"data": judge.record.data, "sha256": judge.record.sha256}}
    figures = {
        label: _share(label, hits, "share of pictures whose instructed attribute the judge reads as instructed", origin)
        for label, hits in goals.items()
        if hits
    }
    if kept:
        protocol = "share of (picture, other attribute) that the judge reads as in source and target, where it reads both alike"
        figures["edit_kept"] = _share("edit_kept", kept, protocol, origin)
    return EvalResult(figures, dict.fromkeys((each for each in names if each not in figures), "the judge reads none of these attributes"))


def reached(found: Mapping[str, Sequence[str]], wanted: Sequence[tuple[str, str]], judge: AttributeJudge) -> dict[str, list[bool]]:
    """Of each attribute, whether pictures show the instructed value; pairs that the judge cannot read are left out."""
    hits: dict[str, list[bool]] = {}
    for place, (attribute, value) in enumerate(wanted):
        if attribute in found and value not in judge.record.unread.get(attribute, ()):
            hits.setdefault(attribute, []).append(found[attribute][place] == value)
    return hits


def unchanged(
    found: Mapping[str, Sequence[str]],
    before: Mapping[str, Sequence[str]],
    after: Mapping[str, Sequence[str]],
    wanted: Sequence[tuple[str, str]],
) -> dict[str, list[bool]]:
    """Of each other attribute that source and target show alike, whether pictures show it too."""
    hits: dict[str, list[bool]] = {}
    for attribute, values in found.items():
        for place, (changed, _) in enumerate(wanted):
            if attribute != changed and before[attribute][place] == after[attribute][place]:
                hits.setdefault(attribute, []).append(values[place] == before[attribute][place])
    return hits


def _share(name: str, hits: Mapping[str, Sequence[bool]], protocol: str, origin: JSON) -> Measurement:
    everything = [hit for each in hits.values() for hit in each]
    share = sum(everything) / len(everything)
    by = {attribute: {"value": round(sum(each) / len(each), 4), "n": len(each)} for attribute, each in sorted(hits.items())}
    error = math.sqrt(share * (1 - share) / len(everything))
    return Measurement(name, share, len(everything), {"protocol": protocol, "attributes": by, "standard_error": error, **origin})
