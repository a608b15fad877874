"""Pauses between the steps of a run: sample grids, held-out figures and saves take at most a tenth of its time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from jielong.core.json import JSON

MOST = MappingProxyType({"save": 0.02, "evaluation": 0.03, "sample": 0.04})
"""Largest share of a run's time that each kind of pause takes after its first; the loss curve has another hundredth."""
NEGLIGIBLE = 1.0
"""Seconds of all pauses of a kind up to which they are not spaced."""
NOUNS = MappingProxyType({"save": "saves", "evaluation": "held-out figures", "sample": "sample grids"})
"""Their names in the log."""


@dataclass
class Pause:
    """The pauses of one kind.

    Attributes:
        seconds: Time of those between steps.
        count: How many there were.
        left_out: How many were due and left out.
        after: Time of those after the last step.
    """

    seconds: float = 0.0
    count: int = 0
    left_out: int = 0
    after: float = 0.0

    def fits(self, share: float, elapsed: float) -> bool:
        """Whether another one may be made so that all take at most ``share`` of the ``elapsed`` seconds; the first one always may."""
        if not self.count:
            return True
        expected = self.seconds + self.seconds / self.count
        return expected <= max(NEGLIGIBLE, share * elapsed)


def words(what: str, pause: Pause, samples: int) -> str:
    """That pauses of a kind are left out from now on."""
    each, most = pause.seconds / max(1, pause.count), f"{MOST[what]:.0%} of the time"
    return f"{NOUNS[what]} take {each:.1f} s each: left out at {samples:,} samples, and whenever they would take over {most}"


def left_out_words(pauses: Mapping[str, Pause]) -> str | None:
    """How many pauses of each kind were left out; ``None`` if none was."""
    found = [f"{each.left_out} of {each.left_out + each.count} {NOUNS[what]}" for what, each in pauses.items() if each.left_out]
    return f"left out to save time: {', '.join(found)}" if found else None


def summary_of(pauses: Mapping[str, Pause]) -> JSON:
    """Seconds and numbers of all kinds, for the summary."""
    return {
        what: {"seconds": round(each.seconds, 2), "count": each.count, "left_out": each.left_out, "after": round(each.after, 2)}
        for what, each in pauses.items()
    }
