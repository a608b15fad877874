"""The type of what is written to and read from JSON files."""

from __future__ import annotations

from typing import TypeAlias

JSON: TypeAlias = dict[str, object]
