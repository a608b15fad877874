"""Generated pictures as objects that save and show themselves, in notebooks too."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from PIL import Image
from torch import Tensor

from jielong.media.images import encode, from_tensor, sheet, to_bytes, to_data_uri, write_image


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture: ``tensor`` is ``(C, H, W)`` float in [-1, 1], ``caption`` what it was asked to show."""

    tensor: Tensor
    caption: str = ""

    @property
    def image(self) -> Image.Image:
        """The picture in 8 bits."""
        return from_tensor(self.tensor)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it, whole or not at all; the suffix says the kind (PNG when there is none). Returns the path."""
        return write_image(path, self.tensor)

    def _repr_png_(self) -> bytes:
        return encode(self.image)

    def __repr__(self) -> str:
        channels, height, width = self.tensor.shape
        return f"Picture({channels} x {height} x {width}{f', {self.caption!r}' if self.caption else ''})"


class Pictures(Sequence[Picture]):
    """Pictures of one run, ``tensor`` ``(B, C, H, W)`` float in [-1, 1]; a list of :class:`Picture` that shows itself as a sheet."""

    def __init__(self, tensor: Tensor, captions: Sequence[str] | None = None) -> None:
        """Wrap a batch.

        Raises:
            ValueError: if it is not a batch of pictures, or has another number of captions.
        """
        if tensor.ndim != 4 or tensor.shape[1] not in (1, 3):
            raise ValueError(f"pictures are (B, 1 or 3, H, W), not {tuple(tensor.shape)}")
        if captions is not None and len(captions) != len(tensor):
            raise ValueError(f"{len(tensor)} pictures need as many captions, not {len(captions)}")
        self.tensor = tensor
        self.captions = list(captions) if captions is not None else None

    def __len__(self) -> int:
        return len(self.tensor)

    @overload
    def __getitem__(self, index: int) -> Picture: ...
    @overload
    def __getitem__(self, index: slice) -> Pictures: ...
    def __getitem__(self, index: int | slice) -> Picture | Pictures:
        if isinstance(index, slice):
            return Pictures(self.tensor[index], None if self.captions is None else self.captions[index])
        index = range(len(self))[index]
        return Picture(self.tensor[index], self.captions[index] if self.captions else "")

    def __iter__(self) -> Iterator[Picture]:
        return (self[index] for index in range(len(self)))

    def like(self, tensor: Tensor) -> Pictures:
        """Others in their places, ``(B, C, H, W)``, of the same captions."""
        return Pictures(tensor, self.captions)

    def sheet(self, columns: int = 8, scale: int = 1) -> Image.Image:
        """All of them on one contact sheet, with their captions."""
        return sheet(to_bytes(self.tensor), columns, self.captions, scale=scale)

    def save(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write a file each (``0000.png``, ...) into a folder, or, if the path has a picture's suffix, one contact sheet.

        Captions go beside the pictures as ``.txt`` files, so that the folder opens as a set again. Returns the pictures written.
        """
        path = Path(path)
        if path.suffix.lower() in Image.registered_extensions():
            return [write_image(path, self.sheet())]
        path.mkdir(parents=True, exist_ok=True)
        written = []
        for index, picture in enumerate(self):
            written.append(picture.save(path / f"{index:04d}.png"))
            if picture.caption:
                (path / f"{index:04d}.txt").write_text(picture.caption + "\n", "utf-8")
        return written

    def _repr_png_(self) -> bytes:
        return encode(self.sheet())

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
