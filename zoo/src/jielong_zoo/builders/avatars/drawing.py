"""A speaking face: one drawing a mouth shape, and one with closed eyes, of which the frames of clips are composed."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from jielong.data.built import BuildError
from jielong.evaluation.judges.avatars import EYES, MOUTH, SHAPES, SIZE
from jielong_zoo.builders.avatars.mouths import DRAWINGS, REST
from jielong_zoo.builders.faces.dataset import rounded
from jielong_zoo.builders.faces.drawing import Face, draw
from jielong_zoo.builders.faces.tables import STYLES

STYLE = "toon-head"
VIEW = "154 120 460 460"
"""The face in Toon Head's drawings of 768 x 768."""
PLACE = "translate(384 500) scale(1.15)"
"""Of mouths."""
OPEN_EYES, CLOSED_EYES = "happy", "humble"

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Speaker(Face):
    """A face of Toon Head with a mouth of our own.

    Attributes:
        mouth: Of :data:`~jielong_zoo.builders.avatars.mouths.SHAPES`.
        eyes: Variant of Toon Head.
    """

    mouth: str = REST
    eyes: str = OPEN_EYES

    def order(self) -> str:
        """A line of JSON for the drawing process."""
        options = STYLES[self.style].options(self.attributes, self.seed) | {
            "eyes": [self.eyes],
            "mouth": ["smile"],
            "eyebrows": ["neutral"],
        }
        mouth = f'<g transform="{PLACE}">{DRAWINGS[self.mouth]}</g>'
        return json.dumps({"style": self.style, "options": options, "mouth": mouth, "view": VIEW}) + "\n"


@dataclass(frozen=True, eq=False)
class Looks:
    """The drawings of one face.

    Attributes:
        face: What is drawn.
        mouths: The face with each mouth shape, ``(64, 64, 3)``.
        blink: The face with closed eyes.
    """

    face: Face
    mouths: Mapping[str, Pixels]
    blink: Pixels

    def clip(self, shapes: Sequence[str], blinks: Sequence[bool]) -> Pixels:
        """Frames ``(T, 64, 64, 3)`` with a mouth shape and open or closed eyes each."""
        frames = np.stack([self.mouths[shape] for shape in shapes])
        top, left, height, width = EYES
        for frame, closed in zip(frames, blinks, strict=True):
            if closed:
                frame[top : top + height, left : left + width] = self.blink[top : top + height, left : left + width]
        return frames

    def sheet(self, which: str) -> Pixels:
        """What a judge compares frames with: the mouths, or open and closed ``eyes``, one above the other."""
        top, left, height, width = MOUTH if which == "mouths" else EYES
        looks = [self.mouths[shape] for shape in SHAPES] if which == "mouths" else [self.mouths[REST], self.blink]
        return np.concatenate([look[top : top + height, left : left + width] for look in looks])


def identities(count: int) -> list[Face]:
    """Faces that differ in what is visible of them, without beards, which hide mouths."""
    found: dict[str, Face] = {}
    number = 0
    while len(found) < count:
        seed = f"avatar-{number:04d}"
        attributes = STYLES[STYLE].draw(random.Random(seed)) | {"facial_hair": "none", "eyes": "open", "expression": None}
        found.setdefault(json.dumps(attributes), Face(STYLE, attributes, seed))
        number += 1
    return list(found.values())


def looks(faces: Sequence[Face], modules: Path) -> list[Looks]:
    """Draw the faces.

    Raises:
        BuildError: if Node.js or a package is missing, or a mouth or a blink changes pixels elsewhere, as other versions may.
    """
    orders = [
        Speaker(face.style, face.attributes, face.seed, mouth, eyes)
        for face in faces
        for mouth, eyes in [*((shape, OPEN_EYES) for shape in SHAPES), (REST, CLOSED_EYES)]
    ]
    pictures = [rounded(pixels) for pixels in draw(orders, modules, SIZE)]
    found = []
    for place, face in enumerate(faces):
        *mouths, blink = pictures[place * (len(SHAPES) + 1) : (place + 1) * (len(SHAPES) + 1)]
        each = Looks(face, dict(zip(SHAPES, mouths, strict=True)), blink)
        for other, box in [*((mouth, MOUTH) for mouth in mouths), (blink, EYES)]:
            changed = (other != each.mouths[REST]).any(-1)
            changed[box[0] : box[0] + box[2], box[1] : box[1] + box[3]] = False
            if changed.any():
                raise BuildError(f"a mouth or a blink of {face.seed} changes {changed.sum()} pixels outside its place {box}")
        found.append(each)
    return found
