"""The report as one HTML page without further files: funnels, histograms, and frames of what each stage dropped."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape
from typing import Any

from jielong.config.yaml_text import write_yaml
from jielong.core.json import JSON, to_text
from jielong.curation.funnel import Entry, Funnel, Row
from jielong.curation.naming import label, why
from jielong.curation.run import Curated

EXAMPLES = 12
"""Clips that are shown of what a stage drops, and of what is kept."""
_WIDTH, _HEIGHT = 280, 60
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222; background: #fff }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } .wide { overflow-x: auto }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #ddd; vertical-align: top }
th:first-child, td:first-child, td:last-child, th:last-child { text-align: left }
.bar { background: #e5e5e5; width: 12rem; height: .8rem; display: inline-block }
.bar span { background: #3b76c4; height: 100%; display: block }
.examples { display: flex; flex-wrap: wrap; gap: .8rem; align-items: flex-start } figure { margin: 0; max-width: 100% }
figcaption { font-size: 12px; line-height: 1.3; overflow-wrap: anywhere; max-width: 24rem } img { display: block; max-width: 100% }
figcaption b { font-weight: 600 } .measures { display: flex; flex-wrap: wrap; gap: 1.5rem } .measures p { margin: 0; font-size: 13px }
svg rect { fill: #3b76c4 } svg line { stroke: #c0392b; stroke-width: 1.5 } pre { white-space: pre-wrap; font-size: 12px }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } th, td { border-color: #444 } .bar { background: #333 } }
"""


def html(result: Curated, data: JSON) -> str:
    """The page.

    Args:
        result: Of the run.
        data: The report as JSON.
    """
    sets: Any = data["sets"]
    title = f"Curation of {data['clips']}"
    parts = [f"<h1>{escape(title)}</h1>", f"<p>{escape(_summary(result))}</p>"]
    for each in result.funnels:
        parts.append(f"<h2>{escape(each.name)}: {len(each.kept):,} clips, {sets[each.name]['seconds']:,.1f} s</h2>")
        parts.append(_funnel(each))
        parts += [_stage(result, row, about) for row, about in zip(each.rows, sets[each.name]["stages"], strict=True)]
        parts.append(f"<h3>kept</h3>{_examples(result, each.kept)}" if each.kept else "")
    parts.append(f"<details><summary>Rules</summary><pre>{escape(write_yaml(data['rules']))}</pre></details>")
    parts.append(f"<details><summary>Libraries</summary><pre>{escape(to_text(data['libraries'], indent=1))}</pre></details>")
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    return f"{head}<title>{escape(title)}</title><style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"


def _summary(result: Curated) -> str:
    varying = sum(record.varies for record in result.records)
    notes = [f"{len(result.items):,} files"]
    notes += [f"{varying:,} of them with a varying frame rate, whose frames keep their times"] if varying else []
    notes += [f"{len(result.unused):,} others in the folder are not used: {result.unused.counts()}"] if result.unused else []
    notes += [f"{count:,} clips are written without {what}" for what, count in result.incomplete.items()]
    return "; ".join(notes) + "."


def _funnel(each: Funnel) -> str:
    most = max([1, *(max(row.before, row.kept) for row in each.rows)])
    rows = []
    for row in each.rows:
        bar = f'<span class="bar"><span style="width: {100 * row.kept / most:.1f}%"></span></span>'
        reasons = "; ".join([f"{count:,} {reason}" for reason, count in row.reasons.items()] + [row.note] * bool(row.note))
        cells = (row.stage, f"{row.before:,} {row.of}", f"{len(row.dropped):,}", f"{row.kept:,}")
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + f"<td>{bar}</td><td>{escape(reasons)}</td></tr>")
    head = "".join(f"<th>{name}</th>" for name in ("stage", "before", "dropped", "kept", "", "why"))
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _stage(result: Curated, row: Row, about: dict[str, Any]) -> str:
    measures = about.get("measures", {})
    if not measures and not row.dropped:
        return ""
    graphs = "".join(_graph(name, each) for name, each in measures.items())
    return f'<h3>{escape(row.stage)}</h3><div class="measures">{graphs}</div>{_examples(result, row.dropped)}'


def _graph(name: str, each: dict[str, Any]) -> str:
    """A histogram with its limits as lines."""
    counts: Sequence[int] = each["counts"]
    width, most = _WIDTH / len(counts), max(counts)
    bars = "".join(
        f'<rect x="{place * width:.1f}" y="{_HEIGHT - height:.1f}" width="{width - 1:.1f}" height="{height:.1f}"/>'
        for place, height in enumerate(_HEIGHT * count / most for count in counts)
        if height
    )
    limits = [value for value in (each["limits"] or {}).values() if value is not None]
    marks = "".join(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_HEIGHT}"/>' for x in (_place(value, each) for value in limits))
    quantiles = each["quantiles"]
    scale = " (logarithmic)" if each["log"] else ""
    unit = f" {each['unit']}" if each["unit"] else ""
    words = f"{name}{scale}: median {quantiles['0.5']:.4g}{unit}, 5 % to 95 %: {quantiles['0.05']:.4g} to {quantiles['0.95']:.4g}"
    low, high = each["edges"][0], each["edges"][-1]
    svg = f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{escape(words)}">{bars}{marks}</svg>'
    return f"<div><p>{escape(words)}</p>{svg}<p>{low:.4g} to {high:.4g}, {each['count']:,} values; {escape(each['about'])}</p></div>"


def _place(value: float, each: dict[str, Any]) -> float:
    """Where a value lies on the axis, in pixels; at an end if it is beyond."""
    low, high = each["edges"][0], each["edges"][-1]
    if each["log"]:
        share = (math.log(max(value, 1e-12)) - math.log(low)) / (math.log(high) - math.log(low))
    else:
        share = (value - low) / (high - low)
    return min(max(share, 0.0), 1.0) * _WIDTH


def _examples(result: Curated, entries: Sequence[Entry]) -> str:
    """Frames of evenly spaced entries, each with its name and the reason."""
    step = -(-len(entries) // EXAMPLES) if entries else 1
    shown = entries[::step]
    figures = "".join(_figure(result, entry) for entry in shown)
    more = f"<p>{len(shown):,} of {len(entries):,} are shown.</p>" if len(shown) < len(entries) else ""
    return f'<div class="examples">{figures}</div>{more}'


def _figure(result: Curated, entry: Entry) -> str:
    strip = result.store.strip(result.keys[entry.file], entry.clip)
    name = label(result, entry)
    data = "" if strip is None else base64.b64encode(strip).decode()
    picture = f'<img src="data:image/webp;base64,{data}" alt="frames of {escape(name)}">' if strip is not None else ""
    reason = "" if entry.fault is None else f"{escape(entry.fault.reason)}: {escape(why(result, entry))}"
    return f"<figure>{picture}<figcaption><b>{escape(name)}</b><br>{reason}</figcaption></figure>"
