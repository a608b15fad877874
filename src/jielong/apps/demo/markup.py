"""Pieces of the demo's page: pictures, token maps, players of pictures and sound, charts and tables, each as a string of HTML."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from jielong.apps.demo.trace_view import Story
from jielong.media.audio import encode_audio
from jielong.media.images import encode, from_tensor, to_data_uri
from jielong.media.spectrograms import spectrogram


def picture(tensor: Tensor, label: str) -> str:
    """One picture, ``(C, H, W)``."""
    height, width = tensor.shape[-2:]
    return f'<img src="{to_data_uri(tensor)}" width="{width}" height="{height}" alt="{escape(label)}">'


def sound(waveform: Tensor, rate: int, label: str) -> str:
    """A clip ``(C, T)``: its spectrogram, and the browser's own player below."""
    data = base64.b64encode(encode_audio(waveform, rate)).decode()
    return f'{picture(spectrogram(waveform, rate), label)}<audio controls preload="metadata" src="data:audio/wav;base64,{data}"></audio>'


def command(text: str) -> str:
    """A command line, to be copied."""
    return f'<code class="command">{escape(text)}</code>'


def hue(token: int | float) -> float:
    """The colour of a token, in degrees.

    A code has an arbitrary but fixed one (multiples of the golden angle), so equal codes look equal. A number, of which most lie within
    two of zero, runs from blue over green at zero to red, so near numbers look alike.
    """
    return 140 - 48 * max(-2.5, min(2.5, token)) if isinstance(token, float) else token * 137.508 % 360


def token_map(codes: Sequence[int | float], grid: tuple[int, int]) -> str:
    """Tokens on their grid, in their colours (:func:`hue`)."""
    cells = "".join(f'<i style="--h:{hue(code):.1f}">{code}</i>' for code in codes)
    return f'<div class="tokens" style="--rows:{grid[0]};--columns:{grid[1]}">{cells}</div>'


def player(stories: Sequence[Story]) -> str:
    """An animation of how several pictures came to be, step by step, with one of them shown large beside its token map.

    Of tokens drawn at once there is no map, and where there is one picture, none to choose from.
    """
    first = stories[0]
    steps, size = len(first.film), list(first.film.shape[-2:])
    columns = math.ceil(math.sqrt(steps))
    told = [{"codes": story.codes, "born": story.born, "film": film_strip(story.film, columns)} for story in stories]
    mapped = not all(story.at_once for story in stories)
    kind = {"placed": first.placed and mapped, "discrete": first.discrete}
    described = {"grid": first.grid, **kind, "steps": steps, "size": size, "columns": columns, "stories": told}
    data = json.dumps(described, separators=(",", ":"))
    shape = f"--rows:{first.grid[0]};--columns:{first.grid[1]}"
    board = f'<div class="tokens board" style="{shape}"></div>' if mapped else ""
    choices = stories if len(stories) > 1 else ()
    reel = "".join(f'<button type="button"><canvas></canvas>{escape(story.caption)}</button>' for story in choices)
    return (
        '<div class="player">'
        f'<div class="stage{"" if mapped else " alone"}">{board}'
        f'<div class="picture"><canvas></canvas><div class="tokens over" style="{shape}"></div></div></div>'
        '<div class="controls"><button type="button" class="play">Play</button>'
        f'<input type="range" min="0" max="{steps}" value="{steps}" aria-label="step"><output></output></div>'
        f'<div class="reel">{reel}</div>'
        f'<script type="application/json">{data}</script></div>'
    )


def film_strip(film: Tensor, columns: int) -> str:
    """The frames ``(T, C, H, W)`` as one picture, row by row (a lossless WebP in a ``data:`` address)."""
    count, channels, height, width = film.shape
    rows = -(-count // columns)
    padded = torch.cat([film, film.new_ones(rows * columns - count, channels, height, width)])
    strip = padded.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).reshape(channels, rows * height, columns * width)
    data = encode(from_tensor(strip).convert("RGB"), "WEBP", lossless=True, quality=60, method=4)
    return "data:image/webp;base64," + base64.b64encode(data).decode()


def sheet(path: Path, label: str) -> str:
    """A sample sheet, from its file."""
    with Image.open(path) as image:
        width, height = image.size
    address, label = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode(), escape(label)
    return f'<figure><img src="{address}" width="{width}" height="{height}" alt="{label}"><figcaption>{label}</figcaption></figure>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of figures; the first column names them."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    autoencoder = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{autoencoder}</tbody></table></div>'


def chart(
    points: Sequence[tuple[float, float]],
    x_name: str,
    y_name: str,
    *,
    logarithmic: bool = False,
    reference: tuple[float, str] | None = None,
) -> str:
    """A curve as inline SVG.

    Args:
        points: ``(x, y)``; those whose ``y`` is not finite (or not positive, on a logarithmic axis) are left out.
        x_name: What runs along.
        y_name: What runs up.
        logarithmic: Whether the axis of ``y`` is.
        reference: A horizontal line and what it means.
    """
    points = [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not logarithmic)]
    if len(points) < 2:
        return '<p class="absent">The run was too short for a curve.</p>'
    width, height, left, bottom = 560.0, 300.0, 46.0, 34.0
    values = [y for _, y in points] + ([reference[0]] if reference else [])
    scale = math.log10 if logarithmic else float
    low, high = scale(min(values)), scale(max(values))
    margin = 0.06 * (high - low or 1.0)
    low, high, x_last = low - margin, high + margin, points[-1][0]

    def place(x: float, y: float) -> tuple[float, float]:
        up = (scale(y) - low) / (high - low)
        return left + (width - left) * x / x_last, (height - bottom) * (1 - up)

    def across(y: float, kind: str) -> str:
        return f'<line class="{kind}" x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}"/>'

    def text(x: float, y: float, words: str, anchor: str = "end") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'

    drawn = []
    for tick in _ticks(low, high, logarithmic):
        y = place(0, tick)[1]
        drawn += [across(y, "grid"), text(left - 8, y + 4, f"{tick:g}")]
    for tick in _ticks(0, x_last, False, 5):
        x = place(tick, points[0][1])[0]
        drawn.append(text(x, height - bottom + 18, f"{tick:,g}", "end" if x > width - 12 else "middle"))
    if reference:
        y = place(0, reference[0])[1]
        drawn += [across(y, "reference"), text(width, y - 6, reference[1])]
    curve = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
    drawn += [f'<polyline class="curve" points="{curve}"/>', text(width, height - 2, x_name)]
    label = escape(f"{y_name} against {x_name}")
    box = f'viewBox="0 -14 {width:g} {height + 16:g}" role="img" aria-label="{label}"'
    return f'<figure><figcaption>{escape(y_name)}</figcaption><svg class="chart" {box}>{"".join(drawn)}</svg></figure>'


def _ticks(low: float, high: float, logarithmic: bool, about: int = 4) -> list[float]:
    """Round numbers within ``[low, high]`` (exponents, if logarithmic)."""
    if logarithmic:
        return [m * 10.0**e for e in range(math.floor(low), math.ceil(high)) for m in (1, 2, 5) if low <= math.log10(m) + e <= high]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [round(n * step, 12) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
