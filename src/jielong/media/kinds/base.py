"""What a kind of media knows: how its items are described, read, fitted, shown and wrapped. A new kind is one class and `register`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from jielong.config.data import DataSettings
from jielong.core.json import JSON
from jielong.core.medium import Axes, Medium
from jielong.core.modules import import_modules
from jielong.media.augmentation import Augmentation
from jielong.media.inspection import Inspector
from jielong.media.results import ResultItem, Results

Content = Any
"""One undecoded item: the bytes of a file, or what a source holds in their place, such as an open PIL image."""


class MediaKind(ABC):
    """A kind of media.

    Attributes:
        name: In recipes, checkpoints and tables.
        axes: Of its items.
        noun: One item and several, for messages.
        settings: Its keys of a recipe's `data:` section.
        native: Keys of `settings`, and ``channels``, at which a source is used that says nothing else.
        suffixes: Of its files.
        shared: Of ``suffixes``, those whose files are taken for another kind unless this one is asked for.
        by_path: Whether :meth:`decode` takes the path of a file in place of its bytes, since it reads parts of large files.
        written: Endings of files that one item is written to; ``suffixes`` by default.
        columns: Usual names of its column in a Parquet table.
        fills: Whether every item is cut or continued to the length of the medium, so that none has to be read to know it.
        sample_count: Items of the sample grid that training writes.
        measured_count: Held-out items measured while training.
    """

    name: ClassVar[str]
    axes: ClassVar[Axes]
    noun: ClassVar[tuple[str, str]]
    settings: ClassVar[type[DataSettings]]
    native: ClassVar[Mapping[str, int]]
    suffixes: ClassVar[frozenset[str]]
    shared: ClassVar[frozenset[str]] = frozenset()
    by_path: ClassVar[bool] = False
    written: ClassVar[Sequence[str]] = ()
    columns: ClassVar[Sequence[str]] = ()
    fills: ClassVar[bool] = False
    sample_count: ClassVar[int] = 16
    measured_count: ClassVar[int] = 512

    @abstractmethod
    def medium(self, settings: DataSettings, channels: int) -> Medium:
        """The medium that settings describe.

        Raises:
            ValueError: if such channels or sizes are impossible.
        """

    @abstractmethod
    def keys_of(self, medium: Medium) -> JSON:
        """The keys of the `data:` section that describe a medium."""

    @abstractmethod
    def check_header(self, source: bytes | Path, name: str = "") -> None:
        """Raise ``ValueError`` if a file's header shows that it cannot be used; nothing is decoded."""

    @abstractmethod
    def decode(self, content: Content, name: str, medium: Medium, settings: DataSettings) -> Tensor:
        """An item fitted to a medium, ``(C, *size)`` in the smallest type that holds it; along time its own length.

        Raises:
            ValueError: if it cannot be decoded; the text names it.
        """

    def folders(self, files: Sequence[Path]) -> Mapping[Path, Sequence[Path]]:
        """Of files below a folder, the folders that are one item each, with the files in them; none by default."""
        return {}

    def fitted(self, media: Tensor, medium: Medium) -> Tensor:
        """Items ``(B, C, *)`` float at a medium's size, resampled as :meth:`decode` does: by area by default."""
        return F.interpolate(media, size=medium.size, mode="area")

    def divides(self, settings: DataSettings) -> bool:
        """Whether settings ask for several items of a long one; never by default."""
        return False

    def cuts(self, content: Content, name: str, medium: Medium, settings: DataSettings) -> Sequence[int]:
        """Where along time the parts of an item begin, at the medium's rate; each is as long as the medium.

        Raises:
            ValueError: if it cannot be read; the text names it.
        """
        return [0]

    def part(self, content: Content, start: int) -> Content:
        """What :meth:`decode` takes for the part that begins at ``start``."""
        return content

    def augmentation(self, settings: DataSettings) -> Augmentation | None:
        """The random changes of training items that settings name; none by default."""
        return None

    def decode_canvas(self, content: Content, name: str, medium: Medium, settings: DataSettings) -> Tensor:
        """What random crops are cut from, as :meth:`decode` but larger; raises ``ValueError`` if it cannot be decoded."""
        return self.decode(content, name, medium, settings)

    @abstractmethod
    def to_float(self, stored: Tensor) -> Tensor:
        """What :meth:`decode` returns, as float32 in [-1, 1]."""

    def frames_of(self, content: Content, name: str, medium: Medium) -> int | None:
        """Length along time that :meth:`decode` would give, from the header alone; ``None`` where only decoding tells."""
        return None

    @abstractmethod
    def preprocessing(self, medium: Medium, settings: DataSettings) -> str:
        """Everything that :meth:`decode` depends on beside the content, for the fingerprint of a set."""

    def read(self, path: Path, medium: Medium, settings: DataSettings | None = None) -> Tensor:
        """A file as ``(C, *size)`` float32 in [-1, 1]; along time its own length.

        Raises:
            ValueError: if it cannot be decoded.
        """
        return self.to_float(self.decode(path.read_bytes(), str(path), medium, settings or self.settings()))

    @abstractmethod
    def wrap(
        self, media: Tensor, medium: Medium, captions: Sequence[str] | None = None, lengths: Sequence[int] | None = None
    ) -> Results[ResultItem]:
        """Items ``(B, C, *size)`` as an object that saves and shows itself; ``lengths`` are their samples along time."""

    def check_written(self, path: Path, medium: Medium) -> None:
        """Check before the work whether an item can be written to a file of this name; nothing is written.

        Raises:
            ValueError: if the ending is of another medium or unknown, or its format cannot hold the medium.
            MissingLibraryError: if a library of the format is not installed.
        """
        known = self.written or sorted(self.suffixes)
        if path.suffix.lower() not in known:
            raise ValueError(
                f"{path}: {self.noun[1]} are not written as {path.suffix}: use {', '.join(known)}, or a folder's name, without an ending"
            )

    @abstractmethod
    def inspector(self, medium: Medium, settings: DataSettings) -> Inspector:
        """Gathers what ``jielong data inspect`` reports of items, which are read by ``settings``."""


_KINDS: dict[str, MediaKind] = {}


def register(kind: MediaKind) -> MediaKind:
    """Add a kind; one of the same name is replaced."""
    _KINDS[kind.name] = kind
    return kind


def kinds() -> Mapping[str, MediaKind]:
    """All kinds by name, images first; imports the modules beside this one, which register themselves."""
    import_modules("jielong.media.kinds")
    order = sorted(_KINDS.values(), key=lambda kind: ("image", "audio", "video", kind.name).index(kind.name))  # others keep their order
    return {kind.name: kind for kind in order}


def kind_of(medium: Medium | str) -> MediaKind:
    """The kind of a medium, or of a name.

    Raises:
        ValueError: if no such kind is registered.
    """
    name = medium if isinstance(medium, str) else medium.kind
    if name not in kinds():
        raise ValueError(f"there is no kind of media called {name!r}: import the module that registers it; there are {', '.join(kinds())}")
    return kinds()[name]


def kind_of_suffix(suffix: str) -> MediaKind | None:
    """The kind that files of an ending are taken for; ``None`` if no kind has it."""
    having = [kind for kind in kinds().values() if suffix in kind.suffixes]
    return next((kind for kind in having if suffix not in kind.shared), next(iter(having), None))
