"""What the settings of every loss say of themselves."""

from __future__ import annotations

from typing import ClassVar

from jielong.config.registry import Medium, Part


class LossSettings(Part):
    """Settings of a loss.

    Attributes:
        medium: What it can judge; ``None`` for any medium.
        reconstructs: Whether it alone tells a tokenizer what to give back.
    """

    medium: ClassVar[Medium | None] = None
    reconstructs: ClassVar[bool] = False
