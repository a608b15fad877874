"""A comparison as JSON, as Markdown with sample grids, and as one HTML page."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from jielong.apps.comparison.running import NEAREST, ORIGINAL, SHEETS, Comparison, Row
from jielong.apps.comparison.table import TITLES, Cell, grid, remarks
from jielong.core.files import write_bytes
from jielong.evaluation.provenance import machine
from jielong.media.reading.pictures import open_image

JSON, MARKDOWN, HTML = "comparison.json", "comparison.md", "comparison.html"

COPIES = "samples most similar to training items, above those"
WIDTH = 1_150
"""Width of sample grids in pixels, as far as whole-number enlargement reaches it."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222; background: #fff }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } .wide { overflow-x: auto }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #ddd } th:first-child, td:first-child { text-align: left }
img { image-rendering: pixelated; display: block } figure { margin: .6rem 0 } figcaption { font-weight: 600 }
.samples > .captions, .samples figure > div { display: grid; grid-template-columns: repeat(var(--columns), 1fr); gap: 4px }
.samples { margin-top: 1.5rem } .samples audio { width: 100% } .captions span { font-size: 12px; line-height: 1.3; overflow-wrap: anywhere }
.samples .video { width: 100%; max-width: 16rem } .samples summary { margin-top: .4rem; font-size: 13px }
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
    trained = f"Recipes trained with {settings['budget']} each. " if any(row.training for row in comparison.rows) else ""
    return (
        f"{trained}Seed {settings['seed']}; evaluated on {count} held-out items of "
        f"{settings['data']} ({comparison.medium}). One run each: small differences may be due to the seed.{state}"
    )


def _labels(rows: Sequence[Row]) -> list[str]:
    """Labels of the sample grids."""
    return [ORIGINAL, *(row.label for row in rows if not row.failed)]


def markdown(comparison: Comparison, command: str) -> str:
    """The comparison as Markdown; sample grids are separate files."""
    parts = ["# Comparison", _head(comparison), f"    {command}"]
    for kind, rows in kinds(comparison):
        head, *lines = grid(kind, rows)
        table = ["| | " + " | ".join(cell.text for cell in head[1:]) + " |", "|---|" + "---:|" * (len(head) - 1)]
        for label, *cells in lines:
            table.append(f"| `{label.text}` | " + " | ".join(f"**{cell.text}**" if cell.best else cell.text for cell in cells) + " |")
        shown = "Items, in their order: " + "; ".join(comparison.shown) if comparison.shown else ""
        strips = [f"`{label}`\n\n![{label}]({SHEETS}/{label}.png)" for label in _labels(rows)]
        parts += [f"## {TITLES[kind]}", "\n".join(table), shown, *strips]
    notes = remarks(comparison.rows)
    if notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in notes)]
    parts.append(f"Figures and how each was made: [{JSON}]({JSON}). {machine()}.")
    return "\n\n".join(filter(None, parts)) + "\n"


def html(comparison: Comparison, command: str) -> str:
    """The comparison as one self-contained page."""
    parts = [f"<h1>Comparison</h1><p>{escape(_head(comparison))}</p><pre>{escape(command)}</pre>"]
    for kind, rows in kinds(comparison):
        head, *lines = grid(kind, rows)
        titles = "".join(f"<th>{escape(cell.text)}</th>" for cell in head)
        body = "".join("<tr>" + "".join(f"<td>{_strong(cell)}</td>" for cell in line) + "</tr>" for line in lines)
        parts.append(f'<h2>{TITLES[kind]}</h2><div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>')
        parts.append(_samples(comparison, _labels(rows)))
    notes = remarks(comparison.rows)
    if notes:
        parts.append("<h2>Notes</h2><ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>")
    origin = json.dumps(comparison.to_json(), indent=1, ensure_ascii=False)
    parts.append(f"<details><summary>How each figure was made</summary><pre>{escape(origin)}</pre></details>")
    title = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Comparison</title>'
    )
    return f"{title}<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"


def _strong(cell: Cell) -> str:
    return f"<strong>{escape(cell.text)}</strong>" if cell.best else escape(cell.text)


def _samples(comparison: Comparison, labels: Sequence[str]) -> str:
    """Samples of the same held-out items, one row for each label, under their captions.

    Pictures are a sample grid, sounds one with players below, and videos players with a sheet of their frames to unfold.
    """
    figures, wide = [], 0
    for label in labels:
        path = comparison.folder / SHEETS / f"{label}.png"
        near = comparison.folder / SHEETS / f"{label}{NEAREST}.png"
        if path.exists():
            picture, width = _image(path, label)
            files = sorted(path.with_suffix("").glob("*"))
            videos = "".join(_player(each) for each in files if each.suffix == ".webp")
            sounds = "".join(_player(each) for each in files if each.suffix == ".wav")
            wide = wide if videos else max(wide, width)
            shown = (
                f"<div>{videos}</div><details><summary>frames in a row</summary><div class='wide'>{picture}</div></details>"
                if videos
                else picture
            )
            figures.append(f"<figure><figcaption>{escape(label)}</figcaption>{shown}{f'<div>{sounds}</div>' if sounds else ''}</figure>")
            if near.exists():
                figures.append(f"<details><summary>{escape(label)}: {COPIES}</summary>{_image(near, label)[0]}</details>")
    captions = "".join(f"<span>{escape(name)}</span>" for name in comparison.shown)
    style = f"width: {f'{wide}px' if wide else '100%'}; --columns: {max(1, len(comparison.shown))}"
    return f'<div class="wide"><div class="samples" style="{style}"><div class="captions">{captions}</div>{"".join(figures)}</div></div>'


def _player(path: Path) -> str:
    """Of a file of sound, or of an animated picture."""
    if path.suffix == ".wav":
        return f'<audio controls src="{_address(path, "audio/wav")}"></audio>'
    return f'<img class="video" src="{_address(path, "image/webp")}" alt="{escape(path.stem)}">'


def _image(path: Path, label: str) -> tuple[str, int]:
    """A sample grid, enlarged, and its width in pixels."""
    with open_image(path) as image:
        scale = max(1, WIDTH // image.width)
        width, height = scale * image.width, scale * image.height
    return f'<img src="{_address(path, "image/png")}" width="{width}" height="{height}" alt="{escape(label)}">', width


def _address(path: Path, kind: str) -> str:
    return f"data:{kind};base64," + base64.b64encode(path.read_bytes()).decode()
