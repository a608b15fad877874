"""What the settings of every loss say of themselves."""

from __future__ import annotations

from typing import ClassVar

from jielong.config.registry import Part
from jielong.core.medium import Axes


class LossSettings(Part):
    """Settings of a loss.

    Attributes:
        axes: Axes of the media it compares; ``None`` for any.
        reconstructs: Whether it alone tells a tokenizer what to give back.
    """

    axes: ClassVar[Axes | None] = None
    reconstructs: ClassVar[bool] = False
