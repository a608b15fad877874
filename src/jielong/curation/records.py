"""What was measured of a file and of its clips, as it is kept between runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from jielong.core.json import JSON
from jielong.curation.ranges import Fault, Values
from jielong.curation.shots import Span
from jielong.curation.stages.duplicates import Hashes


@dataclass(frozen=True)
class ClipRecord:
    """A clip of a file.

    Attributes:
        span: Its frames.
        values: What was measured; a value that no set needed is missing.
        hashes: Of its frames; ``None`` if no set needed them.
    """

    span: Span
    values: Values
    hashes: Hashes | None = None


@dataclass(frozen=True)
class FileRecord:
    """A file.

    Attributes:
        fault: Why it cannot be read; ``None`` if it can.
        kind: Container and coding.
        width: Columns of the upright picture.
        height: Rows of the upright picture.
        rate: Frames a second, on average.
        varies: Whether its frames are shown for different times, so that the frame rate varies.
        sound: Whether it has sound.
        values: Of its metadata.
        clips: Its clips, in order; ``None`` where no set keeps its metadata, so that it was not cut.
    """

    fault: Fault | None = None
    kind: str = ""
    width: int = 0
    height: int = 0
    rate: float = 0.0
    varies: bool = False
    sound: bool = False
    values: Values | None = None
    clips: tuple[ClipRecord, ...] | None = None

    def to_json(self) -> JSON:
        """For a file of JSON; hashes in hexadecimal digits."""
        return asdict(self) | {
            "clips": None
            if self.clips is None
            else [
                {
                    "span": asdict(clip.span),
                    "values": clip.values,
                    "hashes": None if clip.hashes is None else [None if each is None else f"{each:016x}" for each in clip.hashes],
                }
                for clip in self.clips
            ]
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FileRecord:
        """What :meth:`to_json` wrote."""
        clips = data["clips"]
        fault = data["fault"]
        return cls(
            **data
            | {
                "fault": None if fault is None else Fault(**fault),
                "clips": None if clips is None else tuple(_clip(each) for each in clips),
            }
        )

    def joined(self, before: FileRecord) -> FileRecord:
        """With the values that an earlier record has of the same clips."""
        if self.clips is None or before.clips is None:
            return self if self.clips is not None else replace(self, clips=before.clips)
        return replace(self, clips=tuple(_joined(clip, old) for clip, old in zip(self.clips, before.clips, strict=True)))


def _joined(clip: ClipRecord, before: ClipRecord) -> ClipRecord:
    return replace(clip, values=before.values | clip.values, hashes=before.hashes if clip.hashes is None else clip.hashes)


def _clip(data: dict[str, Any]) -> ClipRecord:
    hashes = data["hashes"]
    read = None if hashes is None else tuple(None if each is None else int(each, 16) for each in hashes)
    return ClipRecord(Span(**data["span"]), data["values"], read)
