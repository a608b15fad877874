"""Images: pictures of rows and columns."""

from __future__ import annotations

from jielong.core.medium import ALONG_ROWS, Medium


def image_medium(channels: int, size: tuple[int, int]) -> Medium:
    """Images of ``channels`` (1 grey, 3 RGB) and ``(rows, columns)`` pixels."""
    return Medium("image", channels, ALONG_ROWS, size)
