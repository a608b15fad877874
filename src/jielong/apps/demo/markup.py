"""HTML elements of the demo's page: images, token maps, players, charts and tables."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

import torch
from torch import Tensor

from jielong.apps.demo.trace_view import Trace
from jielong.media.audio import encode_audio
from jielong.media.images import encode, from_tensor, to_data_uri
from jielong.media.reading.pictures import open_image
from jielong.media.spectrograms import spectrogram


def picture(tensor: Tensor, label: str) -> str:
    """An image ``(C, H, W)``."""
    height, width = tensor.shape[-2:]
    return f'<img src="{to_data_uri(tensor)}" width="{width}" height="{height}" alt="{escape(label)}">'


def sound(waveform: Tensor, rate: int, label: str) -> str:
    """A clip ``(C, T)``: its spectrogram and an audio player."""
    data = base64.b64encode(encode_audio(waveform, rate)).decode()
    return f'{picture(spectrogram(waveform, rate), label)}<audio controls preload="metadata" src="data:audio/wav;base64,{data}"></audio>'


def command(text: str) -> str:
    """A command line."""
    return f'<code class="command">{escape(text)}</code>'


def hue(token: int | float) -> float:
    """Hue of a token in degrees: multiples of the golden angle for codes; from blue over green at 0 to red for continuous values."""
    return 140 - 48 * max(-2.5, min(2.5, token)) if isinstance(token, float) else token * 137.508 % 360


def token_map(codes: Sequence[int | float], grid: tuple[int, int]) -> str:
    """Tokens on their grid, coloured by :func:`hue`."""
    cells = "".join(f'<i style="--h:{hue(code):.1f}">{code}</i>' for code in codes)
    return f'<div class="tokens" style="--rows:{grid[0]};--columns:{grid[1]}">{cells}</div>'


def player(traces: Sequence[Trace]) -> str:
    """An animation of several traces, one of them enlarged beside its token map; without a map if tokens are denoised in parallel."""
    first = traces[0]
    steps, size = len(first.frames), list(first.frames.shape[-2:])
    columns = math.ceil(math.sqrt(steps))
    items = [{"codes": trace.codes, "steps": trace.steps, "frames": frame_strip(trace.frames, columns)} for trace in traces]
    mapped = not all(trace.parallel for trace in traces)
    kind = {"spatial": first.spatial and mapped, "discrete": first.discrete}
    described = {"grid": first.grid, **kind, "step_count": steps, "size": size, "columns": columns, "items": items}
    data = json.dumps(described, separators=(",", ":"))
    shape = f"--rows:{first.grid[0]};--columns:{first.grid[1]}"
    token_map = f'<div class="tokens map" style="{shape}"></div>' if mapped else ""
    wide = " wide" if size[1] > 2 * size[0] else ""  # a spectrogram
    choices = traces if len(traces) > 1 else ()
    reel = "".join(f'<button type="button"><canvas></canvas>{escape(trace.caption)}</button>' for trace in choices)
    return (
        '<div class="player">'
        f'<div class="stage{"" if mapped else f" alone{wide}"}">{token_map}'
        f'<div class="picture"><canvas></canvas><div class="tokens over" style="{shape}"></div></div></div>'
        '<div class="controls"><button type="button" class="play">Play</button>'
        f'<input type="range" min="0" max="{steps}" value="{steps}" aria-label="step"><output></output></div>'
        f'<div class="reel">{reel}</div>'
        f'<script type="application/json">{data}</script></div>'
    )


def frame_strip(frames: Tensor, columns: int) -> str:
    """The frames ``(T, C, H, W)`` tiled into one lossless WebP as a ``data:`` URI."""
    count, channels, height, width = frames.shape
    rows = -(-count // columns)
    padded = torch.cat([frames, frames.new_ones(rows * columns - count, channels, height, width)])
    strip = padded.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).reshape(channels, rows * height, columns * width)
    data = encode(from_tensor(strip).convert("RGB"), "WEBP", lossless=True, quality=60, method=4)
    return "data:image/webp;base64," + base64.b64encode(data).decode()


def sample_grid(path: Path, label: str) -> str:
    """A sample grid from its file."""
    with open_image(path) as image:
        width, height = image.size
    address, label = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode(), escape(label)
    return f'<figure><img src="{address}" width="{width}" height="{height}" alt="{label}"><figcaption>{label}</figcaption></figure>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column has the row names."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def matrix(rows: Sequence[tuple[str, str, Sequence[Tensor | None]]], captions: Sequence[str], labels: Sequence[str]) -> str:
    """Pictures in a table: a row for each model, a column for each caption.

    Args:
        rows: Title, description and pictures ``(C, H, W)`` of each row; ``None`` for an empty cell.
        captions: HTML below each column.
        labels: Text of each column, for readers of the page without pictures.
    """
    body = "".join(
        f"<tr><th>{escape(title)}<small>{escape(description)}</small></th>"
        + "".join(
            f"<td>{'' if tensor is None else picture(tensor, f'{label}, {title}')}</td>"
            for label, tensor in zip(labels, pictures, strict=True)
        )
        + "</tr>"
        for title, description, pictures in rows
    )
    foot = "".join(f"<td>{caption}</td>" for caption in captions)
    return f'<div class="wide"><table class="matrix"><tbody>{body}</tbody><tfoot><tr><th></th>{foot}</tr></tfoot></table></div>'


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
        points: ``(x, y)``; points whose ``y`` is not finite (or not positive, on a logarithmic axis) are omitted.
        x_name: Label of the x axis.
        y_name: Label of the y axis.
        logarithmic: Whether the y axis is logarithmic.
        reference: Height and label of a horizontal line.
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

    elements = []
    for tick in _ticks(low, high, logarithmic):
        y = place(0, tick)[1]
        elements += [across(y, "grid"), text(left - 8, y + 4, f"{tick:g}")]
    for tick in _ticks(0, x_last, False, 5):
        x = place(tick, points[0][1])[0]
        elements.append(text(x, height - bottom + 18, f"{tick:,g}", "end" if x > width - 12 else "middle"))
    if reference:
        y = place(0, reference[0])[1]
        elements += [across(y, "reference"), text(width, y - 6, reference[1])]
    curve = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
    elements += [f'<polyline class="curve" points="{curve}"/>', text(width, height - 2, x_name)]
    label = escape(f"{y_name} against {x_name}")
    box = f'viewBox="0 -14 {width:g} {height + 16:g}" role="img" aria-label="{label}"'
    return f'<figure><figcaption>{escape(y_name)}</figcaption><svg class="chart" {box}>{"".join(elements)}</svg></figure>'


def _ticks(low: float, high: float, logarithmic: bool, about: int = 4) -> list[float]:
    """Round tick values within ``[low, high]`` (exponents, if logarithmic)."""
    if logarithmic:
        return [m * 10.0**e for e in range(math.floor(low), math.ceil(high)) for m in (1, 2, 5) if low <= math.log10(m) + e <= high]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [round(n * step, 12) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
