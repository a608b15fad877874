"""Description of a medium: its kind, its axes with the size along each, its rate along time, and its channels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NotRequired, TypedDict

Axis = Literal["time", "rows", "columns"]
Axes = tuple[Axis, ...]

ALONG_TIME: Axes = ("time",)
"""Axes of audio."""
ALONG_ROWS: Axes = ("rows", "columns")
"""Axes of images."""
ALONG_FRAMES: Axes = ("time", "rows", "columns")
"""Axes of video."""
UNITS: dict[Axis, tuple[str, str]] = {"time": ("frame", "frames"), "rows": ("row", "rows"), "columns": ("column", "columns")}
"""What a size along an axis counts, singular and plural; samples of audio are frames of one value."""


def axes_text(axes: Axes) -> str:
    """Axes for an error message: ``(rows, columns)``."""
    return f"({', '.join(axes)})"


class MediumJSON(TypedDict):
    """A :class:`Medium` in a file."""

    kind: str
    channels: int
    axes: list[Axis]
    size: list[int]
    rate: NotRequired[float]


@dataclass(frozen=True)
class Medium:
    """What one item of a medium looks like; tensors are ``(B, channels, *size)``.

    Attributes:
        kind: Name of its :class:`~jielong.media.kinds.base.MediaKind`, such as ``image`` or ``audio``.
        channels: Values at a point: 3 for RGB, 1 for grey or mono, 2 for stereo.
        axes: Its axes in the order of ``size``: a subset of time, rows, columns in this order.
        size: Extent along each axis, in samples or frames along time, and in pixels.
        rate: Samples or frames per second; ``None`` without a time axis.

    Raises:
        ValueError: if axes, size and rate do not belong together.
    """

    kind: str
    channels: int
    axes: Axes
    size: tuple[int, ...]
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.axes != tuple(axis for axis in UNITS if axis in self.axes) or not self.axes:
            raise ValueError(f"axes are a subset of (time, rows, columns) in this order, not {axes_text(self.axes)}")
        if len(self.size) != len(self.axes):
            raise ValueError(
                f"{self.kind} has the axes {axes_text(self.axes)}, so its size is {len(self.axes)} numbers, not {list(self.size)}"
            )
        if self.channels < 1 or min(self.size) < 1:
            raise ValueError(f"channels and sizes of {self.kind} are 1 or more, not {self.channels} and {list(self.size)}")
        if (self.rate is None) == ("time" in self.axes) or (self.rate is not None and not self.rate > 0):
            wanted = "needs a rate above 0 per second" if "time" in self.axes else "has no time axis and so no rate"
            raise ValueError(f"{self.kind} {wanted}, not {self.rate}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one item, ``(channels, *size)``."""
        return (self.channels, *self.size)

    @property
    def timed(self) -> bool:
        """Whether it has a time axis."""
        return "time" in self.axes

    @property
    def sample_rate(self) -> int:
        """Samples per second.

        Raises:
            ValueError: if it has no time axis, or its rate is no whole number.
        """
        if self.rate is None or self.rate != int(self.rate):
            raise ValueError(f"{self} has no sample rate")
        return int(self.rate)

    @property
    def frames(self) -> int:
        """Samples or frames along time.

        Raises:
            ValueError: if it has no time axis.
        """
        return self.along("time")

    @property
    def duration(self) -> float:
        """Seconds.

        Raises:
            ValueError: if it has no time axis.
        """
        return self.along("time") / (self.rate or 1)

    def along(self, axis: Axis) -> int:
        """Size along an axis.

        Raises:
            ValueError: if it has no such axis.
        """
        if axis not in self.axes:
            raise ValueError(f"{self.kind} has the axes {axes_text(self.axes)}, not {axis}")
        return self.size[self.axes.index(axis)]

    def resized(self, axis: Axis, size: int) -> Medium:
        """The same medium with another size along an axis it has."""
        return replace(self, size=tuple(size if name == axis else own for name, own in zip(self.axes, self.size, strict=True)))

    def differs_in(self, other: Medium) -> set[str]:
        """Names of what differs: ``kind``, ``channels``, ``axes``, ``rate``, or an axis whose size does."""
        fields = {name for name in ("kind", "channels", "axes", "rate") if getattr(self, name) != getattr(other, name)}
        sizes = zip(self.axes, self.size, other.size, strict=True) if self.axes == other.axes else ()
        return fields | {axis for axis, own, theirs in sizes if own != theirs}

    def to_json(self) -> MediumJSON:
        """Plain lists and numbers, for files."""
        described: MediumJSON = {"kind": self.kind, "channels": self.channels, "axes": list(self.axes), "size": list(self.size)}
        if self.rate is not None:
            described["rate"] = self.rate
        return described

    @staticmethod
    def from_json(described: MediumJSON) -> Medium:
        """The inverse of :meth:`to_json`."""
        size = tuple(int(side) for side in described["size"])
        return Medium(described["kind"], described["channels"], tuple(described["axes"]), size, described.get("rate"))

    def __str__(self) -> str:
        size = " x ".join(map(str, self.shape))
        return f"{self.kind} of {size}" + ("" if self.rate is None else f" at {self.rate:g} Hz")
