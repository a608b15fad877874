"""A comparison as JSON, as Markdown with sample grids, and as one HTML page."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from jielong.apps.comparison.running import ORIGINAL, SHEETS, Comparison, Row
from jielong.apps.comparison.table import TITLES, best, columns, remarks
from jielong.core.files import write_bytes
from jielong.evaluation.provenance import machine
from jielong.media.reading.pictures import open_image

JSON, MARKDOWN, HTML = "comparison.json", "comparison.md", "comparison.html"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222; background: #fff }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } .wide { overflow-x: auto }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #ddd } th:first-child, td:first-child { text-align: left }
img { image-rendering: pixelated; max-width: 100%; display: block } figure { margin: .6rem 0 } figcaption { font-weight: 600 }
pre { white-space: pre-wrap; font-size: 12px }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } th, td { border-color: #444 } }
"""


def write(comparison: Comparison, command: str) -> list[Path]:
    """Write all three files into the comparison's folder and return their paths.

    Args:
        comparison: The comparison.
        command: Command that reproduces it.
    """
    folder = comparison.folder
    page = json.dumps({"command": command, **comparison.to_json()}, indent=2, ensure_ascii=False, allow_nan=False)
    return [
        write_bytes(folder / JSON, page.encode()),
        write_bytes(folder / MARKDOWN, markdown(comparison, command).encode()),
        write_bytes(folder / HTML, html(comparison, command).encode()),
    ]


def kinds(comparison: Comparison) -> list[tuple[str, list[Row]]]:
    """Rows of tokenizers, then of generators, without empty groups."""
    groups = [(kind, [row for row in comparison.rows if row.kind == kind]) for kind in TITLES]
    return [(kind, rows) for kind, rows in groups if rows]


def _head(comparison: Comparison) -> str:
    settings = comparison.settings
    count = settings["count"] or "all"
    state = "" if comparison.complete else " Not complete: the same command resumes it."
    return (
        f"Recipes trained with {settings['budget']} each, seed {settings['seed']}; evaluated on {count} held-out items of "
        f"{settings['data']} at {settings['size']} pixels. One run each: small differences may be due to the seed.{state}"
    )


def markdown(comparison: Comparison, command: str) -> str:
    """The comparison as Markdown; sample grids are separate files."""
    parts = ["# Comparison", _head(comparison), f"    {command}"]
    for kind, rows in kinds(comparison):
        shown = columns(kind, rows)
        lines = ["| | " + " | ".join(column.title for column in shown) + " |", "|---|" + "---:|" * len(shown)]
        tops = [best(column, rows) for column in shown]
        for row in rows:
            cells = [f"**{c.cell(row)}**" if row.label in top else c.cell(row) for c, top in zip(shown, tops, strict=True)]
            lines.append(f"| `{row.label}` | " + " | ".join(cells) + " |")
        strips = [f"`{label}`\n\n![{label}]({SHEETS}/{label}.png)" for label in (ORIGINAL, *(row.label for row in rows if not row.failed))]
        parts += [f"## {TITLES[kind]}", "\n".join(lines), *strips]
    notes = remarks(comparison.rows)
    if notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in notes)]
    parts.append(f"Figures and how each was made: [{JSON}]({JSON}). {machine()}.")
    return "\n\n".join(parts) + "\n"


def html(comparison: Comparison, command: str) -> str:
    """The comparison as one self-contained page."""
    parts = [f"<h1>Comparison</h1><p>{escape(_head(comparison))}</p><pre>{escape(command)}</pre>"]
    for kind, rows in kinds(comparison):
        shown = columns(kind, rows)
        tops = [best(column, rows) for column in shown]
        head = "".join(f"<th>{escape(column.title)}</th>" for column in shown)
        body = "".join(
            f"<tr><td>{escape(row.label)}</td>"
            + "".join(f"<td>{_strong(escape(c.cell(row)), row.label in top)}</td>" for c, top in zip(shown, tops, strict=True))
            + "</tr>"
            for row in rows
        )
        parts.append(
            f'<h2>{TITLES[kind]}</h2><div class="wide"><table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        )
        parts.append(_strips(comparison.folder, [ORIGINAL, *(row.label for row in rows if not row.failed)]))
    notes = remarks(comparison.rows)
    if notes:
        parts.append("<h2>Notes</h2><ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>")
    origin = json.dumps(comparison.to_json(), indent=1, ensure_ascii=False)
    parts.append(f"<details><summary>How each figure was made</summary><pre>{escape(origin)}</pre></details>")
    title = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Comparison</title>'
    )
    return f"{title}<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"


def _strong(text: str, is_best: bool) -> str:
    return f"<strong>{text}</strong>" if is_best else text


def _strips(folder: Path, labels: Sequence[str]) -> str:
    """Sample grids of the same held-out items, one below the other."""
    figures = []
    for label in labels:
        path = folder / SHEETS / f"{label}.png"
        if path.exists():
            with open_image(path) as image:
                width, height = image.size
            address = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
            picture = f'<img src="{address}" width="{2 * width}" height="{2 * height}" alt="{escape(label)}">'
            figures.append(f"<figure><figcaption>{escape(label)}</figcaption>{picture}</figure>")
    return "".join(figures)
