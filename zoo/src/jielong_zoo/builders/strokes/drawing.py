"""Drawing a character stroke by stroke: outlines are filled along their medians."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

EM, TOP = 1024, 900
"""Side of the square of a character, and the height of its upper edge; the y axis points upwards."""
SUPERSAMPLING = 4
LEVELS = 5
"""Steps of grey between paper and ink: nothing to the eye, and a smaller file."""
PAPER = 255
BENDS = 8
"""Straight pieces of a curve."""
_TOKEN = re.compile(r"[MLQCZ]|-?[0-9.]+(?:e-?[0-9]+)?")
_POINTS = {"M": 1, "L": 1, "Q": 2, "C": 3}

Points = npt.NDArray[np.float64]
Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Stroke:
    """One stroke, in units of :data:`EM` with y upwards.

    Attributes:
        outline: Corners ``(n, 2)`` of its filled area.
        median: Points ``(m, 2)`` of the line that a pen follows, from its beginning.
    """

    outline: Points
    median: Points

    @property
    def length(self) -> float:
        """Of the median."""
        return float(np.linalg.norm(np.diff(self.median, axis=0), axis=1).sum())


def read_strokes(path: Path) -> list[Stroke]:
    """The strokes of a character in their order, from a file of ``hanzi-writer-data``.

    Raises:
        ValueError: if it is not such a file.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
        pairs = zip(data["strokes"], data["medians"], strict=True)
        return [Stroke(outline(text), np.array(median, float)) for text, median in pairs]
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path} holds no strokes and medians: {error!r}") from error


def outline(path: str) -> Points:
    """Corners ``(n, 2)`` of an SVG path of absolute commands M, L, Q, C and Z; each curve becomes :data:`BENDS` straight pieces."""
    tokens, corners, at = _TOKEN.findall(path), list[Points](), 0
    while at < len(tokens):
        command, at = tokens[at], at + 1
        if command == "Z":
            continue
        count = 2 * _POINTS[command]
        given = np.array(tokens[at : at + count], float).reshape(-1, 2)
        at += count
        corners += [given[0]] if len(given) == 1 else list(_curve(np.stack([corners[-1], *given])))
    return np.stack(corners)


def _curve(control: Points) -> Points:
    """Points of a Bezier curve (de Casteljau's construction) after its first."""
    t = np.linspace(0, 1, BENDS + 1)[1:, None, None]
    points = np.broadcast_to(control, (BENDS, *control.shape))
    while points.shape[1] > 1:
        points = (1 - t) * points[:, :-1] + t * points[:, 1:]
    return points[:, 0]


def arrivals(stroke: Stroke, side: int) -> Points:
    """When a pen of constant speed along the median reaches each pixel: ``(side, side)``, in [0, 1] within the outline, inf outside.

    A pixel is reached with the nearest point of the median, so that no part of a stroke appears because another part passes close by.
    """
    scale = side / EM
    polygon = np.stack([stroke.outline[:, 0], TOP - stroke.outline[:, 1]], axis=1) * scale
    mask = Image.new("1", (side, side))
    ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in polygon], fill=1)
    rows, columns = np.nonzero(np.asarray(mask))
    pixels = np.stack([(columns + 0.5) / scale, TOP - (rows + 0.5) / scale], axis=1)
    starts, steps = stroke.median[:-1], np.diff(stroke.median, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    along = ((pixels[:, None] - starts) * steps).sum(-1) / np.maximum(lengths**2, 1e-9)  # (pixels, pieces)
    along = along.clip(0, 1)
    distances = np.linalg.norm(pixels[:, None] - (starts + along[..., None] * steps), axis=-1)
    nearest = distances.argmin(1)
    before = np.concatenate([[0.0], np.cumsum(lengths)[:-1]])
    chosen = np.arange(len(pixels)), nearest
    found = np.full((side, side), np.inf)
    found[rows, columns] = (before[nearest] + along[chosen] * lengths[nearest]) / max(lengths.sum(), 1e-9)
    return found


def allotted(lengths: list[float], frames: int) -> list[int]:
    """Frames of each stroke, proportional to its length and one at least, ``frames`` in all.

    One frame after the other goes to the stroke with the greatest length a frame.

    Raises:
        ValueError: if there are fewer frames than strokes.
    """
    if frames < len(lengths):
        raise ValueError(f"{len(lengths)} strokes need as many frames, not {frames}")
    counts = [1] * len(lengths)
    for _ in range(frames - len(lengths)):
        counts[max(range(len(lengths)), key=lambda i: lengths[i] / counts[i])] += 1
    return counts


def written(reached: list[Points], counts: list[int], frames: int) -> Grey:
    """The clip ``(frames, size, size)``: blank paper first, then each stroke in its number of frames, then the finished character.

    Args:
        reached: :func:`arrivals` of the strokes in their order, of :data:`SUPERSAMPLING` times the clip's side.
        counts: Frames of each.
        frames: Of the clip; one more than the sum of the counts at least.
    """
    size = len(reached[0]) // SUPERSAMPLING
    ink = np.zeros(reached[0].shape, bool)
    clip = [ink]
    for times, count in zip(reached, counts, strict=True):
        clip += [ink | (times <= step / count) for step in range(1, count + 1)]
        ink = clip[-1]
    clip += [ink] * (frames - len(clip))
    covered = np.stack(clip).reshape(frames, size, SUPERSAMPLING, size, SUPERSAMPLING).mean((2, 4))
    return (PAPER - np.round(covered * LEVELS) * (PAPER // LEVELS)).astype(np.uint8)
