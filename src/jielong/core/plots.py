"""Plots as PNG files, in one style; equal plots are equal files."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

STYLE: dict[RcKeyType, object] = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "figure.dpi": 160,
}


def plot_png(draw: Callable[[Figure], None], size: tuple[float, float]) -> bytes:
    """The bytes of a plot.

    Args:
        draw: Draws on an empty figure.
        size: Width and height in inches.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        buffer = io.BytesIO()
        # Without the software version, equal plots are equal files.
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
