"""The loss curve of a run: ``loss.png``, training and held-out figures by samples seen."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jielong.core.files import write_bytes
from jielong.core.json import JSON
from jielong.core.plots import plot_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVE = "loss.png"
_LOGARITHMIC = 8.0
"""Ratio of the highest to the lowest loss from which the axis is logarithmic."""


@dataclass(frozen=True)
class Curve:
    """A figure at numbers of samples."""

    name: str
    samples: list[int]
    values: list[float]


def curves_of(lines: Iterable[JSON]) -> list[Curve]:
    """The training loss and every held-out figure in lines of the log; values that are not finite are left out."""
    found: dict[str, Curve] = {}
    for line in lines:
        for name, value in line.items():
            samples = line.get("samples")
            wanted = name == "loss" or name.startswith("heldout_")
            if wanted and isinstance(value, int | float) and math.isfinite(value) and isinstance(samples, int):
                curve = found.setdefault(name, Curve(name, [], []))
                curve.samples.append(samples)
                curve.values.append(float(value))
    return sorted(found.values(), key=lambda each: each.name != "loss")


def draw_curve(log: Path, last: Mapping[str, float] | None = None, mark: int | None = None) -> Path:
    """Draw the log of a run beside it.

    Args:
        log: ``metrics.jsonl``.
        last: A line after those of the log: the samples and the held-out figures of the last weights.
        mark: Samples that the weights of the checkpoint had seen.

    Raises:
        StorageError: if it cannot be written.
    """
    lines = _lines(log)
    after: JSON = {}
    after.update(last or {})
    curves = curves_of([*lines, after])
    losses, others = [each for each in curves if each.name.endswith("loss")], [each for each in curves if not each.name.endswith("loss")]
    panels = [losses, *([each] for each in others)]

    def draw(figure: Figure) -> None:
        for axes, panel in zip(figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0], panels, strict=True):
            _panel(axes, panel, mark)
        axes.set_xlabel("samples seen")

    return write_bytes(log.parent / CURVE, plot_png(draw, (6.4, 1.4 + 2.2 * len(panels))))


def _lines(log: Path) -> list[JSON]:
    """The lines of a log, without damaged ones."""
    found: list[JSON] = []
    for line in log.read_bytes().splitlines() if log.exists() else []:
        with contextlib.suppress(ValueError, TypeError):
            found.append(dict(json.loads(line)))
    return found


def _panel(axes: Axes, curves: Sequence[Curve], mark: int | None) -> None:
    """Draw curves of one unit, and where the kept weights are from."""
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(alpha=0.25, linewidth=0.5)
    for curve in curves:
        if curve.name == "loss":
            axes.plot(curve.samples, curve.values, label="training loss", linewidth=1.0, color="tab:blue")
        else:
            label = curve.name.replace("heldout_", "held-out ").replace("_", " ")
            axes.plot(curve.samples, curve.values, label=label, linewidth=1.4, color="tab:orange", marker="o", markersize=3)
    if mark is not None:
        axes.axvline(mark, color="0.4", linewidth=0.8, linestyle="--", label=f"weights kept: {mark:,} samples")
    values = [value for curve in curves for value in curve.values]
    if values and min(values) > 0 and max(values) / min(values) > _LOGARITHMIC:
        axes.set_yscale("log")
    if curves:
        axes.legend()
