"""Record values by name in a JSON file, or compare them with a recording: the loop of ``losses.py`` and ``outputs.py``."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Values = TypeVar("Values")


@dataclass(frozen=True)
class Recording(Generic[Values]):
    """What is recorded of each name.

    Attributes:
        noun: Plural of what the names name, for the summary.
        compute: Values of a name; raises RuntimeError if they cannot be computed.
        difference: Where new values differ from recorded ones, in words; ``None`` if they are equal.
        summary: New values in a few words.
    """

    noun: str
    compute: Callable[[str], Values]
    difference: Callable[[Values, Values], str | None]
    summary: Callable[[Values], str]

    def run(self, arguments: Namespace, names: Sequence[str]) -> None:
        """Record into, or compare with, ``arguments.file``; the exit code is 1 if anything differs, is not recorded or fails."""
        comparing = arguments.action == "compare"
        recorded: dict[str, Values] = json.loads(arguments.file.read_text()) if comparing else {}
        found: dict[str, Values] = {}
        different = 0
        for name in names:
            try:
                found[name] = self.compute(name)
            except RuntimeError as error:
                print(f"{name}: FAILED: {error}", flush=True)
                different += 1
                continue
            verdict = self._compared(found[name], recorded.get(name)) if comparing else None
            different += verdict is not None
            print(f"{name}: {verdict or ('equal' if comparing else self.summary(found[name]))}", flush=True)
        if not comparing:
            arguments.file.write_text(json.dumps(found, indent=1))
        print(f"{len(found)} {self.noun}, {different} different or failed")
        sys.exit(1 if different else 0)

    def _compared(self, new: Values, old: Values | None) -> str | None:
        return "not recorded" if old is None else self.difference(new, old)
