"""What a set of videos holds, before any training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from jielong.core.medium import Medium
from jielong.media.inspection import Inspector, Spread, some
from jielong.media.reading.timeline import frames_at
from jielong.media.reading.video import Header, Part, read_header

LONG = 3.0
"""Ratio of the aspects of a video and of the size beyond which cropping loses most of it."""


class VideoInspector(Inspector):
    """Sizes, durations, rates, and videos that are still, shorter or longer than the medium, slow, tiny or long in one direction.

    Args:
        medium: What videos are read as.
        decode: Decodes one as training does.
    """

    def __init__(self, medium: Medium, decode: Callable[[bytes | Path, str], Tensor]) -> None:
        self.medium, self._decode = medium, decode
        self.widths: list[int] = []
        self.heights: list[int] = []
        self.seconds: list[float] = []
        self.rates: list[float] = []
        self.frames: list[int] = []
        self.formats: Counter[str] = Counter()
        self.sound = self.parts = 0
        self.shorter: list[str] = []
        self.longer: list[str] = []

    def look(self, content: Any, name: str, decode: bool) -> list[str]:
        """Header, and the frames of those that are decoded."""
        part = content if isinstance(content, Part) else None
        header = None if part is not None and part.first else read_header(content if part is None else part.source, name)
        frames = self._decode(content, name) if decode else None
        self.parts += part is not None
        reasons = [] if header is None else self._header(header, name, part is not None)
        if frames is not None and frames.shape[1] > 1 and bool((frames == frames[:, :1]).all()):
            reasons.append("still: every frame that is read is the same")
        return reasons

    def _header(self, header: Header, name: str, divided: bool) -> list[str]:
        """Count what a header says; what in it is odd."""
        self.widths.append(header.width)
        self.heights.append(header.height)
        self.formats[header.kind] += 1
        self.sound += header.sound
        self.seconds += [] if header.seconds is None else [header.seconds]
        self.rates += [] if header.rate is None else [header.rate]
        rate, wanted = self.medium.rate or 1, self.medium.frames
        found = header.frames if header.seconds is None else frames_at(header.seconds, rate)
        if found is not None:
            self.frames.append(found)
            self.shorter += [name] if found < wanted else []
            self.longer += [name] if found > wanted and not divided else []
        across, down = header.width / self.medium.along("columns"), header.height / self.medium.along("rows")
        size = f"{header.width} x {header.height}"
        reasons = {
            f"tiny: {size}, will be enlarged": min(across, down) < 1,
            f"long: {size}, only the centre at the aspect of the size is used": max(across, down) > LONG * min(across, down),
            f"slow: {header.rate or 0:.4g} frames a second, each is repeated to give {rate:g}": header.rate is not None
            and header.rate < 0.75 * rate,
            "one frame": header.frames == 1,
        }
        return [reason for reason, applies in reasons.items() if applies]

    def facts(self) -> dict[str, object]:
        """Sizes, hours, seconds and frames a second as stored; frames at the medium's rate; videos shorter and longer than the medium, with
        sound, parts that long ones are cut into, and videos by format."""
        return {
            "width": Spread.of(self.widths),
            "height": Spread.of(self.heights),
            "hours": sum(self.seconds) / 3600,
            "seconds": Spread.of(self.seconds),
            "frame rates": Spread.of(self.rates),
            "frames": Spread.of(self.frames),
            "shorter": len(self.shorter),
            "longer": len(self.longer),
            "with sound": self.sound,
            "parts": self.parts,
            "formats": dict(self.formats.most_common()),
        }

    def rows(self) -> list[tuple[str, str]]:
        """The facts, with names of the shorter and longer videos and what happens to them."""
        read = f"the {self.medium.frames} frames read at {self.medium.rate:g} a second"
        shorter = f"{some(self.shorter)} than {read}: the last frame is repeated"
        longer = f"{some(self.longer)} than {read}: the rest is not used"
        notes = {"shorter": shorter if self.shorter else "0", "longer": longer if self.longer else "0"}
        return [(name, notes.get(name, text)) for name, text in super().rows()]

    def preview_medium(self) -> Medium:
        """As training reads them."""
        return self.medium
