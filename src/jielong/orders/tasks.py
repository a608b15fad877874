"""Tasks: which region of an item is given while the rest is drawn (MAGVIT, arXiv 2212.05199, section 3.3; Open-Sora, arXiv 2503.09642).

In training each item gets one task at random; its known region is never predicted. To sample a task, keep its known region
(:func:`known_region`) of given tokens.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from jielong.config.registry import Config
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout

Task = Literal[
    "none",
    "frame_prediction",
    "interpolation",
    "last_frame",
    "central_inpainting",
    "central_outpainting",
    "vertical_outpainting",
    "horizontal_outpainting",
    "upper",
    "lower",
    "left",
    "right",
]
TASKS: tuple[Task, ...] = get_args(Task)
ALONG_TIME = ("frame_prediction", "interpolation", "last_frame")
"""Tasks of tokens along time; all others but ``none`` are of rows and columns."""
Weight = Annotated[float, Field(ge=0)]


class Tasks(Config):
    """How often each task is trained: relative weights, 0 by default.

    Attributes:
        none: Nothing is known.
        frame_prediction: The first frames are known, as many as ``frames`` says (image to video, continuation).
        interpolation: The first and the last frame.
        last_frame: The last frame.
        central_inpainting: All but a rectangle in the middle, of half the rows and half the columns of every frame.
        central_outpainting: That rectangle.
        vertical_outpainting: A strip in the middle, of all rows and half the columns.
        horizontal_outpainting: A strip in the middle, of half the rows and all columns.
        upper: The upper half of the rows, with the middle one.
        lower: The lower half.
        left: The left half of the columns, with the middle one.
        right: The right half.
        frames: Least and most frames of ``frame_prediction``, evenly drawn; one number for both.
    """

    none: Weight = 0.0
    frame_prediction: Weight = 0.0
    interpolation: Weight = 0.0
    last_frame: Weight = 0.0
    central_inpainting: Weight = 0.0
    central_outpainting: Weight = 0.0
    vertical_outpainting: Weight = 0.0
    horizontal_outpainting: Weight = 0.0
    upper: Weight = 0.0
    lower: Weight = 0.0
    left: Weight = 0.0
    right: Weight = 0.0
    frames: tuple[int, int] = (1, 1)

    @field_validator("frames", mode="before")
    @classmethod
    def _both(cls, value: object) -> object:
        return (value, value) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _sensible(self) -> Tasks:
        if not any(getattr(self, task) for task in TASKS):
            raise ValueError(f"all weights are 0: give at least one task one, such as frame_prediction: 1; tasks are {', '.join(TASKS)}")
        if not 1 <= self.frames[0] <= self.frames[1]:
            raise ValueError(f"frames are the least and the most that are known, from 1 on, not {self.frames[0]} and {self.frames[1]}")
        return self

    def check(self, layout: Layout) -> None:
        """Raise ``ValueError`` if a task of weight above 0 has no meaning for tokens of this layout."""
        for task in self._weighted():
            known_region(layout, task, self.frames[1])

    def draw(self, layout: Layout, rng: PerSampleRNG, present: Tensor | None = None) -> Tensor:
        """The known region of each item's task, ``(B, N)`` bool on the CPU; two random numbers an item, whatever its task.

        ``present`` are the positions that items have, ``(B, N)`` bool; a task that gives all of a shorter one gives none of it.
        """
        tasks, (least, most) = self._weighted(), self.frames
        shares = torch.tensor([getattr(self, task) for task in tasks]).double().cumsum(0)
        place, count = rng.uniform().cpu().double(), rng.uniform().cpu()
        chosen = torch.searchsorted(shares / shares[-1], place, right=True).clamp_max(len(tasks) - 1).tolist()
        counts = (least + (count * (most - least + 1)).long()).clamp_max(most).tolist()
        given = torch.stack([known_region(layout, tasks[task], frames) for task, frames in zip(chosen, counts, strict=True)])
        return given if present is None else given & (present & ~given).any(1, keepdim=True)

    def _weighted(self) -> list[Task]:
        return [task for task in TASKS if getattr(self, task)]


def known_region(layout: Layout, task: Task, frames: int = 1) -> Tensor:
    """Positions that a task gives, ``(N,)`` bool; the others are to be drawn.

    Args:
        layout: Tokens on one grid.
        task: Its name; see :class:`Tasks`.
        frames: First frames of ``frame_prediction``.

    Raises:
        ValueError: for an unknown task, and if the tokens lack its axes, or it would leave nothing to draw or give nothing.
    """
    if task not in TASKS:
        raise ValueError(f"there is no task {task!r}: choose among {', '.join(TASKS)}")
    if task == "none":
        return torch.zeros(layout.positions, dtype=torch.bool)
    needed = ("time",) if task in ALONG_TIME else ("rows", "columns")
    if layout.scales or not set(needed) <= set(layout.axes):
        raise ValueError(f"the task {task} is of tokens on a grid with {' and '.join(needed)}, and these have {layout.describe()}")
    coords = dict(zip(layout.axes, layout.coordinates().unbind(1), strict=True))
    sizes = dict(zip(layout.axes, layout.grid, strict=True))
    if task in ALONG_TIME:
        known = _of_frames(task, coords["time"], sizes["time"], frames)
    else:
        known = _of_places(task, coords["rows"], coords["columns"], sizes["rows"], sizes["columns"])
    if bool(known.all()) or not bool(known.any()):
        what = f"{frames} known frames" if task == "frame_prediction" else "it"
        where = "leaves nothing to draw" if bool(known.all()) else "gives nothing"
        raise ValueError(f"the task {task}: on {layout.describe()} {what} {where}")
    return known


def _of_frames(task: Task, time: Tensor, size: int, frames: int) -> Tensor:
    if task == "frame_prediction":
        return time < frames
    last = time == size - 1
    return last if task == "last_frame" else last | (time == 0)


def _of_places(task: Task, row: Tensor, column: Tensor, rows: int, columns: int) -> Tensor:
    if task in ("upper", "lower"):
        return (2 * row < rows) == (task == "upper")
    if task in ("left", "right"):
        return (2 * column < columns) == (task == "left")
    if task == "vertical_outpainting":
        return _central(column, columns)
    if task == "horizontal_outpainting":
        return _central(row, rows)
    return (_central(row, rows) & _central(column, columns)) == (task == "central_outpainting")


def _central(place: Tensor, size: int) -> Tensor:
    """The middle half of an axis, rounded down but at least one place; of an odd rest the smaller part is before it."""
    count = max(1, size // 2)
    first = (size - count) // 2
    return (place >= first) & (place < first + count)
