"""Frames with the times at which they are shown, and those that a frame rate takes of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image

EARLY = 0.2
"""Share of a frame's time by which it counts as shown already: stamps are rounded to units of the file, and those of cameras vary."""


@dataclass(frozen=True)
class Shown:
    """A frame and when it is shown.

    Attributes:
        start: Seconds from the first frame on.
        end: Where the next frame begins.
        picture: The frame, 8 bits, upright, without transparency; converted when it is called.
        pixel: Width over height of its pixels.
    """

    start: float
    end: float
    picture: Callable[[], Image.Image]
    pixel: float = 1.0

    def last(self, rate: float) -> int:
        """The number of frames at ``rate`` up to its end, of which one belongs to the next frame if that begins a little later."""
        early = EARLY * min(max(0.0, self.end - self.start), 1 / rate)
        return math.ceil((self.end - early) * rate)


def frames_at(seconds: float, rate: float) -> int:
    """Frames that a file of such a duration gives at a rate; one at least."""
    return max(1, math.ceil(seconds * rate - EARLY))


def sampled(frames: Iterator[Shown], rate: float, first: int = 0, count: int | None = None) -> Iterator[Shown]:
    """The frame that is shown at ``k / rate`` seconds, for ``k = first, first + 1, ...``.

    Frames of a higher rate are left out and those of a lower one repeated; a file of one frame gives one.

    Args:
        frames: In their order, from any that is not shown after ``first / rate`` on.
        rate: Frames a second.
        first: Of the frames at that rate.
        count: How many at most.
    """
    stop = math.inf if count is None else first + count
    number, shown = first, None
    for shown in frames:
        for _ in range(number, int(min(stop, shown.last(rate)))):
            yield shown
            number += 1
        if number >= stop:
            return
    if shown is not None and number == first == 0:
        yield shown
