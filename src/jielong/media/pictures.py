"""Generated pictures that save and show themselves."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from jielong.media.images import encode, from_tensor, sheet, to_bytes, to_data_uri, write_image
from jielong.media.results import Results


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture: ``tensor`` is ``(C, H, W)`` float in [-1, 1], ``caption`` its prompt."""

    tensor: Tensor
    caption: str = ""

    @property
    def image(self) -> Image.Image:
        """The picture in 8 bits."""
        return from_tensor(self.tensor)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it, whole or not at all; the suffix says the format (PNG when there is none). Returns the path."""
        return write_image(path, self.tensor)

    def _repr_png_(self) -> bytes:
        return encode(self.image)

    def __repr__(self) -> str:
        channels, height, width = self.tensor.shape
        return f"Picture({channels} x {height} x {width}{f', {self.caption!r}' if self.caption else ''})"


class Pictures(Results[Picture]):
    """Pictures of one run, ``tensor`` ``(B, C, H, W)`` float in [-1, 1]."""

    suffix = ".png"

    def __init__(self, tensor: Tensor, captions: Sequence[str] | None = None) -> None:
        """Wrap a batch.

        Raises:
            ValueError: if it is not a batch of pictures, or has another number of captions.
        """
        if tensor.ndim != 4 or tensor.shape[1] not in (1, 3):
            raise ValueError(f"pictures are (B, 1 or 3, H, W), not {tuple(tensor.shape)}")
        super().__init__(tensor, captions)

    def item(self, index: int) -> Picture:
        """One picture."""
        return Picture(self.tensor[index], self._caption(index))

    def select(self, rows: slice) -> Pictures:
        """Some of them."""
        return Pictures(self.tensor[rows], None if self.captions is None else self.captions[rows])

    def like(self, tensor: Tensor) -> Pictures:
        """Other pictures ``(B, C, H, W)`` with these captions."""
        return Pictures(tensor, self.captions)

    def sheet(self, columns: int = 8, scale: int = 1) -> Image.Image:
        """All of them on one sample grid, with their captions."""
        return sheet(to_bytes(self.tensor), columns, self.captions, scale=scale)

    def summary(self, seconds: float) -> str:
        """How many, and the time each took."""
        several = len(self) > 1
        return f"{len(self)} picture{'s' * several}, generated in {seconds / len(self):.2f} s{' each' * several}"

    def _repr_html_(self) -> str:
        cells = "".join(
            f'<figure style="display:inline-block;margin:4px;max-width:160px"><img src="{to_data_uri(p.tensor)}" width="128" '
            f'style="image-rendering:pixelated"><figcaption>{html.escape(p.caption)}</figcaption></figure>'
            for p in self
        )
        return f"<div>{cells}</div>"

    def __repr__(self) -> str:
        count, channels, height, width = self.tensor.shape
        return f"Pictures({count} of {channels} x {height} x {width})"
