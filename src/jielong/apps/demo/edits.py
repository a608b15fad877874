"""Pictures edited in words by shipped models: a region and a new caption, or an instruction."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from jielong.config.schema import Recipe
from jielong.media.images import write_image
from jielong.system import System
from jielong.system.editing import Edit, EditSettings
from jielong.system.shipped import best_of, shipped_generators

INSTRUCTED = "faces-edits"
"""The set of pairs on which models of instructions are trained."""


@dataclass(frozen=True)
class WordEdit:
    """A change of a picture of the data set, in both ways to say it.

    Attributes:
        caption: Caption of the picture.
        region: Left, top, width and height in pixels of what may change.
        text: Caption after the change.
        instruction: The change as an instruction.
    """

    caption: str
    region: tuple[int, int, int, int]
    text: str
    instruction: str


@dataclass(frozen=True)
class EditedPicture:
    """An edit and its result.

    Attributes:
        model: Name of the model.
        words: The new caption or the instruction.
        caption: Caption of the picture before.
        before: ``(C, H, W)``.
        after: The same shape.
        region: See :class:`WordEdit`; ``None`` for an instruction.
        command: That makes the same edit.
    """

    model: str
    words: str
    caption: str
    before: Tensor
    after: Tensor
    region: tuple[int, int, int, int] | None
    command: str


def editors(data: str) -> dict[str, bool]:
    """The most accurate shipped models that edit a set's pictures by region (false) and by instruction (true), where there are any."""

    def fills(each: Recipe) -> bool:
        return each.order is not None and each.order.name == "masked" and each.head is not None and each.head.name == "softmax"

    filling = best_of(shipped_generators(data), fills)
    instructed = best_of(shipped_generators(INSTRUCTED, ("text", "picture")), lambda each: True)
    return {name: follows for name, follows in ((filling, False), (instructed, True)) if name is not None}


def edit_in_words(
    system: System, edits: Sequence[WordEdit], pictures: Mapping[str, Tensor], folder: Path, seed: int, instructed: bool
) -> list[EditedPicture]:
    """Edit those of the pictures that are there.

    Args:
        system: A model that fills regions, or is instructed.
        edits: Changes.
        pictures: Pictures ``(C, H, W)`` by caption.
        folder: Where the pictures before are written, for the commands.
        seed: Seed of all edits.
        instructed: Whether to give instructions, and not regions and captions.
    """
    found = []
    for number, each in enumerate(edits, 1):
        if each.caption not in pictures:
            continue
        before, file = pictures[each.caption], write_image(folder / f"before-{number}.png", pictures[each.caption])
        settings = EditSettings(instruction=each.instruction) if instructed else EditSettings(region=each.region)
        planned = Edit.of(system, before, settings, names_change=not instructed)
        items = planned.draw(seed=seed) if instructed else planned.draw(text=each.text, seed=seed)
        what = f"--instruction {shlex.quote(each.instruction)}"
        if not instructed:
            what = f"--region {','.join(map(str, each.region))} --text {shlex.quote(each.text)}"
        command = f"jielong edit {system.name} {shlex.quote(str(file))} {what} --seed {seed} --out after-{number}.png"
        words, region = (each.instruction, None) if instructed else (each.text, each.region)
        found.append(EditedPicture(system.name, words, each.caption, before, items.tensor[0], region, command))
    return found
