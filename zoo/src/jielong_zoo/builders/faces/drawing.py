"""Pictures of attributes, drawn by DiceBear and resvg in a process of Node.js."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from jielong.data.built import BuildError
from jielong_zoo.builders.faces.styles import Attributes
from jielong_zoo.builders.faces.tables import STYLES

VERSION = "9.4.3"
PACKAGES = (f"@dicebear/core@{VERSION}", *(f"@dicebear/{name}@{VERSION}" for name in STYLES), "@resvg/resvg-js@2.6.2")
"""From npm; other versions may draw other pixels."""
SCRIPT = Path(__file__).with_name("render.mjs")

Pixels = npt.NDArray[np.uint8]
Combination = tuple[str, str, str]
"""Style, hair (or the hat that hides it) and its colour."""


@dataclass(frozen=True)
class Face:
    """A person to draw.

    Attributes:
        style: Of :data:`~jielong_zoo.builders.faces.tables.STYLES`.
        attributes: What is visible of it.
        seed: Chooses what no attribute describes.
    """

    style: str
    attributes: Attributes
    seed: str

    @property
    def combination(self) -> Combination | None:
        """Style, hair and its colour, a hat standing for hair that it hides; ``None`` where there is no colour to combine."""
        a = self.attributes
        kind, colour = (a["hair"], a["hair_color"]) if a["hair"] is not None else (a["hat"], a["hat_color"])
        return None if kind is None or colour is None else (self.style, kind, colour)

    def order(self) -> str:
        """A line of JSON for the drawing process."""
        return json.dumps({"style": self.style, "options": STYLES[self.style].options(self.attributes, self.seed)}) + "\n"


def draw(faces: Sequence[Face], modules: Path, size: int) -> Iterator[Pixels]:
    """RGB pictures ``(size, size, 3)`` over white, in the order of the faces.

    Args:
        faces: What to draw.
        modules: A ``node_modules`` folder with :data:`PACKAGES`.
        size: Side in pixels.

    Raises:
        BuildError: if Node.js is missing, or the drawing fails.
    """
    node = shutil.which("node")
    if node is None:
        raise BuildError("building 'faces' needs `node` on the PATH; install Node.js (Debian: apt install nodejs)")
    command = [node, str(SCRIPT), str(modules.resolve()), str(size)]
    with tempfile.TemporaryFile() as orders, tempfile.TemporaryFile() as errors:
        orders.writelines(face.order().encode() for face in faces)
        orders.seek(0)
        with subprocess.Popen(command, stdin=orders, stdout=subprocess.PIPE, stderr=errors) as process:
            for number in range(len(faces)):
                data = b"" if process.stdout is None else process.stdout.read(size * size * 4)
                if len(data) < size * size * 4:
                    process.wait()
                    errors.seek(0)
                    last = " ".join(errors.read().decode(errors="replace").strip().splitlines()[-5:])
                    raise BuildError(f"drawing face {number} of {len(faces)} with the packages in {modules} failed: {last}")
                yield np.frombuffer(data, np.uint8).reshape(size, size, 4)[..., :3]
