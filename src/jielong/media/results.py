"""Generated items of one run, which save and show themselves; kinds of media derive theirs."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Generic, Protocol, Self, TypeVar, overload

from PIL import Image
from torch import Tensor

from jielong.media.images import WRITTEN, encode, write_image


class ResultItem(Protocol):
    """One item: ``tensor`` is ``(C, *size)`` float in [-1, 1]; ``caption`` is the prompt it was generated for."""

    @property
    def tensor(self) -> Tensor:
        """The item."""
        ...

    @property
    def caption(self) -> str:
        """Its prompt."""
        ...

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it, whole or not at all; the suffix says the format."""
        ...


Item = TypeVar("Item", bound=ResultItem, covariant=True)


class Results(Sequence[Item], ABC, Generic[Item]):
    """A batch of items, ``tensor`` ``(B, C, *size)`` float in [-1, 1], as a list that saves and shows itself.

    Attributes:
        tensor: All items.
        captions: One an item, or ``None``.
        lengths: Samples or frames along time of each item, where they differ, or ``None``.
        suffix: Of the file of one item.
        sample_columns: Columns of the sample grids that training writes.
        sample_suffix: Of a file with all items that training writes beside the grid, where an image does not show enough.
        sheet_suffixes: Of image files that get the sample grid.
    """

    suffix: ClassVar[str]
    sample_columns: ClassVar[int] = 8
    sample_suffix: ClassVar[str | None] = None
    sheet_suffixes: ClassVar[Sequence[str]] = tuple(WRITTEN)
    tensor: Tensor
    captions: list[str] | None
    lengths: list[int] | None = None

    def __init__(self, tensor: Tensor, captions: Sequence[str] | None = None) -> None:
        """Wrap a batch.

        Raises:
            ValueError: if there are not as many captions as items.
        """
        if captions is not None and len(captions) != len(tensor):
            raise ValueError(f"{len(tensor)} items need as many captions, not {len(captions)}")
        self.tensor, self.captions = tensor, None if captions is None else list(captions)

    @abstractmethod
    def item(self, index: int) -> Item:
        """One item, by an index from 0."""

    @abstractmethod
    def select(self, rows: slice) -> Self:
        """Some of the items."""

    @abstractmethod
    def like(self, tensor: Tensor) -> Self:
        """Other media with the captions and lengths of these."""

    @abstractmethod
    def sheet(self, columns: int = 8, scale: int = 1) -> Image.Image:
        """All items on one sample grid, with their captions."""

    @abstractmethod
    def summary(self, seconds: float) -> str:
        """How many items took ``seconds`` to generate, for a message."""

    def save_joined(self, path: Path) -> Path:
        """All items in one file that is no image.

        Raises:
            ValueError: if the suffix is unknown.
        """
        raise ValueError(f"{path}: {path.suffix!r} is not a format of these items: give a folder, or an image file for a sample grid")

    def __len__(self) -> int:
        return len(self.tensor)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Item | Self:
        return self.select(index) if isinstance(index, slice) else self.item(range(len(self))[index])

    def __iter__(self) -> Iterator[Item]:
        return (self.item(index) for index in range(len(self)))

    def _caption(self, index: int) -> str:
        return self.captions[index] if self.captions else ""

    def save(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write a file per item (``0000.png``, ...) into a folder; an image file gets the sample grid, another file all items joined.

        Captions go beside the items as ``.txt`` files, so that the folder opens as a data set. Returns the media files written.
        """
        path = Path(path)
        if path.suffix.lower() in self.sheet_suffixes and not path.is_dir():
            return [write_image(path, self.sheet())]
        if path.suffix and not path.is_dir():
            return [self.save_joined(path)]
        path.mkdir(parents=True, exist_ok=True)
        written = []
        for index, item in enumerate(self):
            written.append(item.save(path / f"{index:04d}{self.suffix}"))
            if item.caption:
                (path / f"{index:04d}.txt").write_text(item.caption + "\n", "utf-8")
        return written

    def _repr_png_(self) -> bytes:
        return encode(self.sheet())
